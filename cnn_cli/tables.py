"""What commands return and how tables are printed: as text, Markdown or CSV. A table holds values; only this module
formats them."""

import csv
import io
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol, runtime_checkable
from unicodedata import combining, east_asian_width

_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|-inf", re.I)


TableRow = dict[str, Any]  # by the keys of the columns


@dataclass(frozen=True)
class Column:
    """A column: the key of its values in the rows, its title, and whether it holds numbers or text that may be wrapped.

    `show` formats a value for people, `brief` in a shorter form for narrow terminals. CSV has raw values.
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
    rows: Sequence[TableRow]
    total: TableRow | None = None


@runtime_checkable
class Result(Protocol):
    """The result of a command: plain data for --json, and a text for people. Neither prints nor writes."""

    def document(self) -> dict[str, Any] | list[dict[str, Any]]: ...

    def text(self) -> str: ...


@runtime_checkable
class TableResult(Result, Protocol):
    """A result that also has a table, for --csv and --markdown."""

    def table(self) -> Table: ...


def terminal_width() -> int:
    """Columns of the terminal; COLUMNS if that is set, 80 without a terminal."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes: two for a wide (East Asian) character, none for an accent alone."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


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


def format_count(value: int, unit: str = "") -> str:
    """A large number to three digits: 4.09 G, 118 M, 69.1 k; with a unit, 4.09 GMACs."""
    for prefix, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 1000)):
        if value >= size * 0.9995:
            return f"{value / size:#.3g} {prefix}{unit}".replace(". ", " ")
    return f"{value} {unit}".rstrip()


def format_bytes(count: int) -> str:
    """`63.0 MB`: bytes in units of powers of 1000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if count >= size * 0.9995:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 image`, `2,000 images`, `3 classes`; `plural` where it is irregular."""
    return f"{count:,} {noun if count == 1 else plural or noun + ('es' if noun.endswith(('s', 'x')) else 's')}"


def percent(share: float, digits: int = 1) -> str:
    """A fraction as a percentage, 91.7%; never 100% for less than all."""
    return f"{1 if share >= 1 else min(share, 1 - 10 ** -(digits + 2)):.{digits}%}"


def metric_title(metric: str) -> str:
    """The name of a metric for people."""
    return {"miou": "mIoU", "ap": "AP"}.get(metric, metric)


