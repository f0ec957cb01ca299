"""Which input sizes a network takes: the smallest, those at which no layer drops a row, and what comes out of each.

Sizes are tried, one after the other. To plan a network anew takes milliseconds; walking through the layers of its plan
with other sizes takes a tenth of that, and is what the search does. What is shown in the end has been planned.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnn_cli.analysis.receptive_field import never_read, producer, sights, unused
from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.layers import Misfit, Shape, sizes
from cnn_cli.tables import Column, Table, short

SECONDS = 2  # that a search may take
COMMON = (28, 32, 64, 96, 128, 192, 224, 256, 320, 384, 448, 512)


@dataclass(frozen=True)
class Inputs:
    """Square sizes from 1 to `tried` that fit, and those of them at which every value is read by some layer."""

    tried: int
    fitting: tuple[int, ...]
    exact: tuple[int, ...]


def resized(plan: Plan, shape: Shape) -> Plan:
    """The same network for another input, with its mistakes in `problems` where that does not fit."""
    from cnn_cli.language.expand import plan as expand

    return expand(replace(plan.spec, input=shape))


def search(plan: Plan) -> Inputs:
    """Try square sizes from 1 up to a third more than the network's own, but at least to 256."""
    trial, end = trials(plan), time.perf_counter() + SECONDS
    fitting, exact, size = [], [], 0
    while size < max(256, max(plan.input[1:]) * 4 // 3) and time.perf_counter() < end:
        size += 1
        fits, whole = trial((plan.input[0], size, size))
        fitting += [size] * fits
        exact += [size] * (fits and whole)
    return Inputs(size, tuple(fitting), tuple(exact))


def trials(plan: Plan) -> Callable[[Shape], tuple[bool, bool]]:
    """A function of an input shape: does it fit, and does it fit without a layer dropping rows that no other layer
    reads?"""
    takers: dict[str, int] = {}
    known = {"input", *(layer.name for layer in plan.layers)}
    for layer in plan.layers:
        for name in layer.takes:
            takers[producer(name, known)] = takers.get(producer(name, known), 0) + 1
    kinds: dict[str, int] = {}
    kind = [kinds.setdefault(repr((layer.type, layer.settings, layer.written)), len(kinds)) for layer in plan.layers]
    cache: dict[tuple[int, tuple[Shape, ...]], tuple[Shape | None, Any]] = {}

    def trial(shape: Shape) -> tuple[bool, bool]:
        shapes, lost, waiting = {"input": shape}, dict[str, Any](), dict(takers)
        whole = True
        for layer, number in zip(plan.layers, kind, strict=True):
            names = [producer(name, shapes) for name in layer.takes]
            arrives = tuple(shapes[name] for name in names)
            if (number, arrives) not in cache:
                cache[number, arrives] = _passed(layer, arrives)
            out, dropped = cache[number, arrives]
            if out is None:
                return False, False
            shapes[layer.name] = out
            for name in names:  # a value is lost where all that take the tensor leave it out
                lost[name] = dropped if name not in lost else lost[name] & dropped
                waiting[name] -= 1
                whole = whole and not (waiting[name] == 0 and lost[name])
        return True, whole

    return trial


def _passed(layer: Layer, arrives: tuple[Shape, ...]) -> tuple[Shape | None, frozenset[tuple[int, int]]]:
    """What comes out of a layer when this arrives, and the (axis, position)s that it leaves out; None where it does
    not fit."""
    rule, nothing = layer.rule, frozenset[tuple[int, int]]()
    try:
        inferred = rule.infer(arrives[0]) if arrives and not rule.joins else {}
        if any(layer.settings[k] != v for k, v in inferred.items() if k in layer.written):
            return None, nothing
        settings = {**layer.settings, **inferred}
        out = rule.output(settings, arrives if rule.joins else arrives[0] if arrives else ())  # type: ignore[arg-type]
    except Misfit:
        return None, nothing
    if not arrives or rule.joins:
        return out, nothing
    there = replace(layer, settings=settings, input_shapes=arrives, output_shape=out)
    return out, frozenset((axis, i) for axis, left in never_read(there).items() for i in left)


def near(plan: Plan) -> list[int]:
    """The closest square sizes below and above the network's own at which nothing is dropped."""
    trial, own, end = trials(plan), plan.input[1], time.perf_counter() + SECONDS
    found = []
    for direction in (-1, 1):
        reach = (own + direction * n for n in range(1, 65))
        tried = (s for s in reach if s > 0 and time.perf_counter() < end)
        found += [s for s in [next((s for s in tried if trial((plan.input[0], s, s))[1]), None)] if s]
    return found


def pattern(found: Sequence[int], tried: int) -> str:
    """Sizes as people say them.

    >>> pattern(range(10, 99), 98), pattern(range(10, 99, 4), 98), pattern(range(32, 99, 32), 98)
    ('every size from 10', '10, 14, 18, … (4·k + 2)', '32, 64, 96, … (multiples of 32)')
    """
    if len(found) < 3:
        return " and ".join(map(str, found)) or f"none up to {tried}"
    first, sizes = found[0], set(found)
    step = next((m for m in range(1, (tried - first) // 2 + 1) if _repeats(sizes, first, tried, m)), 0)
    if step == 1:
        return f"every size from {first}"
    runs = [n for n in found if n - 1 not in sizes][:3]
    shown = [
        str(n) if n + 1 not in sizes else f"{n}–{next(m for m in range(n, tried + 2) if m not in sizes) - 1}"
        for n in runs
    ]
    if not step:
        return f"{', '.join(shown)}, …"
    if sum(first <= n < first + step for n in found) > 1:
        return f"{', '.join(shown)}, … (again every {step})"
    return f"{', '.join(shown)}, … ({f'multiples of {step}' if first % step == 0 else f'{step}·k + {first % step}'})"


def _repeats(sizes: set[int], first: int, tried: int, step: int) -> bool:
    return all((n in sizes) == (n + step in sizes) for n in range(first, tried - step + 1))


def listed(text: str | None, plan: Plan, found: Inputs) -> list[Shape]:
    """The sizes to show: `28,32x48,64` as asked for, else the smallest, common ones, and those around the network's
    own."""
    channels, own = plan.input[0], plan.input[1]
    if text is None:
        around = {s for s in found.exact if own - 40 <= s <= own + 40 and own not in found.exact}
        below, above = max((s for s in around if s < own), default=0), min((s for s in around if s > own), default=0)
        common = {s for s in COMMON if found.fitting and found.fitting[0] <= s <= max(1.8 * own, 64)}
        return [(channels, s, s) for s in sorted({*found.fitting[:1], below, above, own, *common} - {0})]
    shapes: list[Shape] = []
    for part in text.replace(" ", "").split(","):
        numbers = part.lower().split("x")
        if not 1 <= len(numbers) <= 2 or not all(
            n.isascii() and n.isdigit() and 0 < len(n) < 7 and int(n) for n in numbers
        ):
            raise UsageError(f"--sizes takes sides in pixels, such as 28,32,48x64, not {part!r}")
        shapes.append((channels, int(numbers[0]), int(numbers[-1])))
    return shapes


def table(plan: Plan, shapes: Sequence[Shape]) -> Table:
    """What each input becomes: the last image in the network, its output, counts, and rows and columns that are never
    used."""
    found = [_line(resized(plan, shape), shape, shape == plan.input) for shape in shapes]
    keys = [Column("input", "input"), Column("last_image", "last image"), Column("output", "output")]
    keys += [Column("params", "parameters", number=True), Column("macs", "MACs", number=True, brief=short)]
    return Table((*keys, Column("note", "", wraps=True)), found)


def _line(plan: Plan, shape: Shape, own: bool) -> dict[str, Any]:
    if plan.errors:
        problem = plan.errors[0]
        where = problem.where.removeprefix(f"{plan.network}, ").removeprefix("layers.")
        return {"input": sizes(shape), "note": f"{where}: {problem.message.split(' (what arrives')[0].split(';')[0]}"}
    aside = plan.only_in_training
    main = [layer.output_shape for layer in plan.layers if layer.name.split(".")[0] not in aside]
    images = [shape for shape in main if len(shape) == 3 and max(shape[1:]) > 1]
    rows, columns = unused(plan, sights(plan))
    lost = f"{len(rows)} rows, {len(columns)} columns unused" if rows or columns else ""
    return {
        "input": sizes(shape),
        "last_image": sizes(images[-1]) if images else "",
        "output": sizes(plan.output),
        "params": plan.params,
        "macs": plan.macs,
        "unused_rows": len(rows),
        "unused_columns": len(columns),
        "note": ", ".join(part for part in ("its own" if own else "", lost) if part),
    }


def document(plan: Plan, found: Inputs, shapes: Sequence[Shape]) -> dict[str, Any]:
    """Square sizes that fit and that fit exactly, and a line for each of `shapes`."""
    lines = [
        {"input_shape": list(shape), **_line(resized(plan, shape), shape, shape == plan.input)} for shape in shapes
    ]
    return {
        "network": plan.network,
        "input": list(plan.input),
        "tried": found.tried,
        "smallest": found.fitting[0] if found.fitting else None,
        "fitting": list(found.fitting),
        "exact": list(found.exact),
        "sizes": lines,
    }


def text(found: Inputs) -> str:
    """The search's result in three lines."""
    smallest = f"{found.fitting[0]}x{found.fitting[0]}" if found.fitting else f"none up to {found.tried}x{found.tried}"
    lines = [f"smallest input   {smallest}", f"fits             {pattern(found.fitting, found.tried)}"]
    return "\n".join([*lines, f"fits exactly     {pattern(found.exact, found.tried)}"])
