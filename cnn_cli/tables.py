"""What commands return and how tables are printed: as text, Markdown or CSV. A table holds values; only this module
formats them."""

import csv
import io
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Column:
    """A column: the key of its values in the rows, its title, and whether it is numbers or text that may be wrapped.

    `show` is how people read a value; `brief` a shorter form for where the full ones leave no room. CSV has raw values.
    """

    key: str
    title: str
    number: bool = False
    wraps: bool = False
    show: Callable[[Any], str] | None = None
    brief: Callable[[Any], str] | None = None

    def text(self, value: Any, brief: bool = False) -> str:
        form = (self.brief if brief else None) or self.show or cell
        return "" if value is None else form(value)


@dataclass(frozen=True)
class Table:
    """Columns and rows; `total` is a last row under a rule. Missing values are empty cells."""

    columns: tuple[Column, ...]
    rows: Sequence[dict[str, Any]]
    total: dict[str, Any] | None = None


@runtime_checkable
class Result(Protocol):
    """What a command has computed: plain data for --json, and a text for people. Neither prints nor writes."""

    def document(self) -> dict[str, Any] | list[dict[str, Any]]: ...

    def text(self) -> str: ...


@runtime_checkable
class TableResult(Result, Protocol):
    """A result that also has a table, for --csv and --markdown."""

    def table(self) -> Table: ...


def terminal_width() -> int:
    """Columns of the terminal; 80 where there is none, COLUMNS where it is set."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def cell(value: Any) -> str:
    """A value as people read it: 1,234,567 and 32x26x26."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ("x" if all(isinstance(v, int) for v in value) else ", ").join(str(v) for v in value)
    return str(value)


def short(value: int) -> str:
    """A large number to three digits: 4.09 G, 118 M, 69.1 k."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 1000)):
        if value >= size * 0.9995:
            return f"{value / size:#.3g} {unit}".replace(". ", " ")
    return str(value)


def memory(count: int) -> str:
    """Bytes in the unit a reader expects, powers of 1000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if count >= size * 0.9995:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def render(table: Table, style: str = "text", width: int | None = None) -> str:
    """The table as `text` (wrapped to `width` characters), `markdown` or `csv`."""
    if style == "csv":
        return _csv(table)
    if style == "markdown":
        return _markdown(table)
    return _text(table, width or terminal_width())


def _csv(table: Table) -> str:
    """Raw values; a text that a spreadsheet would take for a formula gets an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([c.key for c in table.columns])
    for row in table.rows:
        values = [row.get(c.key) for c in table.columns]
        texts = ["" if v is None else str(v) if isinstance(v, int | float) else cell(v) for v in values]
        guarded = [
            f"'{t}" if t[:1] in "=+-@" and not isinstance(v, int | float) and t else t
            for t, v in zip(texts, values, strict=True)
        ]
        writer.writerow(guarded)
    return out.getvalue().rstrip("\n")


def _cells(table: Table, brief: bool = False) -> list[list[str]]:
    """All cells as text, the total last."""
    found = [*table.rows, *([table.total] if table.total is not None else [])]
    return [[c.text(row.get(c.key), brief) for c in table.columns] for row in found]


def _markdown(table: Table) -> str:
    rule = ["---:" if c.number else "---" for c in table.columns]
    lines = [[c.title for c in table.columns], rule, *_cells(table)]
    return "\n".join(
        "| " + " | ".join(t.replace("|", "\\|").replace("\n", "<br>") for t in line) + " |" for line in lines
    )


def _text(table: Table, width: int) -> str:
    titles, cells = [c.title for c in table.columns], _cells(table)
    if sum(widths := _natural([titles, *cells])) + 2 * (len(widths) - 1) > width:
        cells = _cells(table, brief=True)
    widths = _narrowed(table.columns, _natural([titles, *cells]), width)
    line = "─" if (sys.stdout.encoding or "utf-8").lower().startswith("utf") else "-"
    rule = line * (sum(widths) + 2 * (len(widths) - 1))
    body = [part for row in cells[: len(table.rows)] for part in _row(table.columns, row, widths)]
    total = [rule, *_row(table.columns, cells[-1], widths)] if table.total is not None else []
    return "\n".join([*_row(table.columns, titles, widths), rule, *body, *total])


def _natural(cells: list[list[str]]) -> list[int]:
    return [max(len(part) for text in column for part in text.split("\n")) for column in zip(*cells, strict=True)]


def _narrowed(columns: tuple[Column, ...], widths: list[int], width: int) -> list[int]:
    """Where the natural widths are too much, columns that wrap give way, the widest first."""
    widths = list(widths)
    while sum(widths) + 2 * (len(widths) - 1) > width:
        wrapping = [i for i, c in enumerate(columns) if c.wraps and widths[i] > 12]
        if not wrapping:
            break
        widths[max(wrapping, key=lambda i: widths[i])] -= 1
    return widths


def _row(columns: tuple[Column, ...], cells: list[str], widths: list[int]) -> list[str]:
    """One row as lines: cells that wrap go on below themselves."""
    wrapped = [
        _wrap(text, w) if c.wraps else text.split("\n") for c, text, w in zip(columns, cells, widths, strict=True)
    ]
    lines = []
    for n in range(max(len(w) for w in wrapped)):
        parts = [w[n] if n < len(w) else "" for w in wrapped]
        padded = [p.rjust(w) if c.number else p.ljust(w) for c, p, w in zip(columns, parts, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return lines


def _wrap(text: str, width: int) -> list[str]:
    return [line for part in text.split("\n") for line in textwrap.wrap(part, width, break_on_hyphens=False) or [""]]
