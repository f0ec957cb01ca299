"""A picture as a page for a slide: title, lines of text, panels side by side or stacked, color bar."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cnn_cli.pictures.fonts import HINT, font, is_drawable
from cnn_cli.pictures.image import INK, PANEL, PAPER, SOFT, Array

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont


@dataclass(frozen=True)
class Axis:
    """The labels of a panel's rows or columns: a title and the first and last label: `input channel`, `0`, `31`.

    `each` labels every row or column instead, if there is room.
    """

    name: str
    first: str
    last: str
    each: tuple[str, ...] = ()


@dataclass(frozen=True)
class Caption:
    """Text on a panel, with a font size in px: centered at `x`, from `y` downward (px in its body).

    `anchor` is Pillow's: "la" begins at `x`, "ra" ends there.
    """

    x: float
    y: float
    text: str
    size: int
    color: str = SOFT
    anchor: str = "ma"


@dataclass(frozen=True)
class Panel:
    """A part of a page: `body` (H, W, 3) uint8, shown pixel for pixel, with labels of its rows and columns.

    `heading` is on its own line above it, with a font size in px (0: the page's).
    """

    body: Array
    rows: Axis | None = None
    columns: Axis | None = None
    heading: str = ""
    captions: tuple[Caption, ...] = ()
    size: int = 0


@dataclass(frozen=True)
class Bar:
    """A color bar: `colors` (n, 3) from left to right, the labels of its ends and its middle, and a title."""

    colors: Array
    low: str
    middle: str
    high: str
    label: str


@dataclass(frozen=True)
class Page:
    """A composed picture, the origin (x, y) of each panel's body in it, and their bounding box (x0, y0, x1, y1)."""

    image: "Image.Image"
    origins: tuple[tuple[int, int], ...]
    body: tuple[int, int, int, int]


def compose_page(panels: Sequence[Panel | Sequence[Panel]], title: str, lines: Sequence[str], bar: Bar | None) -> Page:
    """Panels side by side under a title and lines of text, over a color bar; panels in a sequence are stacked.

    Text grows with the picture and makes it wider up to a point; then lines are wrapped, and the rest is cut with ….
    """
    from PIL import Image, ImageDraw

    stacks = [[entry] if isinstance(entry, Panel) else list(entry) for entry in panels]
    height = max(sum(p.body.shape[0] for p in stack) for stack in stacks)
    text = _text_size(height, sum(_width(stack) for stack in stacks))
    captions = [caption.text for stack in stacks for panel in stack for caption in panel.captions]
    lines = [*lines, *([] if is_drawable("".join([title, *lines, *captions])) else [HINT])]
    margin, head, small = 2 * text, font(round(1.6 * text), True, title), font(round(0.85 * text))
    places, across, down = _places(stacks, text)
    wanted = max(head.getlength(title[:500]), 15 * text + small.getlength(bar.label) if bar else 0)
    wanted = max(wanted, *(font(text, text=line).getlength(line[:500]) for line in lines)) if lines else wanted
    room = max(across, math.ceil(min(wanted, 48 * text)))  # between the margins
    share = min(
        1.0, room / max(1.0, head.getlength(title[:500]))
    )  # a long title gets a smaller font, down to that of the text
    head = font(round(max(1.0, 1.6 * share) * text), True, title)
    lines = [part for line in lines for part in _wrapped(line, font(text, text=line), room)][:4]
    top = margin + round(2.4 * text + 1.45 * text * len(lines)) + text
    foot = round(3.2 * text) if bar else 0
    image = Image.new("RGB", (room + 2 * margin, top + down + foot + margin), PAPER)
    draw = ImageDraw.Draw(image)
    _write(draw, (margin, margin), title, head, INK, room)
    for i, line in enumerate(lines):
        _write(draw, (margin, margin + round(2.4 * text + 1.45 * text * i)), line, font(text, text=line), SOFT, room)
    origins = [(margin + x, top + y) for stack in places for x, y in stack]
    flat = [panel for stack in stacks for panel in stack]
    ends_at = [*(stack[0][0] - text // 2 for stack in places[1:]), room + margin]
    rooms = [end - x for stack, end in zip(places, ends_at, strict=True) for x, _ in stack]
    for panel, origin, width in zip(flat, origins, rooms, strict=True):
        _draw_panel(image, panel, origin, text, width)
    if bar:
        _draw_bar(image, bar, (margin, top + down + text), text, room)
    ends = [(x + p.body.shape[1], y + p.body.shape[0]) for p, (x, y) in zip(flat, origins, strict=True)]
    return Page(image, tuple(origins), (*map(min, zip(*origins, strict=True)), *map(max, zip(*ends, strict=True))))


def _text_size(height: int, width: int) -> int:
    """The font size of the text, in px, on which all other sizes depend."""
    return round(21 * min(max(max(width, height) / 1400, 0.75), 1.6))


def _width(stack: Sequence[Panel]) -> int:
    return max(int(panel.body.shape[1]) for panel in stack)


def _places(stacks: Sequence[Sequence[Panel]], text: int) -> tuple[list[list[tuple[int, int]]], int, int]:
    """The origin of each panel's body, in px from the corner under the text; and the extent (x, y) of all panels."""
    small, places, left, down = font(round(0.85 * text)), [], 0, 0
    headed = any(stack[0].heading for stack in stacks)
    labelled = any(stack[0].columns for stack in stacks)
    for stack in stacks:
        labels = [label for p in stack if p.rows for label in (p.rows.each or (p.rows.first, p.rows.last))]
        left += math.ceil(max(small.size, *map(small.getlength, labels))) + text // 2 if labels else 0
        y, column = 0, []
        for i, panel in enumerate(stack):
            y += round(1.9 * panel.size or 1.6 * text) * bool(panel.heading or (headed and not i))
            y += round(1.5 * text) * bool(panel.columns or (labelled and not i))
            column.append((left, y))
            y += panel.body.shape[0] + text
        places.append(column)
        down = max(down, y - text)
        left += _width(stack) + round(1.5 * text)
    return places, left - round(1.5 * text), down


def _draw_panel(image: "Image.Image", panel: Panel, at: tuple[int, int], text: int, room: int) -> None:
    """Draw the body, its heading and captions, and the labels of its rows and columns if there is room."""
    from PIL import Image, ImageDraw

    draw, (x, y), letters = ImageDraw.Draw(image), at, font(round(0.85 * text))
    height, width = panel.body.shape[:2]
    image.paste(Image.fromarray(panel.body), at)
    if panel.heading:
        above = y - round(1.5 * text) * bool(panel.columns) - round(0.45 * text)
        words = font(panel.size) if panel.size else letters
        draw.text((x, above), cut(panel.heading, words, room), INK, words, anchor="ls")
    for caption in panel.captions:
        words = font(caption.size, text=caption.text)
        draw.text((x + caption.x, y + caption.y), _printable(caption.text), caption.color, words, anchor=caption.anchor)
    if panel.columns:
        _label_columns(draw, panel.columns, at, width, letters)
    if panel.rows:
        _label_rows(image, panel.rows, at, height, letters)


def _label_columns(
    draw: "ImageDraw.ImageDraw", axis: Axis, at: tuple[int, int], width: int, letters: "ImageFont.FreeTypeFont"
) -> None:
    (x, y), line = (at[0], at[1] - round(letters.size * 0.4)), round(letters.size * 1.25)
    if axis.each and max(map(letters.getlength, axis.each)) <= width / len(axis.each) - letters.size / 4:
        for i, name in enumerate(axis.each):
            draw.text((x + width * (i + 0.5) / len(axis.each), y), name, SOFT, letters, anchor="ms")
        return
    room = width - letters.getlength(axis.first + axis.last) - line
    if room > 0 and axis.first != axis.last:
        draw.text((x, y), axis.first, SOFT, letters, anchor="ls")
        draw.text((x + width, y), axis.last, SOFT, letters, anchor="rs")
    if letters.getlength(axis.name) <= room:
        draw.text((x + width / 2, y), axis.name, SOFT, letters, anchor="ms")


def _label_rows(
    image: "Image.Image", axis: Axis, at: tuple[int, int], height: int, letters: "ImageFont.FreeTypeFont"
) -> None:
    from PIL import Image, ImageDraw

    draw, (x, y), line = ImageDraw.Draw(image), (at[0] - round(letters.size * 0.4), at[1]), round(letters.size * 1.25)
    if axis.each and height / len(axis.each) >= letters.size:
        for i, name in enumerate(axis.each):
            draw.text((x, y + height * (i + 0.5) / len(axis.each)), name, SOFT, letters, anchor="rm")
        return
    draw.text((x, y), axis.first, SOFT, letters, anchor="ra")
    if axis.first != axis.last and height >= 2 * line:
        draw.text((x, y + height), axis.last, SOFT, letters, anchor="rs")
    length = math.ceil(letters.getlength(axis.name))
    if length <= height - 4 * line:
        strip = Image.new("RGB", (length, line), PAPER)
        ImageDraw.Draw(strip).text((0, 0), axis.name, SOFT, letters)
        image.paste(strip.transpose(Image.Transpose.ROTATE_90), (x - line, y + (height - length) // 2))


def _draw_bar(image: "Image.Image", bar: Bar, at: tuple[int, int], text: int, room: int) -> None:
    from PIL import Image, ImageDraw

    draw, small = ImageDraw.Draw(image), font(round(0.85 * text))
    (x, y), width, height = at, 14 * text, round(0.8 * text)
    strip = Image.fromarray(bar.colors[np.newaxis]).resize((width, height), Image.Resampling.NEAREST)
    image.paste(strip, (x, y))
    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=PANEL)
    below = y + height + round(0.25 * text)
    for share, words, anchor in ((0.0, bar.low, "la"), (0.5, bar.middle, "ma"), (1.0, bar.high, "ra")):
        draw.text((x + share * width, below), words, SOFT, small, anchor=anchor)
    _write(draw, (x + width + text, y - round(0.1 * text)), bar.label, small, SOFT, room - width - text)


def _wrapped(text: str, letters: "ImageFont.FreeTypeFont", room: int) -> list[str]:
    """The text wrapped between words into lines of at most `room` px."""
    lines = [""]
    for word in text[:500].split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and letters.getlength(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _write(
    draw: "ImageDraw.ImageDraw", at: tuple[int, int], text: str, letters: "ImageFont.FreeTypeFont", fill: str, room: int
) -> None:
    draw.text(at, cut(text, letters, room), fill, letters)


def cut(text: str, letters: "ImageFont.FreeTypeFont", room: float, middle: bool = False) -> str:
    """One line, cut with … to `room` px: at its end, or in the `middle` for names that differ at the end."""
    text = _printable(text)
    if letters.getlength(text) <= room:
        return text
    for length in range(len(text) - 1, 0, -1):
        tail = length // 2 if middle else 0
        if letters.getlength(shorter := f"{text[: length - tail]}…{text[len(text) - tail :]}") <= room:
            return shorter
    return "…"


def _printable(text: str) -> str:
    """The text with a space in place of each character that is not printable."""
    return "".join(c if c.isprintable() else " " for c in text[:500])
