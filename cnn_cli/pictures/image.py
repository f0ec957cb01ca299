"""Tensor to picture: color maps, grids of tiles enlarged without smoothing, and writing the file.

Arrays are (…, H, W) for maps and (…, H, W, 3) uint8 for colors. A picture never exceeds LIMIT pixels per side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_cli.errors import CnnError, UsageError
from cnn_cli.files import write_bytes

if TYPE_CHECKING:
    from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]

LIMIT = 4000  # px per side of a picture: what slides, browsers and papers still accept
BODY = 3300  # px per side of the body, so that with title, labels and margins the picture stays within LIMIT
BESIDE = 140  # px for a panel's labels and the gap to the next panel
SLIDE = (1200, 1760)  # px (height, width) of a body that fits a slide at full size
READABLE = 18  # px: smaller tiles are hard to distinguish, so then the picture gets larger than a slide
LARGEST_ZOOM = 48  # px per value: larger does not make a tile clearer

INK, SOFT, PANEL, PAPER = "#1f2933", "#5f6c7b", "#dde2e8", "#ffffff"

# ColorBrewer's RdBu (Brewer 1994; colorblind-safe), reversed: blue is negative, red positive.
_YLORRD = "fed976 feb24c fd8d3c fc4e2a e31a1c"
_RDBU = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"


def diverging() -> Array:
    """The color map of signed data: (255, 3) uint8, 127 = zero. No color occurs twice, so that values can be read
    back."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in _RDBU.split()])
    at = np.linspace(0, len(anchors) - 1, 255)
    channels = [np.interp(at, range(len(anchors)), anchors[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def signed(values: Array, scale: Array | float) -> Array:
    """(…) → (…, 3) uint8: −scale is blue, 0 white, +scale red. `scale` broadcasts; a scale of 0 gives white."""
    return diverging()[_level(values, scale)]


def color(values: Array, scale: Array | float) -> Array:
    """RGB weights (…, 3, H, W) → (…, H, W, 3) uint8: 0 is mid-gray, −scale black, +scale the full channel."""
    return np.moveaxis(_level(values, scale) + np.uint8(1), -3, -1)  # levels 1 to 255, with 0 at 128


def heat(shares: Array) -> Array:
    """(…) in [0, 1] → (…, 3) uint8: the color map of importance, from yellow to red (ColorBrewer's YlOrRd)."""
    anchors = np.array([rgb(f"#{c}") for c in _YLORRD.split()])
    at = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(shares, at, anchors[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def overlay_heat(shown: Array, shares: Array, opacity: float) -> Array:
    """A heat map (H, W) in [0, 1] over a picture (H, W, 3) in grayscale; larger values are more opaque."""
    gray = shown.mean(-1, keepdims=True).repeat(3, -1)
    alpha = opacity * shares[..., np.newaxis]
    mixed: Array = ((1 - alpha) * gray + alpha * heat(shares)).round().astype(np.uint8)
    return mixed


def ramp(colored: bool = False) -> Array:
    """(255, 3) uint8: the colors of `signed`, or the grays of `color`, from −scale to +scale, for a color bar."""
    steps = np.linspace(-1, 1, 255)
    return color(np.tile(steps, (3, 1, 1)), 1.0)[0] if colored else signed(steps, 1.0)


def _level(values: Array, scale: Array | float) -> Array:
    """Values within ±scale → integers 0 to 254, 127 = zero."""
    share: Array = np.asarray(values, dtype=np.float64) / np.where(np.asarray(scale) > 0, scale, 1.0)
    levels: Array = np.rint(127 + 127 * share.clip(-1, 1)).astype(np.uint8)
    return levels


@dataclass(frozen=True)
class Grid:
    """A layout of `rows` x `columns` tiles: `zoom` px per value, `gap` px around each tile.

    `below` is the space under each tile for a caption, `wide` the width of the cells in which tiles are centered, in
    px.
    """

    rows: int
    columns: int
    zoom: int
    gap: int
    below: int = 0
    wide: int = 0

    def corner(self, number: int, tile: tuple[int, int]) -> tuple[int, int]:
        """(x, y) in the body of the tile (H, W) with this index, in px."""
        row, column = divmod(number, self.columns)
        height, width = (side * self.zoom for side in tile)
        cell = max(width, self.wide)
        left = self.gap + column * (cell + self.gap) + (cell - width) // 2
        return left, self.gap + row * (height + self.gap + self.below)


def fit(rows: int, columns: int, tile: tuple[int, int], panels: int = 1, below: int = 0) -> Grid:
    """The clearest grid of `rows` x `columns` tiles (H, W), for `panels` such grids side by side.

    It fits a slide if it is legible there, else BODY px per side. If one pixel per value is already too large, the grid
    has as many rows and columns as fit. `below` px under each tile are for captions. CnnError if one tile is too large.
    """
    width = BODY // panels - BESIDE
    slide = (SLIDE[0], max(SLIDE[1] // panels - BESIDE // 2, 1))
    readable = math.ceil(READABLE / min(tile)) if max(tile) > 1 else 1
    largest, good = (_zoom(rows, columns, tile, box, below) for box in ((BODY, width), slide))
    zoom = max(1, min(largest, max(good, readable)))
    gap = _gap(tile, zoom)
    most_rows = (BODY - gap) // (tile[0] * zoom + gap + below)
    most_columns = (width - gap) // (tile[1] * zoom + gap)
    if not most_rows or not most_columns:
        raise CnnError(f"one map of {tile[0]}x{tile[1]} values is larger than the largest picture ({LIMIT} px a side)")
    return Grid(min(rows, most_rows), min(columns, most_columns), zoom, gap, below)


def _gap(tile: tuple[int, int], zoom: int) -> int:
    """The gap in px: none between small single values (1x1 convolutions), which form a matrix, else a line."""
    side = min(tile) * zoom
    return side // 12 if max(tile) == 1 else min(max(side // 7, 1), 14)


def _zoom(rows: int, columns: int, tile: tuple[int, int], box: tuple[int, int], below: int = 0) -> int:
    """The largest enlargement at which the grid fits the box (height, width) in px; 0 if none fits."""
    for zoom in range(LARGEST_ZOOM, 0, -1):
        gap = _gap(tile, zoom)
        height, width = rows * (tile[0] * zoom + gap + below) + gap, columns * (tile[1] * zoom + gap) + gap
        if height <= box[0] and width <= box[1]:
            return zoom
    return 0


def columns_for(count: int, tile: tuple[int, int], most: int | None = None) -> int:
    """How many columns (`most` at most) arrange `count` tiles (H, W) in a rectangle of about 8:5, preferring full rows.

    >>> [columns_for(n, (3, 3)) for n in (6, 32, 64, 96)]
    [3, 8, 8, 12]
    """

    def displeasure(columns: int) -> float:
        rows = math.ceil(count / columns)
        ragged = 0.5 + (rows * columns - count) / count if count % columns else 0.0
        return abs(math.log(columns * tile[1] / (rows * tile[0]) / 1.6)) + ragged

    return min(range(1, min(count, most or count) + 1), key=displeasure)


def wrap(tiles: Array, columns: int) -> Array:
    """(N, H, W, 3) → (rows, columns, H, W, 3), row by row; empty places get the panel's color."""
    count, *shape = tiles.shape
    rows = math.ceil(count / columns)
    full = np.broadcast_to(np.array(rgb(PANEL), np.uint8), (rows * columns, *shape)).copy()
    full[:count] = tiles
    return full.reshape(rows, columns, *shape)


def tiled(tiles: Array, grid: Grid) -> Array:
    """(rows, columns, H, W, 3) → one (H', W', 3) uint8 array: enlarged by an integer factor without smoothing, gaps
    around."""
    tiles = tiles[: grid.rows, : grid.columns].repeat(grid.zoom, axis=2).repeat(grid.zoom, axis=3)
    rows, columns, height, width, _ = tiles.shape
    cell = max(width, grid.wide)
    pitch_y, pitch_x, left = height + grid.gap + grid.below, cell + grid.gap, (cell - width) // 2
    sheet = np.empty((rows * pitch_y + grid.gap, columns * pitch_x + grid.gap, 3), np.uint8)
    sheet[:] = rgb(PANEL)
    # Reshaping the slice gives a view, so this writes into the sheet; a loop over tiles would take seconds.
    cells = sheet[grid.gap :, grid.gap :].reshape(rows, pitch_y, columns, pitch_x, 3)
    cells[:, :height, :, left : left + width] = tiles.transpose(0, 2, 1, 3, 4)
    return sheet


def frame(sheet: Array, box: tuple[int, int, int, int], ink: str, width: int) -> None:
    """Draw a frame of `width` px around the outside of a box (x0, y0, x1, y1) into a sheet (H, W, 3), in place."""
    x0, y0, x1, y1 = box
    rows, columns = slice(max(0, y0 - width), y1 + width), slice(max(0, x0 - width), x1 + width)
    inside = sheet[y0:y1, x0:x1].copy()
    sheet[rows, columns] = rgb(ink)
    sheet[y0:y1, x0:x1] = inside


def reduced(values: Array, most: int) -> tuple[Array, int]:
    """Average-pool maps (…, H, W) to at most `most` px per side → the maps, and the pool size n (1: unchanged).

    A rest smaller than n x n at the right and bottom is cut off.
    """
    n = math.ceil(max(values.shape[-2:]) / most)
    if n == 1:
        return values, 1
    *rest, height, width = values.shape
    height, width = max(height // n, 1), max(width // n, 1)
    down, across = (min(n, side) for side in values.shape[-2:])
    squares = values[..., : height * down, : width * across].reshape(*rest, height, down, width, across)
    return squares.mean((-3, -1)), n


def rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` (at least 2) of 0 … count − 1, evenly spaced, including the first and the last.

    >>> evenly_spaced(10, 4), evenly_spaced(3, 4)
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return [round(i * (count - 1) / (most - 1)) for i in range(most)] if count > most else list(range(count))


def number(value: float) -> str:
    """A number with three significant digits and a minus sign, not a hyphen: `−0.417`, `1.2e−05`."""
    return f"{value:.3g}".replace("-", "−")


def file_name(*parts: str) -> str:
    """A file name for a picture, from names with any characters: `filters-layer1.0.conv1.png`."""
    words = "-".join(parts)
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in words)[:120] + ".png"


def check_target(path: Path, force: bool, kinds: Sequence[str] = (".png",)) -> None:
    """UsageError, before any work, for an unsupported file type or a file that exists already without `force`.

    >>> check_target(Path("new.png"), force=False)
    """
    if path.suffix.lower() not in kinds:
        raise UsageError(f"{path}: the picture is written as {' or '.join(kinds)}; choose such a name with -o")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already; --force overwrites it, -o writes elsewhere")


def save(image: "Image.Image", path: Path) -> None:
    """Write a PNG atomically. CnnError if it cannot be written."""
    buffer = BytesIO()
    image.save(buffer, format="png")
    write_bytes(path, buffer.getvalue())
