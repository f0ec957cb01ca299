"""`cnn diff A B`: two networks side by side, their layers aligned, and what the differences cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from operator import attrgetter
from typing import Any

from cnn_cli.analysis.rows import Row, layer_rows, totals
from cnn_cli.analysis.summary import Setup, estimates
from cnn_cli.language.plan import Plan
from cnn_cli.layers import sizes
from cnn_cli.tables import Column, Table, TableRow, counted, format_bytes, format_count, render

SAME, CHANGED, ADDED, REMOVED = "same", "changed", "added", "removed"
_MARKS = {SAME: "=", CHANGED: "~", ADDED: "+", REMOVED: "−"}


@dataclass(frozen=True)
class Pair:
    """A row of one network and the corresponding row of the other; None if there is none."""

    change: str
    before: Row | None
    after: Row | None

    @property
    def params(self) -> int:
        return (self.after.params if self.after else 0) - (self.before.params if self.before else 0)

    @property
    def macs(self) -> int:
        return (self.after.macs if self.after else 0) - (self.before.macs if self.before else 0)

    def differences(self) -> list[str]:
        """In words: `kernel_size 3x3 → 5x5`, `output 32x26x26 → 32x24x24`."""
        a, b = self.before, self.after
        if a is None or b is None:
            return []
        if a.type != b.type:
            return [f"{a.text} → {b.text}"]
        keys = [k for k in {**a.settings, **b.settings} if a.settings.get(k) != b.settings.get(k)]
        words = [f"{k} {_value(a.settings.get(k))} → {_value(b.settings.get(k))}" for k in keys]
        shape = [f"output {sizes(a.output_shape)} → {sizes(b.output_shape)}"] * (a.output_shape != b.output_shape)
        if bool(a.shared_with) != bool(b.shared_with):
            words.append(f"shared with {b.shared_with}" if b.shared_with else "weights not shared")
        return words + shape

    def document(self) -> dict[str, Any]:
        return {
            "change": self.change,
            "a": _row_document(self.before),
            "b": _row_document(self.after),
            "differences": self.differences(),
            "params": self.params,
            "macs": self.macs,
        }


@dataclass(frozen=True)
class Comparison:
    """Two plans, their rows in pairs, and the setup for estimates of memory."""

    a: Plan
    b: Plan
    pairs: tuple[Pair, ...]
    setup: Setup

    def document(self) -> dict[str, Any]:
        plans, sums = (self.a, self.b), [self._sums(self.a), self._sums(self.b)]
        a, b = (
            {"network": plan.network, "input": list(plan.input), "output": list(plan.output), "total": total}
            for plan, total in zip(plans, sums, strict=True)
        )
        difference = {key: sums[1][key] - sums[0][key] for key in sums[0]}
        return {"a": a, "b": b, "difference": difference, "layers": [pair.document() for pair in self.pairs]}

    def table(self) -> Table:
        """The rows that differ; equal rows in between are one line that counts them."""
        lines: list[TableRow] = []
        for equal, group in groupby(self.pairs, lambda pair: pair.change == SAME):
            pairs = list(group)
            lines += [{"layer": counted(len(pairs), "equal layer")}] if equal else [_line(pair) for pair in pairs]
        columns = (
            Column("mark", "", show=_MARKS.__getitem__),
            Column("a", "A"),
            Column("b", "B"),
            Column("layer", "layer", wraps=True),
            Column("params", "parameters", number=True, show=signed),
            Column("macs", "MACs", number=True, show=signed, brief=lambda v: signed(v, format_count)),
        )
        total = {key: sum(line.get(key, 0) for line in lines) for key in ("params", "macs")}
        return Table(columns, lines, {"layer": "difference"} | total)

    def totals_table(self) -> Table:
        """The sums of both networks side by side."""
        titles: dict[str, tuple[str, Callable[[int], str]]] = {
            "layers": ("layers", "{:,}".format),
            "params": ("parameters", "{:,}".format),
            "macs": ("MACs", format_count),
            "activation_bytes": ("activations per image", format_bytes),
            "inference_bytes": (f"inference, batch of {self.setup.batch}", format_bytes),
            "training_bytes": (f"training, batch of {self.setup.batch}", format_bytes),
        }
        before, after = self._sums(self.a), self._sums(self.b)
        shapes = [f"{sizes(p.input)} → {p.output_sizes}" for p in (self.a, self.b)]
        lines = [{"title": "input → output", "a": shapes[0], "b": shapes[1]}]
        for key, (title, form) in titles.items():
            x, y = before[key], after[key]
            factor = f"×{y / x:.3g}" if x and abs(y / x - 1) >= 0.005 else ""
            line = {"title": title, "a": form(x), "b": form(y), "difference": signed(y - x, form), "factor": factor}
            lines.append(line)
        columns = (
            Column("title", "", wraps=True),
            Column("a", f"A {self.a.network}", number=True),
            Column("b", f"B {self.b.network}", number=True),
            Column("difference", "B − A", number=True),
            Column("factor", "B / A", number=True),
        )
        return Table(columns, lines)

    def text(self) -> str:
        differs = any(pair.change != SAME for pair in self.pairs)
        tables = [self.totals_table(), *([self.table()] if differs else [])]
        return "\n\n".join([*(render(table) for table in tables), self.verdict()])

    def verdict(self) -> str:
        """`3 layers changed, 1 added; 7 equal`."""
        counts = {change: sum(pair.change == change for pair in self.pairs) for change in _MARKS}
        equal = counts.pop(SAME)
        if equal == len(self.pairs):
            return f"all {equal} layers are equal"
        return f"{', '.join(f'{n} {change}' for change, n in counts.items() if n)}; {equal} equal"

    def _sums(self, plan: Plan) -> dict[str, int]:
        rows = layer_rows(plan)
        total, (once, step) = totals(plan, rows), estimates(plan, self.setup)
        keys = ("params", "buffers", "macs", "flops", "activation_bytes")
        memories = {"inference_bytes": once.total, "training_bytes": step.total}
        return {"layers": len(rows)} | {key: total[key] for key in keys} | memories


def compare(a: Plan, b: Plan, setup: Setup) -> Comparison:
    return Comparison(a, b, tuple(align(layer_rows(a), layer_rows(b))), setup)


def align(a: Sequence[Row], b: Sequence[Row]) -> list[Pair]:
    """Every row of both, in order. Rows between equal ones are matched more and more loosely: by name, by settings and
    sizes, by settings, by type. Rows of one type in one place are a changed row; others are removed and added."""
    with_sizes = attrgetter("type", "text", "input_shapes", "output_shape")
    return _aligned(a, b, [_by_name, with_sizes, attrgetter("type", "text"), attrgetter("type")])


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
    same = same and bool(a.shared_with) == bool(b.shared_with)
    return Pair(SAME if same else CHANGED, a, b)


def _by_name(row: Row) -> Any:
    """A key that matches layers by name and text; a number in a list matches nothing."""
    numbered = row.name.rpartition(".")[2].isdigit()
    return id(row) if numbered else (row.name, row.text)


def _line(pair: Pair) -> TableRow:
    a, b = pair.before, pair.after
    row = b or a
    assert row is not None
    text = f"{row.type}: {', '.join(pair.differences())}" if a and b and a.type == b.type else row.text
    names = {"a": a.name if a else None, "b": b.name if b else None}
    return {"mark": pair.change, **names, "layer": text, "params": pair.params, "macs": pair.macs}


def _row_document(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    counts = {"params": row.params, "macs": row.macs}
    return {"name": row.name, "layer": row.text, "output_shape": row.output_shape, **counts}


def signed(value: int, form: Callable[[int], str] = "{:,}".format) -> str:
    """+1,234, −5 or 0."""
    text = form(abs(value))
    return f"+{text}" if value > 0 else f"−{text}" if value < 0 else "0"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "x".join("·" if v is None else str(v) for v in value)
    return "none" if value is None else str(value)