def wrapped(line: str) -> str:
    """A line of prose as lines that fit the terminal; those after the first are indented further."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return "\n".join(_wrap(line, terminal_width(), indent))


def side_by_side(figures: Sequence[str]) -> str:
    """Figures with their names in a line, or in as many as the terminal needs, broken between figures."""
    lines = list[str]()
    for gap in ("   ", "  "):
        if len(gap.join(figures)) <= terminal_width():
            return gap.join(figures)
    for figure in figures:
        if lines and len(line := f"{lines[-1]}  {figure}") <= terminal_width():
            lines[-1] = line
        else:
            lines.append(figure)
    return "\n".join(lines)


def render(table: Table, style: str = "text", width: int | None = None) -> str:
    """The table as `text` (no line longer than `width`, by default the terminal's), `markdown` or `csv`."""
    if style == "csv":
        return _csv(table)
    return _markdown(table) if style == "markdown" else _text(table, width or terminal_width())


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([c.key for c in table.columns])
    writer.writerows([_raw(row.get(c.key)) for c in table.columns] for row in table.rows)
    return out.getvalue().rstrip("\n")


def _raw(value: Any) -> str:
    """A plain number, or text; an apostrophe is put before text that a spreadsheet would take for a formula."""
    if isinstance(value, int | float):
        return str(value)
    text = cell(value)
    return f"'{text}" if text.startswith(("=", "+", "@", "-")) and not _NEGATIVE.fullmatch(text) else text


def _cells(table: Table, brief: bool = False) -> list[list[str]]:
    """All cells as text, the total last."""
    rows = [*table.rows, *([table.total] if table.total is not None else [])]
    return [[c.text(row.get(c.key), brief) for c in table.columns] for row in rows]


def _markdown(table: Table) -> str:
    rule = ["---:" if c.number else "---" for c in table.columns]
    lines = [[c.title for c in table.columns], rule, *_cells(table)]
    return "\n".join(
        "| " + " | ".join(t.replace("|", "\\|").replace("\n", "<br>") for t in line) + " |" for line in lines
    )


def _text(table: Table, width: int) -> str:
    """To fit the width, numbers are shortened first, then prose is wrapped, then names; columns that still do not fit
    follow in a second table, which repeats the first column. Columns without any value are left out."""
    valued = tuple(c for c in table.columns if any(row.get(c.key) not in (None, "") for row in table.rows))
    table = Table(valued, table.rows, table.total) if valued else table
    for brief, level in ((False, 0), (True, 0), (True, 1), (True, 2)):
        cells = [[c.title for c in table.columns], *_cells(table, brief)]
        widths = _widths(table.columns, cells, width, level)
        if _total(widths) <= width:
            return _drawn(table, cells, widths)
    count = next((n for n in range(len(widths) - 1, 1, -1) if _total(widths[:n]) <= width), min(2, len(widths)))
    if count < len(widths):
        parts = (table.columns[:count], (table.columns[0], *table.columns[count:]))
        return "\n\n".join(_text(Table(columns, table.rows, table.total), width) for columns in parts)
    return _drawn(table, cells, [max(1, widths[0] - _total(widths) + width), *widths[1:]])


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


_LEAST, _WORD = (0, 12, 8), (0, 24, 16)  # by level: minimum width of wrapped text, longest unbroken word


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int, level: int) -> list[int]:
    """The widths of all columns: natural ones, or if those do not fit, the widest are reduced as far as `level`
    allows."""
    widths, floors = [], []
    for column, (title, *texts) in zip(columns, zip(*cells, strict=True), strict=True):
        body = max((columns_of(line) for text in texts for line in text.split("\n")), default=0)
        widths.append(max(columns_of(title), body))
        wraps = column.wraps or (level == 2 and not column.number)
        words = max((_longest(text, _WORD[level]) for text in texts), default=0) if wraps and level else 0
        least = min(body, max(_LEAST[level], words)) if wraps else body
        floors.append(max(_longest(title, _WORD[level]), least) if level else widths[-1])
    while _total(widths) > width and (wide := [i for i, w in enumerate(widths) if w > floors[i]]):
        widths[max(wide, key=lambda i: widths[i])] -= 1
    return widths


def _drawn(table: Table, cells: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    title, *rows = [_row(table.columns, row, widths) for row in cells]
    line = "─" if (sys.stdout.encoding or "utf-8").lower().startswith("utf") else "-"
    rule = [line * _total(widths)]
    total = [rule, rows.pop()] if table.total is not None else []
    return "\n".join(line for lines in (title, rule, *rows, *total) for line in lines)


def _row(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One row as lines; long cells continue on the next line of their column."""
    columns_of_lines = [_wrap(text, w) for text, w in zip(cells, widths, strict=True)]
    lines = []
    for parts in zip_longest(*columns_of_lines, fillvalue=""):
        padded = [_padded(p, w, c.number) for c, p, w in zip(columns, parts, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return lines


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - columns_of(text))
    return space + text if right else text + space


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    """The text in lines of at most `width` columns; those after the first start with `indent`."""
    if columns_of(text) <= width and "\n" not in text:
        return [text.rstrip()]
    lines = []
    for part in text.split("\n"):
        line = ""
        for piece in _pieces(part, width - len(indent)):
            if line.strip() and columns_of(line) + columns_of(piece.rstrip()) > width:
                lines.append(line.rstrip())
                line = indent
            line += piece
        lines.append(line.rstrip())
    return lines


def _pieces(text: str, width: int, breaks: Sequence[str] = (" ", "/", "._-")) -> list[str]:
    """Words with the space after them; those longer than `width` are broken after a slash, a dot or anywhere."""
    if not breaks:
        step = width if columns_of(text) <= len(text) else max(1, width // 2)
        return [text[i : i + step] for i in range(0, len(text), step)]
    pieces = re.findall(rf"[^{breaks[0]}]*[{breaks[0]}]+|[^{breaks[0]}]+", text)
    return [q for p in pieces for q in ([p] if columns_of(p.rstrip()) <= width else _pieces(p, width, breaks[1:]))]


def _longest(text: str, width: int) -> int:
    """The length of the longest word, where words longer than `width` are broken."""
    return max((columns_of(piece.rstrip()) for part in text.split("\n") for piece in _pieces(part, width)), default=0)
