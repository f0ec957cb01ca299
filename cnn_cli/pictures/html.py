"""Self-contained HTML documents: elements, tables, embedded images, and the page around them.

A document makes no request, needs no script, and follows the light or dark scheme of the reader's system.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np

from cnn_cli import __version__
from cnn_cli.pictures.image import Array
from cnn_cli.tables import Column, Table

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_VOID = frozenset({"img", "input", "meta", "br", "hr"})
_PHOTO = 64 * 64  # images of many colors with more pixels are embedded as JPEG


class Html(str):
    """Markup. Any other string is escaped when it becomes part of an element."""


Child = str | None | Iterable["Child"]


def element(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """An element. The attribute `class_` is written as class, `aria_label` as aria-label; None and False omit an
    attribute, True writes it without a value.

    >>> element("a", "1 < 2", href="#top", class_="more")
    '<a href="#top" class="more">1 &lt; 2</a>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(*children)}</{name}>")


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.strip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def join(*children: Child) -> Html:
    """The children's concatenation: text is escaped, markup is not, None is omitted."""
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(str(child))
        elif isinstance(child, str):
            parts.append(escape(child, quote=False))
        elif child is not None:
            parts.append(str(join(*child)))
    return Html("".join(parts))


def data_url(pixels: Array) -> str:
    """(H, W, 3) uint8 as a PNG, grayscale if it has no color; a photo of more than 64x64 pixels as a JPEG."""
    from PIL import Image

    gray = bool((pixels[..., :1] == pixels).all())
    picture, buffer = Image.fromarray(pixels[..., 0] if gray else pixels), BytesIO()
    photo = pixels.shape[0] * pixels.shape[1] > _PHOTO and picture.getcolors(256) is None
    picture.save(buffer, "jpeg" if photo else "png", **({"quality": 85} if photo else {"optimize": True}))
    return f"data:image/{'jpeg' if photo else 'png'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def embedded(pixels: Array, alt: str, **attributes: str | float | bool | None) -> Html:
    """An <img> of (H, W, 3) uint8, embedded as a data URL; small images are enlarged without smoothing."""
    height, width = pixels.shape[:2]
    return element("img", src=data_url(pixels), alt=alt, width=width, height=height, loading="lazy", **attributes)


def thumbnail(pixels: Array, side: int) -> Array:
    """(H, W, 3) uint8, reduced to at most `side` pixels."""
    from PIL import Image

    if max(pixels.shape[:2]) <= side:
        return pixels
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def table(source: Table, caption: str, hidden_caption: bool = False) -> Html:
    """A table, which scrolls if it is wider than the page. The first column has the row headers.

    Values that are markup, such as links, are not escaped.
    """
    columns = [c for c in source.columns if any(row.get(c.key) not in (None, "") for row in source.rows)]
    head = element("tr", (element("th", c.title, scope="col", class_=_kind(c)) for c in columns))
    body = [_row(columns, row) for row in source.rows]
    foot = element("tfoot", _row(columns, source.total)) if source.total is not None else None
    title = element("caption", caption, class_="hidden" if hidden_caption else None)
    whole = element("table", title, element("thead", head), element("tbody", body), foot)
    return element("div", whole, class_="scroll", tabindex=0, role="group", aria_label=caption)


def _row(columns: Sequence[Column], row: dict[str, object]) -> Html:
    cells = []
    for number, column in enumerate(columns):
        value = row.get(column.key)
        text = value if isinstance(value, Html) else column.text(value)
        name, scope = ("td", None) if number else ("th", "row")
        cells.append(element(name, text, class_=_kind(column), scope=scope))
    return element("tr", cells)


def _kind(column: Column) -> str | None:
    return "number" if column.number else None


def folded(summary: str, *content: Child, is_open: bool = False) -> Html:
    """Content folded under its summary (<details>)."""
    return element("details", element("summary", summary), content, open=is_open)


def figures(values: Iterable[tuple[str, str, str]]) -> Html:
    """The document's main figures in large type: each a name, a value, and a note below."""
    cells = [
        element("div", element("dt", name), element("dd", value, element("small", note) if note else None))
        for name, value, note in values
    ]
    return element("dl", cells, class_="figures")


@dataclass(frozen=True)
class Section:
    """A section with a heading that the table of contents links to; `parts` are its subsections."""

    id: str
    title: str
    content: Child = None
    parts: Sequence["Section"] = ()

    def markup(self, level: int = 2) -> Html:
        heading = element(f"h{level}", self.title, id=f"{self.id}-title")
        parts = [part.markup(level + 1) for part in self.parts]
        kind = "group" if self.parts else "card"
        name = f"{self.id}-title" if level == 2 else None  # an ARIA landmark, whose label must be unique
        return element("section", heading, self.content, parts, id=self.id, class_=kind, aria_labelledby=name)

    def link(self) -> Html:
        inner = element("ul", (part.link() for part in self.parts)) if self.parts else None
        return element("li", element("a", self.title, href=f"#{self.id}"), inner)


def document(title: str, lead: Child, sections: Sequence[Section], footer: str, style: str = "") -> str:
    """The HTML document: title and lead, contents, sections, a footer on what the file contains. style: additional
    CSS."""
    contents = element("ul", (section.link() for section in sections))
    head = join(
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Html(_style() + style)),
    )
    body = join(
        element("a", "Skip to the content", href="#content", class_="skip"),
        element("header", element("div", element("h1", title), lead), _schemes()),
        element("nav", folded("Contents", contents, is_open=True), aria_label="Contents"),
        element("main", (section.markup() for section in sections), id="content", tabindex=-1),
        element("footer", element("p", f"Made with cnn {__version__}. {footer}")),
    )
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>{body}</body>\n</html>\n'


def _schemes() -> Html:
    """The switch between light and dark, in CSS alone."""
    choices = []
    for name in ("auto", "light", "dark"):
        button = element("input", type="radio", name="scheme", id=f"scheme-{name}", checked=name == "auto")
        choices += [button, element("label", name, for_=f"scheme-{name}")]
    return element("fieldset", element("legend", "Color scheme", class_="hidden"), choices, class_="schemes")


@cache
def _style() -> str:
    return Path(__file__).with_name("html.css").read_text(encoding="utf-8")
