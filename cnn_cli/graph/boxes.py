"""A network as a graph: a box for each layer or folded group, and arrows with the shapes of the tensors.

Normalization, activation and dropout share the box of the layer that they follow, as textbooks draw them.
"""

import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cnn_cli.analysis.receptive_field import producer
from cnn_cli.analysis.rows import Row, layer_rows
from cnn_cli.language.plan import Plan
from cnn_cli.layers import Shape, sizes
from cnn_cli.tables import format_count

_FOLLOWING = frozenset({"activation", "normalization", "random"})


@dataclass(frozen=True)
class Box:
    """A layer or group: `lines` are below its title, and `after` the types of the layers that share its box."""

    kind: str  # input, block, convolution, linear, pooling, join, parameter, shape or point
    name: str
    title: str
    lines: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The lines below the title."""
        return [*self.lines, *([" · ".join(self.after)] if self.after else [])]


@dataclass(frozen=True)
class Arrow:
    """From one box to another, by their numbers, with the shape of the tensor."""

    start: int
    end: int
    shape: str


def collect_boxes(plan: Plan, depth: int | None) -> tuple[list[Box], list[Arrow]]:
    """The boxes in the order of computation, the input first, and the arrows between them."""
    rows = layer_rows(plan, depth=depth)
    names = {"input", *(row.name for row in rows)}
    uses = Counter(producer(name, names) for row in rows for name in row.reads)
    uses.update(producer(name, names) for name in plan.ends if plan.named_outputs)
    boxes, arrows = [Box("input", "input", "input")], list[Arrow]()
    number = {"input": 0}  # of the box that holds a row
    shapes: dict[str, Shape] = {"input": plan.input}
    last: Row | None = None
    for row in rows:
        if last and _follows(row, last) and uses[last.name] == 1:
            place = number[last.name]
            boxes[place] = replace(boxes[place], after=(*boxes[place].after, row.type))
        else:
            place = len(boxes)
            boxes.append(_box(row))
            for name, shape in zip(row.reads, row.input_shapes, strict=False):
                arrows.append(Arrow(number[producer(name, number)], place, sizes(shape)))
        number[row.name], shapes[row.name], last = place, row.output_shape, row
    for title, place, shape in _ends(plan, number, shapes, uses):
        arrows.append(Arrow(place, len(boxes), sizes(shape)))
        boxes.append(Box("input", "output", title))
    return boxes, arrows


def _ends(
    plan: Plan, number: Mapping[str, int], shapes: Mapping[str, Shape], uses: Mapping[str, int]
) -> list[tuple[str, int, Shape]]:
    """The titles of the outputs, with the number of the box that computes each, and the shapes."""
    if plan.named_outputs:
        places = [_place(row, number) for row in plan.ends]
        return [(f"output {n}", p, shape) for (n, shape), p in zip(plan.named_outputs.items(), places, strict=True)]
    ends = [name for name in number if uses[name] == 0 and name != "input"] or ["input"]
    return [("output" if len(ends) == 1 else f"output {name}", number[name], shapes[name]) for name in ends]


def _place(row: str, number: Mapping[str, int]) -> int:
    """The box of a row, or of the folded group around it."""
    while row not in number:
        row = row.rpartition(".")[0]
    return number[row]


def _follows(row: Row, last: Row) -> bool:
    """Whether a row belongs in the box of the previous one: that is its only input, and the shape is the same."""
    if not row.type or not last.type or row.takes != (last.name,) or row.output_shape != row.input_shapes[0]:
        return False
    return bool(row.layers[0].rule.traits & _FOLLOWING) and last.type != "Parameter" and not last.layers[0].pieces


def _box(row: Row) -> Box:
    if not row.type:
        params = [f"{format_count(row.params)} parameters"] if row.params else []
        return Box("block", row.name, row.name, (*_lines(row.text), *params))
    if len(row.text) <= 26:
        return Box(_kind(row), row.name, row.text)
    settings = row.text.split(", ")  # a long list of settings continues in a smaller line
    title, rest = ", ".join(settings[:2]), ", ".join(settings[2:])
    return Box(_kind(row), row.name, title, (rest,) if rest else ())


def _lines(text: str, width: int = 28) -> list[str]:
    """The content of a group, in lines of about the width of other boxes."""
    joined = re.sub(r"(\d) (\w)", "\\1\xa0\\2", text)  # a number stays beside its word
    return [line.replace("\xa0", " ") for line in textwrap.wrap(joined, width, break_long_words=False)]


def _kind(row: Row) -> str:
    rule = row.layers[0].rule
    if rule.joins or rule.pieces:
        return "join"
    for trait in ("convolution", "pooling"):
        if trait in rule.traits:
            return trait
    if rule.traits & _FOLLOWING:
        return "point"
    return {"Parameter": "parameter"}.get(row.type, "linear" if row.macs else "shape")
