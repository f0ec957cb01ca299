"""HTML documents: escaping, tables, embedded images, and that a document asks for nothing."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cnn_cli.pictures import html
from cnn_cli.pictures.charts import Line, line_chart
from cnn_cli.tables import Column, Table

VOID = {"br", "img", "input", "meta"}


class Balance(HTMLParser):
    """The open elements, and the ids met so far."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_text_is_escaped_and_markup_is_not() -> None:
    hostile = '<script>alert("&")</script>'
    inner = html.element("b", hostile, title=hostile)
    assert html.element("p", inner, None, [hostile, ["x"]]).count("<script") == 0
    assert "<b title=" in html.element("p", inner)
    parser = Balance()
    parser.feed(inner)
    assert "".join(parser.text) == hostile


def test_a_table_escapes_its_cells_and_keeps_links() -> None:
    link = html.element("a", "more", href="#more")
    rows = [{"name": "<b>", "n": 1234, "link": link}]
    columns = (Column("name", "name"), Column("n", "images", number=True), Column("link", "link"), Column("no", "none"))
    text = html.table(Table(columns, rows), "numbers & names")
    assert "&lt;b&gt;" in text and "1,234" in text and '<a href="#more">more</a>' in text
    assert "none" not in text and "numbers &amp; names" in text


@pytest.mark.parametrize(("side", "kind"), [(28, "PNG"), (100, "JPEG")])
def test_images_are_embedded_as_they_are_or_as_photos(side: int, kind: str) -> None:
    ramp = np.linspace(0, 255, side * side * 3).reshape(side, side, 3).astype(np.uint8)
    url = html.data_url(ramp)
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        assert picture.format == kind
        error = np.abs(np.asarray(picture).astype(int) - ramp).max()
    assert error <= (0 if kind == "PNG" else 12)


def test_a_document_is_whole_and_asks_for_nothing() -> None:
    inner = html.Section("two", "Part <two>", html.element("p", "text"))
    whole = html.document(
        "Title & more", None, [html.Section("one", "Part one", None, (inner,))], "It holds no images."
    )
    parser = Balance()
    parser.feed(whole)
    assert parser.open == [] and len(parser.ids) == len(set(parser.ids))
    assert not re.search(r"(src|href)=\"(?!#|data:)", whole) and "@import" not in whole and "url(" not in whole
    assert "default-src &#x27;none&#x27;" in whole and "Part &lt;two&gt;" in whole


@pytest.mark.parametrize(
    ("points", "ticks"),
    [
        ([(0.05, 0.7)], ["0%", "20%", "40%", "60%", "80%", "0.05"]),
        ([(1, 0.0), (2, 0.0)], ["0%", "20%", "40%", "60%", "80%", "100%", "1", "2"]),
    ],
)
def test_axes_of_one_point_and_of_zeros_have_different_ticks(
    points: list[tuple[float, float]], ticks: list[str]
) -> None:
    chart = str(line_chart("accuracy", [Line("test", points)], "epoch", "{:.0%}".format))
    assert re.findall(r"<text[^>]*>([^<]*)</text>", chart) == [*ticks, "epoch"]
