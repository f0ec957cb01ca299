"""`cnn shapes --valid-inputs`: the sizes that a network accepts, those at which no layer drops a row, and outputs.

Sizes are tried one after the other. Planning a network anew takes milliseconds; passing other sizes through the layers
of its plan, as the search does, takes a tenth of that. Only the sizes that are shown are planned.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnn_cli.analysis.receptive_field import never_read, producer, sights, unused
from cnn_cli.errors import UsageError
from cnn_cli.language.expansion import expand as expand
from cnn_cli.language.input_hint import is_flat, with_side
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.layers import Shape, ShapeError, SizeOf, sizes
from cnn_cli.tables import Column, Table, TableRow, counted, format_count, render
from cnn_cli.values import parse_numbers

SECONDS = 2  # of CPU time, that a search may take
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
COMMON = (28, 32, 64, 96, 128, 192, 224, 256, 320, 384, 448, 512)


@dataclass(frozen=True)
class InputSizes:
    """Sides from 1 to `tried` that the network accepts, and those of them at which every value is read by some layer.

    A side is that of a square, or the length of a one-dimensional input. `plans` are the network at the sizes to show.
    """

    plan: Plan
    tried: int
    fitting: tuple[int, ...]
    exact: tuple[int, ...]
    plans: tuple[Plan, ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            "network": self.plan.network,
            "input": list(self.plan.input),
            "tried": self.tried,
            "smallest": self.fitting[0] if self.fitting else None,
            "fitting": list(self.fitting),
            "exact": list(self.exact),
            "sizes": [{"input_shape": list(plan.input), **self._line(plan)} for plan in self.plans],
        }

    def table(self) -> Table:
        """The last feature map, the output, the counts, and unused rows and columns of each size."""
        columns = (
            Column("input", "input"),
            Column("last_image", "last feature map"),
            Column("output", "output"),
            Column("params", "parameters", number=True),
            Column("macs", "MACs", number=True, brief=format_count),
            Column("note", "note", wraps=True),
        )
        return Table(columns, [self._line(plan) for plan in self.plans])

    def text(self) -> str:
        own = self.plan.input
        first, last = (sizes(with_side(own, side)[1:]) for side in (1, self.tried))
        kind = "inputs" if is_flat(own) else "square inputs"
        smallest = sizes(with_side(own, self.fitting[0])[1:]) if self.fitting else f"none up to {last}"
        lines = [
            f"{self.plan.network}: {kind} from {first} to {last}",
            "",
            f"smallest      {smallest}",
            f"valid         {describe_sides(self.fitting, self.tried)}",
            f"without loss  {describe_sides(self.exact, self.tried)}",
            "",
            render(self.table()),
        ]
        return "\n".join(lines)

    def _line(self, plan: Plan) -> TableRow:
        if plan.errors:
            problem = plan.errors[0]
            where = problem.where.removeprefix(f"{plan.network}, ").removeprefix("layers.")
            message = problem.message.split(";")[0]
            return {"input": sizes(plan.input), "note": f"{where}: {message}"}
        main = [layer.output_shape for layer in plan.layers if layer.name.split(".")[0] not in plan.only_in_training]
        maps = [shape for shape in main if len(shape) == len(plan.input) and max(shape[1:]) > 1]
        *rows, columns = map(len, unused(plan, sights(plan)))
        default = "default input" if plan.input == self.plan.input else ""
        lost = ", ".join([*(counted(count, "row") for count in rows), counted(columns, "column")]) + " unused"
        if is_flat(plan.input):
            lost = f"{counted(columns, 'value')} unused"
        return {
            "input": sizes(plan.input),
            "last_image": sizes(maps[-1]) if maps else "",
            "output": plan.output_sizes,
            "params": plan.params,
            "macs": plan.macs,
            "unused_rows": sum(rows),
            "unused_columns": columns,
            "note": ", ".join(part for part in (default, lost if columns or any(rows) else "") if part),
        }


def find_input_sizes(plan: Plan, sides: str | None = None) -> InputSizes:
    """Try sides from 1 up to a third more than the network's own, but at least to 256, for at most two seconds.

    sides: `28,32x48,64`, the sizes to show; by default the smallest, common ones, and those next to the network's own.
    """
    trial, end = trials(plan), time.process_time() + SECONDS
    fitting, exact, side = [], [], 0
    while side < max(256, max(plan.input[1:]) * 4 // 3) and time.process_time() < end:
        side += 1
        fits, reads_all = trial(with_side(plan.input, side))
        fitting += [side] * fits
        exact += [side] * (fits and reads_all)
    result = InputSizes(plan, side, tuple(fitting), tuple(exact))
    shapes = _shown(result) if sides is None else parse_sides(sides, plan)
    return replace(result, plans=tuple(replan(plan, shape) for shape in shapes))


def replan(plan: Plan, shape: Shape) -> Plan:
    """The same network for another input, with mistakes in `problems` if that does not fit."""
    return replace(expand(replace(plan.spec, input=shape)), input=shape)


def trials(plan: Plan) -> Callable[[Shape], tuple[bool, bool]]:
    """A function of an input shape: is it valid, and does some layer read every row of every value?"""
    takers: dict[str, int] = {}
    known = {"input", *(layer.name for layer in plan.layers)}
    for layer in plan.layers:
        for name in layer.reads:
            takers[producer(name, known)] = takers.get(producer(name, known), 0) + 1
    kinds: dict[str, int] = {}
    kind = [kinds.setdefault(repr((layer.type, layer.settings, layer.written)), len(kinds)) for layer in plan.layers]
    cache: dict[tuple[int, tuple[Shape, ...]], tuple[Layer | None, Any]] = {}

    def trial(shape: Shape) -> tuple[bool, bool]:
        shapes, lost, waiting = {"input": shape}, dict[str, Any](), dict(takers)
        reads_all = True
        for layer, number in zip(plan.layers, kind, strict=True):
            inputs = tuple(shapes[name] for name in layer.takes)
            if (number, inputs) not in cache:
                cache[number, inputs] = _pass_through(layer, inputs)
            out, dropped = cache[number, inputs]
            if out is None:
                return False, False
            shapes[layer.name] = out.output_shape
            shapes.update((f"{layer.name}.{n}", piece) for n, piece in enumerate(out.pieces))
            # a value is lost if all layers that take the tensor drop it
            for name in (producer(name, known) for name in layer.reads):
                lost[name] = dropped if name not in lost else lost[name] & dropped
                waiting[name] -= 1
                reads_all = reads_all and not (waiting[name] == 0 and lost[name])
        return True, reads_all

    return trial


def _pass_through(layer: Layer, inputs: tuple[Shape, ...]) -> tuple[Layer | None, frozenset[tuple[int, int]]]:
    """A layer with these inputs, and each (axis, position) that it does not read; None if they do not fit."""
    rule, nothing = layer.rule, frozenset[tuple[int, int]]()
    try:
        inferred = rule.infer(inputs[0]) if inputs and not rule.joins else {}
        if any(layer.settings[k] != v for k, v in inferred.items() if k in layer.written):
            return None, nothing
        settings = {**layer.settings, **inferred}
        if name := layer.size_of:
            settings[name] = SizeOf(inputs[-1], settings[name].name)
        out = rule.output(settings, inputs if rule.joins else inputs[0] if inputs else ())
    except ShapeError:
        return None, nothing
    resized = replace(layer, settings=settings, input_shapes=inputs, output_shape=out)
    if not inputs or rule.joins:
        return resized, nothing
    return resized, frozenset((axis, i) for axis, left in never_read(resized).items() for i in left)


def near(plan: Plan) -> list[Shape]:
    """The closest square inputs below and above the network's own, or lengths, at which nothing is dropped."""
    trial, own, end = trials(plan), plan.input[-1], time.process_time() + SECONDS

    def first(sides: Iterable[int]) -> list[Shape]:
        possible = (with_side(plan.input, s) for s in sides if s > 0 and time.process_time() < end)
        return [shape for shape in possible if trial(shape)[1]][:1]

    return first(range(own - 1, own - 65, -1)) + first(range(own + 1, own + 65))


