"""Rows to text, Markdown and CSV."""

import csv
import io

import pytest

from cnn_cli.tables import Column, Table, memory, render, short

COLUMNS = (Column("name", "name"), Column("note", "note", wraps=True), Column("n", "count", number=True, brief=short))
ROWS = [
    {"name": "a.very.long.name.of.a.layer", "note": "words that may well go on in another line", "n": 1_234_567},
    {"name": "b", "note": "a | b", "n": None},
]


def test_text_is_as_wide_as_it_needs_and_right_aligns_numbers() -> None:
    lines = render(Table(COLUMNS, ROWS, {"name": "total", "n": 1_234_567}), width=200).split("\n")
    assert lines[0].split() == ["name", "note", "count"]
    assert {len(line) for line in lines if line.startswith("─")} == {len(lines[2])}
    assert lines[2].endswith("1,234,567") and lines[-1].endswith("1,234,567") and lines[-1].startswith("total")
    assert lines[3].rstrip().endswith("a | b")


def test_narrow_text_shortens_numbers_then_wraps_and_never_cuts_names() -> None:
    text = render(Table(COLUMNS, ROWS), width=50)
    assert max(len(line) for line in text.split("\n")) <= 50
    assert "a.very.long.name.of.a.layer" in text and "1.23 M" in text and "1,234,567" not in text
    assert " ".join(line[29:43].strip() for line in text.split("\n")[2:6]).startswith("words that may well go on")


def test_every_cell_survives_in_every_style() -> None:
    table = Table(COLUMNS, ROWS)
    found = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert found == [{k: "" if v is None else str(v) for k, v in row.items()} for row in ROWS]
    assert render(table, "markdown").split("\n") == [
        "| name | note | count |",
        "| --- | --- | ---: |",
        "| a.very.long.name.of.a.layer | words that may well go on in another line | 1,234,567 |",
        "| b | a \\| b |  |",
    ]


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "+1", "-1"])
def test_csv_holds_no_formulas(text: str) -> None:
    table = Table((Column("a", "a"), Column("n", "n", number=True)), [{"a": text, "n": -1}])
    assert render(table, "csv") == f"a,n\n'{text},-1"


def test_a_table_without_rows() -> None:
    assert render(Table(COLUMNS, [])).split("\n")[0] == "name  note  count"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (999, "999"), (1000, "1.00 k"), (69_120, "69.1 k"), (999_499, "999 k"), (999_999, "1.00 M")),
        *((118_013_952, "118 M"), (4_089_184_256, "4.09 G"), (10**12, "1.00 T")),
    ],
)
def test_short_numbers_have_three_digits(value: int, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (512, "512 B"), (1000, "1.0 kB"), (999_960, "1.0 MB")])
def test_bytes(value: int, text: str) -> None:
    assert memory(value) == text
