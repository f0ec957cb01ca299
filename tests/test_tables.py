"""Rows to text, Markdown and CSV."""

import csv
import io
import unicodedata

import pytest

from cnn_cli.tables import Column, Table, format_bytes, format_count, percent, render, side_by_side

COLUMNS = (
    Column("name", "name"),
    Column("note", "note", wraps=True),
    Column("n", "count", number=True, brief=format_count),
)
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


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "+1", "-a", "-1+2", "--1"])
def test_csv_holds_no_formulas(text: str) -> None:
    table = Table((Column("a", "a"), Column("n", "n", number=True)), [{"a": text, "n": -1}])
    assert render(table, "csv") == f"a,n\n'{text},-1"


@pytest.mark.parametrize("text", ["-1", "-0.5", "-2.5e-07", "-1e3", "-.5", "−5"])
def test_csv_holds_plain_numbers(text: str) -> None:
    assert render(Table((Column("a", "a"),), [{"a": text}]), "csv") == f"a\n{text}"


WORDS = [
    "cat",
    "tram-line",
    "images/truck/IMG_20240101_1234567.png",
    "layer1.0.downsample.1",
    "a b c d e f",
    "",
    "x" * 90,
]


@pytest.mark.parametrize("width", [40, 55, 80, 120])
@pytest.mark.parametrize("numbers", [0, 1, 5, 30])
def test_no_line_is_longer_than_the_terminal(width: int, numbers: int) -> None:
    columns = (
        Column("name", "name"),
        Column("prose", "a long title", wraps=True),
        Column("empty", ""),
        *(Column(str(n), f"class {n}", number=True) for n in range(numbers)),
    )
    rows = [{"name": a, "prose": b, **{str(n): 10 ** (n % 12) for n in range(numbers)}} for a in WORDS for b in WORDS]
    text = render(Table(columns, rows, {"name": "total"}), width=width)
    assert max(map(len, text.split("\n"))) <= width
    squeezed = "".join(text.split())
    assert all(f"{10 ** (n % 12):,}" in squeezed for n in range(numbers)) and squeezed.count("total") >= 1


def test_file_names_break_behind_a_slash() -> None:
    rows = [{"image": "images/validation/truck/0001.png", "class": "a long description of it"}] * 2
    text = render(Table((Column("image", "image", wraps=True), Column("class", "class", wraps=True)), rows), width=40)
    assert [line.split("  ")[0] for line in text.split("\n")[2:4]] == ["images/validation/", "truck/0001.png"]


def test_wide_tables_repeat_their_first_column() -> None:
    columns = (Column("class", "true"), *(Column(str(n), str(n), number=True) for n in range(20)))
    rows = [{"class": "cat", **{str(n): 1000 + n for n in range(20)}}]
    parts = render(Table(columns, rows), width=80).split("\n\n")
    assert [part.split()[0] for part in parts] == ["true", "true"]
    assert " ".join(part.split("\n")[2].removeprefix("cat") for part in parts).split() == [
        f"{1000 + n:,}" for n in range(20)
    ]


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
    assert format_count(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (512, "512 B"), (1000, "1.0 kB"), (999_960, "1.0 MB")])
def test_bytes(value: int, text: str) -> None:
    assert format_bytes(value) == text


def test_wide_characters_take_two_columns_and_accents_none() -> None:
    columns = (Column("name", "name", wraps=True), Column("n", "n", number=True))
    names = ["bird", "鳥", "vögel 鳥", unicodedata.normalize("NFD", "é"), "日本" * 30]
    lines = render(Table(columns, [{"name": name, "n": 1} for name in names]), width=30).split("\n")
    ends = [sum(len(wcwidth) for wcwidth in map(_cells_of, line)) for line in lines if line.endswith("1")]
    assert set(ends) == {30}


def _cells_of(character: str) -> str:
    """As many spaces as the character has columns."""
    if unicodedata.combining(character):
        return ""
    return "  " if "\u3000" <= character <= "\u9fff" else " "


def test_a_fraction_that_is_not_a_number_is_no_percentage() -> None:
    assert [percent(share) for share in (0.9999, 1.0, float("nan"))] == ["99.9%", "100.0%", "nan%"]


def test_figures_wider_than_the_terminal_leave_no_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert side_by_side(["a" * 45, "b", "c"]) == f"{'a' * 45}\nb  c"
