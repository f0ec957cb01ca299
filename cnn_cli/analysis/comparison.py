"""`cnn diff A B`: two networks side by side, aligned by what their layers are, and what the differences cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from cnn_cli.analysis.rows import Row, rows, totals
from cnn_cli.analysis.summary import Setup, estimates
from cnn_cli.language.plan import Plan
from cnn_cli.layers import sizes
from cnn_cli.tables import Column, Table, memory, render, short

SAME, CHANGED, ADDED, REMOVED = "=", "~", "+", "-"
_TITLES = {CHANGED: "changed", ADDED: "added", REMOVED: "removed"}


@dataclass(frozen=True)
class Pair:
    """A row of the one network and the row of the other that stands in its place; None where there is none."""

    mark: str
    before: Row | None
    after: Row | None

    def changes(self) -> list[str]:
        """What differs, in words: `kernel_size 3x3 → 5x5`, `output 32x26x26 → 32x24x24`."""
        a, b = self.before, self.after
        if a is None or b is None:
            return []
        if a.type != b.type:
            return [f"{a.text} → {b.text}"]
        keys = [k for k in {**a.settings, **b.settings} if a.settings.get(k) != b.settings.get(k)]
        found = [f"{k} {_value(a.settings.get(k))} → {_value(b.settings.get(k))}" for k in keys]
        if a.output_shape != b.output_shape:
            found.append(f"output {sizes(a.output_shape)} → {sizes(b.output_shape)}")
        return found

    def document(self) -> dict[str, Any]:
        a, b = self.before, self.after
        return {
            "change": {SAME: "same", **_TITLES}[self.mark],
            "a": a
            and {"name": a.name, "layer": a.text, "output_shape": a.output_shape, "params": a.params, "macs": a.macs},
            "b": b
            and {"name": b.name, "layer": b.text, "output_shape": b.output_shape, "params": b.params, "macs": b.macs},
            "differences": self.changes(),
            "params": (b.params if b else 0) - (a.params if a else 0),
            "macs": (b.macs if b else 0) - (a.macs if a else 0),
        }


def align(a: Sequence[Row], b: Sequence[Row]) -> list[Pair]:
    """Every row of both, in order. What is left between equal rows is matched more and more loosely: by name, by
    settings and sizes, by settings, by type. Rows of one type in one place are one changed row; else one is removed
    and one added."""
    return _aligned(a, b, [_by_name, _by_sizes, lambda row: (row.type, row.text), lambda row: (row.type,)])


def _aligned(a: Sequence[Row], b: Sequence[Row], likeness: Sequence[Callable[[Row], Any]]) -> list[Pair]:
    if not likeness or not a or not b:
        return [Pair(REMOVED, row, None) for row in a] + [Pair(ADDED, None, row) for row in b]
    pairs = []
    match = SequenceMatcher(None, [likeness[0](row) for row in a], [likeness[0](row) for row in b], autojunk=False)
    for kind, a0, a1, b0, b1 in match.get_opcodes():
        if kind == "equal":
            pairs += [_pair(x, y) for x, y in zip(a[a0:a1], b[b0:b1], strict=True)]
        else:
            pairs += _aligned(a[a0:a1], b[b0:b1], likeness[1:])
    return pairs


def _pair(a: Row, b: Row) -> Pair:
    same = a.type == b.type and a.settings == b.settings and a.output_shape == b.output_shape
    return Pair(SAME if same else CHANGED, a, b)


def _by_name(row: Row) -> Any:
    """A name that somebody gave says which layer it is; a number in a list does not."""
    given = not row.name.rpartition(".")[2].isdigit()
    return (row.name, row.text) if given else id(row)


def _by_sizes(row: Row) -> Any:
    return row.type, row.text, row.input_shapes, row.output_shape


def table(pairs: Sequence[Pair]) -> Table:
    """The rows that differ; what is the same in between is one line that counts it."""
    lines: list[dict[str, Any]] = []
    run = 0
    for pair in [*pairs, None]:
        if pair is not None and pair.mark == SAME:
            run += 1
            continue
        if run:
            lines.append({"layer": f"{run} layer{'s' if run > 1 else ''} the same"})
        run = 0
        if pair is not None:
            lines.append(_line(pair))
    total = {"mark": "", "layer": "difference"}
    total |= {key: sum(line.get(key, 0) for line in lines) for key in ("params", "macs")}
    columns = (
        Column("mark", ""),
        Column("a", "A"),
        Column("b", "B"),
        Column("layer", "layer", wraps=True),
        Column("params", "parameters", number=True, show=signed),
        Column("macs", "MACs", number=True, show=signed, brief=lambda v: signed(v, short)),
    )
    return Table(columns, lines, total)


def _line(pair: Pair) -> dict[str, Any]:
    a, b = pair.before, pair.after
    row = b or a
    assert row is not None
    text = row.text if a is None or b is None or a.type != b.type else f"{row.type}: {', '.join(pair.changes())}"
    data = pair.document()
    return {"mark": pair.mark, "a": a.name if a else None, "b": b.name if b else None, "layer": text} | {
        key: data[key] for key in ("params", "macs")
    }


def signed(value: int, form: Any = None) -> str:
    """+1,234, −5 or 0."""
    text = (form or "{:,}".format)(abs(value))
    return f"+{text}" if value > 0 else f"−{text}" if value < 0 else "0"


def document(a: Plan, b: Plan, given: Setup, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Both networks' totals, every pair of rows, and the differences."""
    sums = [_sums(plan, rows(plan), given) for plan in (a, b)]
    return {
        "a": {"network": a.network, "input": list(a.input), "output": list(a.output), "total": sums[0]},
        "b": {"network": b.network, "input": list(b.input), "output": list(b.output), "total": sums[1]},
        "difference": {key: sums[1][key] - sums[0][key] for key in sums[0]},
        "layers": [pair.document() for pair in pairs],
    }


