"""A grid of pictures with captions: the body of a page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cnn_cli.pictures import image
from cnn_cli.pictures.fonts import font
from cnn_cli.pictures.page import Axis, Caption, Panel, cut

ACCENT = "#b2182b"  # for the first line under a highlighted picture
_TEXT = 18  # px of the captions
_LINE = 24  # px, line height
_LEAST = 170  # px: room for a class name and a percentage
_SPACE = 16  # px between cells
_LARGE = 230  # px: enlarging pictures beyond this does not make them clearer


@dataclass(frozen=True)
class Cell:
    """A picture (H, W, 3) uint8 with lines of text under it, the first of them in `ink`."""

    body: image.Array
    words: tuple[str, ...] = ()
    ink: str = image.INK


def picture(pixels: Tensor) -> image.Array:
    """(C, H, W) in [0, 1] → (H, W, 3) uint8: RGB for 3 channels, grayscale for 1, the channels' mean for others."""
    values = pixels.detach().cpu().clamp(0, 1)
    values = values if len(values) == 3 else values.mean(0, keepdim=True).expand(3, -1, -1)
    return np.ascontiguousarray(values.mul(255).round().byte().permute(1, 2, 0).numpy())


def tinted(shown: image.Array, region: image.Array) -> image.Array:
    """A picture (H, W, 3) in grayscale, with a region (H, W) tinted."""
    gray = shown.mean(-1, keepdims=True).repeat(3, -1)
    mixed: image.Array = (
        np.where(region[..., np.newaxis], (gray + image.rgb(ACCENT)) / 2, gray).round().astype(np.uint8)
    )
    return mixed


def room(tile: tuple[int, int], words: int = 2) -> tuple[int, int]:
    """How many rows and columns of pictures (H, W) with `words` lines of caption fit a page."""
    return image.BODY // (tile[0] + words * _LINE + _SPACE), image.BODY // (max(tile[1], _LEAST) + _SPACE)


def captioned_grid(rows: Sequence[Sequence[Cell]], headings: Sequence[str] = ()) -> tuple[Panel, int]:
    """Rows of cells, all pictures of one size, and a heading above each column → a panel, and how many rows it holds.

    Pictures are enlarged by one integer factor, as long as the page fits a slide and they get clearer.
    """
    height, width = rows[0][0].body.shape[:2]
    columns, words = max(map(len, rows)), [max(len(cell.words) for cell in row) for row in rows]
    rows = rows[: max(1, room((height, width), max(words))[0])]
    below = [n * _LINE + _SPACE for n in words[: len(rows)]]
    zoom = _zoom((height, width), len(rows), columns, max(below))
    tall, wide = height * zoom, max(width * zoom, _LEAST)
    body = np.empty((len(rows) * tall + sum(below) - _SPACE, columns * (wide + _SPACE) - _SPACE, 3), np.uint8)
    body[:] = image.rgb(image.PAPER)
    captions = []
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            y, x = i * tall + sum(below[:i]), j * (wide + _SPACE)
            left = x + (wide - width * zoom) // 2
            body[y : y + tall, left : left + width * zoom] = cell.body.repeat(zoom, 0).repeat(zoom, 1)
            for n, text in enumerate(cell.words):
                ink, shown = image.SOFT if n else cell.ink, cut(text, font(_TEXT, text=text), wide, middle=True)
                captions.append(Caption(x + wide / 2, y + tall + 3 + n * _LINE, shown, _TEXT, ink))
    axis = Axis("", "", "", tuple(headings)) if headings else None
    return Panel(body, columns=axis, captions=tuple(captions)), len(rows)


def contact_sheet(cells: Sequence[Cell]) -> tuple[Panel, int]:
    """Cells row by row in a well-proportioned rectangle → a panel, and how many cells it shows."""
    tile = cells[0].body.shape[:2]
    columns = image.columns_for(len(cells), tile, most=room(tile)[1])
    panel, rows = captioned_grid([cells[i : i + columns] for i in range(0, len(cells), columns)])
    return panel, min(rows * columns, len(cells))


def _zoom(tile: tuple[int, int], rows: int, columns: int, below: int) -> int:
    """The largest enlargement that fits a slide; at least a readable one if that fits the largest page."""
    best = 1
    for zoom in range(1, image.LARGEST_ZOOM + 1):
        tall, wide = tile[0] * zoom, max(tile[1] * zoom, _LEAST) + _SPACE
        slide = rows * (tall + below) <= image.SLIDE[0] and columns * wide <= image.SLIDE[1]
        page = rows * (tall + below) <= image.BODY and columns * wide <= image.BODY
        if (slide and max(tile) * zoom <= 2 * _LARGE) or (page and max(tile) * zoom <= _LARGE):
            best = zoom
    return best
