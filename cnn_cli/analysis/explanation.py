"""`cnn shapes --explain`: what each layer does and where its numbers come from, and which pixels are never used."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

from cnn_cli.analysis import input_sizes as inputs
from cnn_cli.analysis.memory import output_bytes
from cnn_cli.analysis.receptive_field import Field, Sight, field, never_read, producer, sights, unused
from cnn_cli.analysis.rows import described
from cnn_cli.analysis.shapes import passage
from cnn_cli.errors import UsageError, closest
from cnn_cli.language.detection_scales import infer_scales
from cnn_cli.language.input_hint import is_flat
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.layers import sizes
from cnn_cli.layers.formulas import AXES, Formula, derivation
from cnn_cli.layers.taps import EVERYTHING
from cnn_cli.tables import Column, Table, counted, format_bytes, terminal_width


@dataclass(frozen=True)
class Explanation:
    """The explanation of a layer: what it does, and a few lines under each heading."""

    layer: Layer
    what: str
    parts: dict[str, tuple[str, ...]]

    def document(self) -> dict[str, Any]:
        return {
            "name": self.layer.name,
            "type": self.layer.type,
            "what": self.what,
            **{k: list(v) for k, v in self.parts.items()},
        }


def explain(plan: Plan, name: str | None = None) -> list[Explanation]:
    """Every layer, or the one called `name`, or those of the group of that name; UsageError if there is none."""
    chosen = [layer for layer in plan.layers if name is None or layer.name == name or layer.name.startswith(f"{name}.")]
    if not chosen and name is not None:
        names = [layer.name for layer in plan.layers]
        raise UsageError(
            f"{plan.network} has no layer {name!r}.{closest(name, names)} `cnn summary {plan.network}` shows all"
        )
    seen = sights(plan)
    return [_explanation(plan, layer, seen) for layer in chosen]


def text(explanations: Sequence[Explanation]) -> str:
    """The explanations as paragraphs, wrapped to the terminal."""
    if not explanations:
        return "no layers: the output is the input"
    return "\n\n".join(_paragraph(e) for e in explanations)


def table(explanations: Sequence[Explanation]) -> Table:
    """A row for each layer, for CSV and Markdown."""
    headings = list(dict.fromkeys(heading for e in explanations for heading in e.parts))
    lines = [
        {"name": e.layer.name, "layer": described(e.layer), "shapes": passage(e.layer), "what": e.what}
        | {heading: "\n".join(content) for heading, content in e.parts.items()}
        for e in explanations
    ]
    return Table(tuple(Column(key, key, wraps=True) for key in ("name", "layer", "shapes", "what", *headings)), lines)


def never_used(plan: Plan) -> list[str]:
    """Which rows and columns of the image reach no output, and which layers drop them; empty if all are used."""
    missing, sides = unused(plan, sights(plan)), plan.input[1:]
    if not any(missing):
        return []
    names = ("row", "column") if len(sides) == 2 else ("value",)
    parts = [_which(lost, size, name) for lost, size, name in zip(missing, sides, names, strict=True) if lost]
    lost = " and ".join(parts)
    lines = [f"{lost[0].upper()}{lost[1:]} of the {sizes(sides)} {plan.input_kind} reach no output."]
    dropping = [(layer, dropped) for layer in plan.layers if (dropped := _dropped(layer))]
    alone = "; no other layer does" if len(dropping) == 1 else ""
    for layer, dropped in dropping:
        lines.append(
            f"{layer.name} ({described(layer)}) gets {sizes(layer.input_shape[1:])} and leaves out {dropped}{alone}."
        )
    if (len(set(sides)) == 1 or is_flat(plan.input)) and (near := inputs.near(plan)):
        better = " and ".join(sizes(shape[1:]) for shape in near)
        lines.append(f"{better} would use all of it; `cnn shapes {plan.network} --valid-inputs` shows more.")
    return lines


def _explanation(plan: Plan, layer: Layer, seen: dict[str, Sight]) -> Explanation:
    rule, s = layer.rule, layer.settings
    parts = {"size": derivation(layer.sizes)}
    parts["parameters"] = derivation([rule.parameters(s)]) if layer.params else ()
    if layer.shares_weights:
        parts["parameters"] = (f"shared with {layer.shared_with}, counted there",)
    if buffers := sum(prod(t.shape) for t in layer.tensors if t.buffer):
        parts["buffers"] = (f"{counted(buffers, 'value')} not trained",)
    parts["MACs"] = derivation([rule.macs(s, layer.input_shape, layer.output_shape)]) if layer.macs else ()
    if schemes := rule.schemes(s, layer.input_shape):
        parts["padding"] = (schemes,)
    parts["receptive field"] = _receptive_field(plan, layer, seen)
    parts["cells"] = _cells(plan, layer)
    if dropped := _dropped(layer):
        parts["unused"] = (f"{dropped} of the {sizes(layer.input_shape[1:])} input",)
    if output_bytes(layer) and layer.output_shape != layer.input_shape:
        count = Formula(lambda n: n, {"n": layer.output_shape}).numbers
        parts["memory"] = (
            f"{count} value{'s' * (count != '1')}, {format_bytes(output_bytes(layer))} per image in float32",
        )
    text = rule.explain if isinstance(rule.explain, str) else rule.explain(s, layer.arrives, layer.output_shape)
    text = text.format(**s) if isinstance(rule.explain, str) else text
    return Explanation(layer, text, {heading: lines for heading, lines in parts.items() if lines})


def _receptive_field(plan: Plan, layer: Layer, seen: dict[str, Sight]) -> tuple[str, ...]:
    """Size, stride and offset in pixels of the image, and how a window enlarges the size."""
    now = field(seen[layer.name], plan.input[1:])
    before = field(seen[producer(layer.takes[0], seen)], plan.input[1:]) if layer.takes else None
    if now is None or now == before:
        return ()
    if now.whole:
        return (f"the whole {plan.input_kind}",)
    stride = ""
    if None not in now.stride:
        one = dict.fromkeys(_fraction(n) for n in now.stride)
        stride = f", stride (jump) {'x'.join(one)}{' on average' if now.average else ''}"
    offset = "x".join(f"{n}".replace("-", "−") for n in dict.fromkeys(now.offset))
    unit = "pixels" if len(now.size) == 2 else "values"
    return (*(_growth(layer, before, now) if before else ()), f"{sizes(now.size)} {unit}{stride}, offset {offset}")


def _cells(plan: Plan, layer: Layer) -> tuple[str, ...]:
    """For the outputs of a detector, the meaning of a cell and the pixel that it belongs to; empty for other layers."""
    ends = dict(zip(plan.named_outputs, plan.ends, strict=True)) if plan.detects else {}
    for scale in infer_scales(plan):
        step, half = scale.stride, f"{scale.stride / 2:g}"
        origin = "origin" if scale.corner else "center"
        if layer.name == ends[scale.scores]:
            pixel = f"pixel ({step}·column + {half}, {step}·row + {half})"
            if scale.corner:
                pixel = f"pixel ({scale.corner[1]}·column, {scale.corner[0]}·row)"
            near = "one score per class, for an object centered near that pixel"
            if scale.anchors:
                near = f"one score per class and anchor: {len(scale.anchors)} boxes centered on that pixel"
            return f"{sizes(scale.size)}, {step} pixels apart; the {origin} of a cell is {pixel}", near
        if layer.name == ends[scale.boxes]:
            if scale.anchors:
                return ("offsets of the center, relative to the size of each anchor, and log factors of its size",)
            edges = "to the left, upper, right and lower edge of the box"
            return (f"distances from the {origin} of the cell {edges}, in units of {step} pixels",)
        if scale.centerness and layer.name == ends[scale.centerness]:
            return ("how close the cell is to the center of the object (logit); it multiplies the scores",)
    return ()


def _growth(layer: Layer, before: Field, now: Field) -> tuple[str, ...]:
    """`4 + (3 − 1)·2 = 8`, if the layer is a plain window over rows and columns."""
    formulas = []
    for n, label in enumerate(AXES[len(before.size)]):
        window, size, gap = layer.taps.get(1 + n), before.size[n], before.stride[n]
        if (
            len(layer.input_shape) != len(before.size) + 1
            or window is EVERYTHING
            or len(window.phases) != 1
            or gap is None
        ):
            return ()
        wide = window.phases[0][-1] - window.phases[0][0] + 1
        formulas.append(
            Formula(lambda r, w, j: r + (w - 1) * j, {"r": size, "w": wide, "j": Fraction(_fraction(gap))}, label)
        )
    exact = all((f.inputs["w"] - 1) * f.inputs["j"] % 1 == 0 for f in formulas)
    grows = exact and now.size != before.size and now.size == tuple(formula.value for formula in formulas)
    return derivation(formulas) if grows else ()


def _fraction(value: float | None) -> str:
    """A stride as a fraction: after upsampling, neighbors can be less than a pixel of the image apart, such as 1/3."""
    return str(Fraction(value or 0).limit_denominator(9999))


def _dropped(layer: Layer) -> str:
    """`the last row and the last column` of its input that a layer does not read; empty if it reads all."""
    axes = ("row", "column") if len(layer.input_shape) == 3 else ("value",)
    left = never_read(layer)
    parts = [_which(left[1 + n], layer.input_shape[1 + n], word) for n, word in enumerate(axes) if 1 + n in left]
    return " and ".join(parts)


def _which(lost: Sequence[int], size: int, word: str) -> str:
    """The lost ones of `size` positions in words, counted from 1."""
    count = len(lost)
    many = f"{word}s" if count > 1 else word
    if list(lost) == list(range(size - count, size)):
        return f"the last {count} {many}" if count > 1 else f"the last {word}"
    if list(lost) == list(range(count)):
        return f"the first {count} {many}" if count > 1 else f"the first {word}"
    if count > 6:
        return f"{count} of the {size} {word}s ({', '.join(str(i + 1) for i in lost[:3])}, …)"
    return f"{many} {', '.join(str(i + 1) for i in lost)}"


def _paragraph(explanation: Explanation) -> str:
    layer, width = explanation.layer, terminal_width()
    head = f"{layer.name}  {described(layer)}", passage(layer)
    lines = ["   ".join(head)] if len("   ".join(head)) <= width else [head[0], f"  {head[1]}"]
    lines += textwrap.wrap(explanation.what, width - 2, initial_indent="  ", subsequent_indent="  ")
    for heading, content in explanation.parts.items():
        for n, line in enumerate(content):
            start = f"  {heading if n == 0 else '':<15}  "
            wrapped = textwrap.wrap(
                line, width, initial_indent=start, subsequent_indent=" " * 21, break_on_hyphens=False
            )
            lines += wrapped or [start]
    return "\n".join(lines)
