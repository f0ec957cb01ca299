"""Boxes drawn on images, each with its class and score, in the color of the class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnn_cli.pictures import image
from cnn_cli.pictures.fonts import font

# Colors that stay distinguishable on photos and for the color-blind (Okabe and Ito 2008), then others.
_COLORS = (
    *("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"),
    *("#7e57c2", "#26c6da", "#9ccc65", "#ff8a80", "#8d6e63"),
)
_LEAST = 480  # px of the longer side: a smaller image is enlarged, so that the labels on it are legible


@dataclass(frozen=True)
class DrawnBox:
    """A box to draw: x0, y0, x1, y1 in pixels of the image, the class index, the label, and a color if not the class's
    own."""

    corners: Sequence[float]
    label: int
    words: str = ""
    ink: str = ""

    @property
    def color(self) -> str:
        return self.ink or class_color(self.label)


def class_color(label: int) -> str:
    return _COLORS[label % len(_COLORS)]


def enlargement(height: int, width: int) -> int:
    """The integer factor by which an image is enlarged before boxes are drawn on it."""
    return max(1, -(-_LEAST // max(height, width)) if max(height, width) < _LEAST else 1)


def with_boxes(pixels: image.Array, boxes: Sequence[DrawnBox], zoom: int = 1, line: int = 1) -> image.Array:
    """(H, W, 3) uint8 → (zoom · H, zoom · W, 3), the boxes drawn in order, with labels inside the picture.

    A label that would overlap another one is left out: the color shows the class. line: least line width, in px.
    """
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(pixels.repeat(zoom, 0).repeat(zoom, 1))
    draw, longest = ImageDraw.Draw(canvas), max(canvas.size)
    line, size = max(line, round(longest / 300)), max(9, round(longest / 40))
    for box in boxes:
        x0, y0, x1, y1 = (round(value * zoom) for value in box.corners)
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=box.color, width=line)
    taken: list[_Area] = []
    for box in (one for one in boxes if one.words):
        letters = font(size, text=box.words)
        wide, high = round(letters.getlength(box.words)) + 4, round(1.25 * size)
        corners = [round(value * zoom) for value in box.corners]
        if (place := _free_place(corners, (wide, high), canvas.size, taken)) is None:
            continue
        x, y = place
        taken.append((x, y, x + wide, y + high))
        color = image.rgb(box.color)
        draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=color)
        bright = np.dot(color, (0.299, 0.587, 0.114)) > 130
        draw.text((x + 2, y + high / 2), box.words, image.INK if bright else image.PAPER, letters, anchor="lm")
    return np.asarray(canvas)


_Area = tuple[int, int, int, int]  # x0, y0, x1, y1


def _free_place(
    corners: Sequence[int], size: tuple[int, int], canvas: tuple[int, int], taken: Sequence[_Area]
) -> tuple[int, int] | None:
    """A place for a label of this size (width, height) at a box: above or inside its upper or lower edge, at the left
    or right; None if the label would overlap others in all of them."""
    (x0, y0, x1, y1), (wide, high) = corners, size
    for y in (y0 - high, y0, y1 - high, y1):
        for x in (x0, x1 - wide):
            x = max(0, min(x, canvas[0] - wide))
            if 0 <= y <= canvas[1] - high and not any(
                x < right and left < x + wide and y < bottom and top < y + high for left, top, right, bottom in taken
            ):
                return x, y
    return None