def _sums(plan: Plan, found: Sequence[Row], given: Setup) -> dict[str, int]:
    total = totals(plan, found)
    once, step = estimates(plan, given)
    keys = ("params", "buffers", "macs", "flops", "activation_bytes")
    memories = {"inference_bytes": once.total, "training_bytes": step.total}
    return {"layers": len(found)} | {key: total[key] for key in keys} | memories


def totals_table(a: Plan, b: Plan, given: Setup) -> Table:
    """The two networks' sums beside each other."""
    sums = [_sums(plan, rows(plan), given) for plan in (a, b)]
    titles = {"layers": "layers", "params": "parameters", "macs": "MACs", "activation_bytes": "activations of an image"}
    titles |= {
        "inference_bytes": f"inference, {given.batch} images",
        "training_bytes": f"training, {given.batch} images",
    }
    lines = []
    for key, title in titles.items():
        x, y = sums[0][key], sums[1][key]
        form = memory if key.endswith("bytes") else short if key == "macs" else "{:,}".format
        factor = f"×{y / x:.3g}" if x and abs(y / x - 1) >= 0.005 else ""
        lines.append({"what": title, "a": form(x), "b": form(y), "difference": signed(y - x, form), "factor": factor})
    shapes = [f"{sizes(p.input)} → {sizes(p.output)}" for p in (a, b)]
    lines.insert(0, {"what": "input → output", "a": shapes[0], "b": shapes[1]})
    keys = [
        Column("what", ""),
        *(Column(k, t, number=True) for k, t in (("a", f"A {a.network}"), ("b", f"B {b.network}"))),
    ]
    return Table((*keys, Column("difference", "B − A", number=True), Column("factor", "", number=True)), lines)


def text(pairs: Sequence[Pair]) -> str:
    """The table of what differs, and a verdict."""
    same = all(pair.mark == SAME for pair in pairs)
    return verdict(pairs) if same else f"{render(table(pairs))}\n\n{verdict(pairs)}"


def verdict(pairs: Sequence[Pair]) -> str:
    """`3 layers changed, 1 added; 7 the same`."""
    counts = {mark: sum(pair.mark == mark for pair in pairs) for mark in (CHANGED, ADDED, REMOVED, SAME)}
    if counts[SAME] == len(pairs):
        return f"the same {len(pairs)} layers"
    parts = [f"{counts[mark]} {word}" for mark, word in _TITLES.items() if counts[mark]]
    return f"{', '.join(parts)}; {counts[SAME]} the same"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "x".join("·" if v is None else str(v) for v in value)
    return "none" if value is None else str(value)