def describe_sides(sides: Sequence[int], tried: int) -> str:
    """Sizes in words.

    >>> describe_sides(range(10, 99), 98), describe_sides(range(10, 99, 4), 98), describe_sides(range(32, 99, 32), 98)
    ('every size from 10', '10, 14, 18, … (4·k + 2)', '32, 64, 96, … (multiples of 32)')
    """
    if len(sides) < 3:
        return " and ".join(map(str, sides)) or f"none up to {tried}"
    first, fitting = sides[0], set(sides)
    step = next((m for m in range(1, (tried - first) // 2 + 1) if _repeats(fitting, first, tried, m)), 0)
    if step == 1:
        return f"every size from {first}"
    runs = [n for n in sides if n - 1 not in fitting][:3]
    shown = [
        str(n) if n + 1 not in fitting else f"{n}–{next(m for m in range(n, tried + 2) if m not in fitting) - 1}"
        for n in runs
    ]
    if not step:
        return f"{', '.join(shown)}, …"
    if sum(first <= n < first + step for n in sides) > 1:
        return f"{', '.join(shown)}, … (again every {step})"
    return f"{', '.join(shown)}, … ({f'multiples of {step}' if first % step == 0 else f'{step}·k + {first % step}'})"


def _repeats(fitting: set[int], first: int, tried: int, step: int) -> bool:
    return all((n in fitting) == (n + step in fitting) for n in range(first, tried - step + 1))


def _shown(result: InputSizes) -> list[Shape]:
    """The smallest size, common ones, and those next to the network's own."""
    own = result.plan.input[-1]
    near = {s for s in result.exact if own - 40 <= s <= own + 40 and own not in result.exact}
    below, above = max((s for s in near if s < own), default=0), min((s for s in near if s > own), default=0)
    common = {
        s
        for s in (LENGTHS if is_flat(result.plan.input) else COMMON)
        if result.fitting and result.fitting[0] <= s <= max(1.8 * own, 64)
    }
    shown = sorted({*result.fitting[:1], below, above, *common} - {0, own})
    shapes = [result.plan.input, *(with_side(result.plan.input, side) for side in shown)]
    return sorted(shapes, key=lambda shape: shape[-1])


_MOST_SIDES = 200


def _expanded(text: str) -> list[str]:
    """The parts of a list, ranges such as `24-32` as their numbers."""
    parts = list[str]()
    for part in text.replace(" ", "").split(","):
        try:
            parts += map(str, parse_numbers(part)) if "-" in part else [part]
        except ValueError:
            parts.append(part)  # which is refused
    return parts


def parse_sides(text: str, plan: Plan) -> list[Shape]:
    """`28,32x48` or `24-32` as input shapes of the network; UsageError for anything else."""
    shapes, most, parts = list[Shape](), len(plan.input) - 1, _expanded(text)
    if len(parts) > _MOST_SIDES:
        raise UsageError(f"--sizes takes at most {_MOST_SIDES} sizes, not {len(parts):,}")
    for part in parts:
        numbers = part.lower().split("x")
        if not 1 <= len(numbers) <= most or not all(
            n.isascii() and n.isdigit() and len(n) < 7 and int(n) for n in numbers
        ):
            form = "sides in pixels, such as 28,32,48x64 or 24-32" if most == 2 else "lengths, such as 1000,8000"
            raise UsageError(f"--sizes takes {form}, not {part!r}")
        one = len(numbers) == 1
        shapes.append(with_side(plan.input, int(numbers[0])) if one else (plan.input[0], *map(int, numbers)))
    return shapes
