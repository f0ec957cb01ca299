"""Filters as pictures: those of one convolution, beside another's, or of all convolutions on one page.

A layer that sees the red, green and blue of the image is shown in colour, every other one as maps of signed weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnn_cli.errors import UsageError
from cnn_cli.interpret.filters import Filters, Health, describe, health, likeness, ordered
from cnn_cli.pictures import image
from cnn_cli.pictures.page import Axis, Bar, Caption, Page, Panel, page

DEAD_INK = image.INK
ALIKE_INKS = ("#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito: told apart by all eyes
_NUMBER = 17  # px under a filter for its number
_SECTION = 17  # px of the words over a layer of an atlas
_MOST = 180  # layers on one page


@dataclass(frozen=True)
class Drawing:
    """Filters as a page. `grid` says where the tiles stand on each panel, `order` which filters they are, `shown` how
    many filters and channels of each there are, `scale` which weight has the strongest colour."""

    page: Page
    grid: image.Grid
    shown: tuple[int, int]
    scale: float
    order: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """A layer's filters in the order to be shown, with the scale of each: what one side of a page shows."""

    filters: Filters
    order: tuple[int, ...]
    scales: image.Array | float
    marks: Health

    @property
    def tiles(self) -> image.Array:
        """(O, I, H, W, 3) uint8, or (O, 1, H, W, 3) where the channels are colours."""
        values = self.filters.weights[list(self.order)]
        scales = self.scales[list(self.order)] if isinstance(self.scales, np.ndarray) else self.scales
        return image.colour(values, scales)[:, None] if self.filters.colour else image.signed(values, scales)

    def ink(self, number: int) -> str | None:
        """The colour of the frame around a filter, if it has one."""
        if number in self.marks.dead:
            return DEAD_INK
        for i, group in enumerate(self.marks.alike):
            if number in group:
                return ALIKE_INKS[i % len(ALIKE_INKS)]
        return None


def draw_filters(
    filters: Filters,
    network: str,
    weights: str,
    per_filter: bool = False,
    sort: str = "",
    others: Filters | None = None,
    other_weights: str = "",
) -> Drawing:
    """Every filter of a layer, or as many as a picture holds, which it then says.

    `network` is the title, `weights` says where they come from. One scale for the whole layer, so that filters can be
    compared; with `per_filter` each has its own, so that weak ones can be seen. `others` are shown beside it, in the
    same order and at the same scale. UsageError where they have another shape.
    """
    sides = _sides(filters, others, per_filter, sort)
    scale = max(float(np.abs(side.filters.weights).max()) for side in sides)
    sheets = filters.colour or filters.weights.shape[1] == 1
    drawn = [_sheet(side, len(sides)) if sheets else _matrix(side, len(sides)) for side in sides]
    panels, grid, shown = [panel for d in drawn for panel in d[0]], drawn[0][1], drawn[0][2]
    lines = [describe(filters, shown), *_marks(sides[0].marks), weights]
    if others is not None:
        panels = [Panel(**(vars(p) | {"heading": h})) for p, h in zip(panels, (weights, other_weights), strict=True)]
        lines[-1] = _kept(likeness(filters, others))
    bar = _bar(filters, scale, per_filter)
    return Drawing(page(panels, network, lines, bar), grid, shown, scale, sides[0].order)


def _sides(filters: Filters, others: Filters | None, per_filter: bool, sort: str) -> list[Side]:
    both = [filters] if others is None else [filters, others]
    if others is not None and others.weights.shape != filters.weights.shape:
        shapes = ("×".join(map(str, f.weights.shape)) for f in (others, filters))
        raise UsageError(f"layer {filters.layer} is {' there and '.join(shapes)} here; compare networks of one spec")
    scale = max(float(np.abs(f.weights).max()) for f in both)
    order = ordered(filters, sort)
    own = [np.abs(f.weights).max(axis=(1, 2, 3), keepdims=True) for f in both]
    return [Side(f, order, own[i] if per_filter else scale, health(f)) for i, f in enumerate(both)]


def _sheet(side: Side, panels: int) -> tuple[list[Panel], image.Grid, tuple[int, int]]:
    """One tile a filter, row by row, numbered where there is room."""
    tiles = side.tiles[:, 0]
    count, height, width, _ = tiles.shape
    columns = image.columns_for(count, (height, width * panels))
    rows = math.ceil(count / columns)
    grid = image.fit(rows, columns, (height, width), panels, _NUMBER)
    if width * grid.zoom < 2 * _NUMBER:
        grid = image.fit(rows, columns, (height, width), panels)
    shown = min(count, grid.rows * grid.columns)
    body = image.tiled(image.wrap(tiles[:shown], grid.columns), grid)
    _frame_tiles(body, side, grid, (height, width), shown)
    captions, down = [], height * grid.zoom + grid.gap // 3 + 1
    for place, number in enumerate(side.order[:shown] if grid.below else ()):
        x, y = grid.corner(place, (height, width))
        captions.append(Caption(x + width * grid.zoom / 2, y + down, f"{number}", _NUMBER - 4))
    return [Panel(body, captions=tuple(captions))], grid, (shown, 3 if side.filters.colour else 1)


def _matrix(side: Side, sides: int) -> tuple[list[Panel], image.Grid, tuple[int, int]]:
    """A row of maps a filter. Many filters of few channels are folded into panels side by side."""
    tiles = side.tiles
    outputs, inputs, height, width, _ = tiles.shape
    folds = 1 if sides > 1 else image.columns_for(outputs, (height, inputs * width), most=12)
    grid = image.fit(math.ceil(outputs / folds), inputs, (height, width), folds * sides)
    shown = (min(outputs, folds * grid.rows), grid.columns)
    name = "channel of the group" if side.filters.groups > 1 else "input channel"
    columns = Axis(name, "0", str(shown[1] - 1))
    panels = []
    for first in range(0, shown[0], grid.rows):
        numbers = side.order[first : min(first + grid.rows, shown[0])]
        body = image.tiled(tiles[first : first + len(numbers)], grid)
        _frame_rows(body, side, grid, height, numbers)
        each = tuple(map(str, numbers))
        panels.append(Panel(body, Axis("filter", each[0], each[-1], each), columns))
    return panels, grid, shown


def _frame_tiles(body: image.Array, side: Side, grid: image.Grid, tile: tuple[int, int], shown: int) -> None:
    """Mark the filters that are dead or alike, each on its tile."""
    for place, number in enumerate(side.order[:shown]):
        if ink := side.ink(number):
            x, y = grid.corner(place, tile)
            box = (x, y, x + tile[1] * grid.zoom, y + tile[0] * grid.zoom)
            image.frame(body, box, ink, max(1, grid.gap // 3))


def _frame_rows(body: image.Array, side: Side, grid: image.Grid, height: int, numbers: Sequence[int]) -> None:
    """Mark them around their rows of maps."""
    for row, number in enumerate(numbers):
        if ink := side.ink(number):
            y = grid.gap + row * (height * grid.zoom + grid.gap)
            box = (grid.gap, y, body.shape[1] - grid.gap, y + height * grid.zoom)
            image.frame(body, box, ink, max(1, grid.gap // 3))


def _marks(marks: Health) -> list[str]:
    """The line that explains the frames, if there are any."""
    words = [f"{marks.words()}"] if marks.words() else []
    how = ["black: dead"] * bool(marks.dead) + ["a colour: alike"] * bool(marks.alike)
    return [f"{words[0]} (framed in {', '.join(how)})"] if words else []


def _kept(cosines: image.Array) -> str:
    mean, least, most = (image.number(float(f(cosines))) for f in (np.mean, np.min, np.max))
    return f"likeness of each filter to its counterpart (cosine): {mean} on average, from {least} to {most}"


def _bar(filters: Filters, scale: float, per_filter: bool) -> Bar:
    ends = ("−max", "max") if per_filter else (image.number(-scale), image.number(scale))
    whose = "each filter by its own largest" if per_filter else "one scale for all filters"
    of = "weight of each colour" if filters.colour else "weight"
    if scale == 0:
        ends, whose = ("0", "0"), "all of them 0"
    return Bar(image.ramp(filters.colour), ends[0], "0", ends[1], f"{of}, {whose}")


def draw_all(layers: Sequence[Filters], network: str, weights: str, sort: str = "norm") -> tuple[Page, list[int]]:
    """An atlas: a section for each layer, with as many of its filters and channels as there is room for.

    Of a layer that has no room for all, the channels with the largest weights are shown. One scale a layer. Also how
    many filters of each are shown; layers beyond 180 are left out, and the page says so.
    """
    some = layers[:_MOST]
    columns = max(1, round(math.sqrt(len(some) / 2.2)))
    rows = math.ceil(len(some) / columns)
    box = max(110, 1000 // rows), max(300, 1560 // columns)
    sections = [_part(layer, sort, box) for layer in some]
    stacks = _stacks([s[0] for s in sections], columns)
    found = [health(layer) for layer in some]
    dead, alike = sum(len(h.dead) for h in found), sum(len(g) for h in found for g in h.alike)
    count = f"{len(layers)} convolutions" + (f", the first {len(some)} are shown" if len(some) < len(layers) else "")
    frames = f"; {dead} filters dead (framed in black), {alike} alike (each group in a colour)"
    bar = Bar(
        image.ramp(),
        "−scale",
        "0",
        "scale",
        "weight, one scale for each layer; each row of maps is a filter, each column a channel",
    )
    return page(stacks, network, [count + frames, weights], bar), [s[1] for s in sections]


def _stacks(panels: Sequence[Panel], columns: int) -> list[list[Panel]]:
    """The panels in their order in columns of about the same height."""
    heights = np.array([p.body.shape[0] + 60 for p in panels])
    middles = heights.cumsum() - heights / 2
    column = np.minimum(middles / heights.sum() * columns, columns - 1).astype(int)
    return [[p for p, c in zip(panels, column, strict=True) if c == i] for i in range(columns) if i in column]


def _part(filters: Filters, sort: str, box: tuple[int, int]) -> tuple[Panel, int]:
    """A layer in a box (height, width) px: its filters as tiles, or as rows of maps; and how many are shown."""
    order = ordered(filters, sort)
    side = Side(filters, order, float(np.abs(filters.weights).max()), health(filters))
    sheet = filters.colour or filters.weights.shape[1] == 1
    body, shown, channels = _tiles_in(side, box) if sheet else _rows_in(side, box)
    size = _SECTION if box[1] >= 700 else _SECTION - 2
    return Panel(body, heading=_heading(filters, side, shown, channels, box[1] >= 700), size=size), shown


def _tiles_in(side: Side, box: tuple[int, int]) -> tuple[image.Array, int, int]:
    count, _, height, width = side.filters.weights.shape
    least, most = (max(1, round(px / max(height, width))) for px in (16, 84))
    for zoom in range(most, least - 1, -1):
        rows, columns = (max(1, (room - 4) // (n * zoom + 4)) for room, n in zip(box, (height, width), strict=True))
        if rows * columns >= count:
            break
    rows = min(rows, math.ceil(count / columns))
    columns = min(columns, math.ceil(count / rows))  # as many in every row, not a last one of a few
    grid, shown = image.Grid(rows, columns, zoom, 4), min(count, rows * columns)
    body = image.tiled(image.wrap(side.tiles[:shown, 0], columns), grid)
    _frame_tiles(body, side, grid, (height, width), shown)
    return body, shown, side.filters.weights.shape[1]


def _rows_in(side: Side, box: tuple[int, int]) -> tuple[image.Array, int, int]:
    """Rows go on in the next block beside it. Where not all channels fit, those with the largest weights are shown."""
    outputs, inputs, height, width = side.filters.weights.shape
    gap, between = 2 * (max(height, width) > 1), 12
    least, most = (max(1, round(px / max(height, width))) for px in (9, 30))
    for zoom in range(most, least - 1, -1):
        rows = max(1, (box[0] - gap) // (height * zoom + gap))
        columns = min(inputs, max(1, (box[1] - gap) // (width * zoom + gap)))
        blocks = max(1, (box[1] + between) // (columns * (width * zoom + gap) + gap + between))
        if columns == inputs and rows * blocks >= outputs:
            break
    shown = min(outputs, rows * blocks)
    blocks = max(math.ceil(shown / rows), image.columns_for(shown, (height, columns * width), most=blocks))
    rows = math.ceil(shown / blocks)
    order, tiles = side.order[:shown], side.tiles[:shown]
    if columns < inputs:
        strength = np.abs(side.filters.weights[list(order)]).sum((0, 2, 3))
        tiles = tiles[:, np.argsort(-strength, kind="stable")[:columns]]
    parts = []
    for first in range(0, shown, rows):
        grid = image.Grid(rows, columns, zoom, gap)
        body = image.tiled(tiles[first : first + rows], grid)
        _frame_rows(body, side, grid, height, order[first : first + rows])
        full = np.full((rows * (height * zoom + gap) + gap, body.shape[1] + between, 3), image.rgb(image.PAPER))
        full[: len(body), : body.shape[1]] = body
        parts.append(full.astype(np.uint8))
    return np.concatenate(parts, 1)[:, :-between], shown, columns


def _heading(filters: Filters, side: Side, shown: int, channels: int, wide: bool) -> str:
    """`conv2: 32 of 64 filters, 20 of 32 channels, 3×3; 2 dead; scale 0.41`, or `conv2: 64×32 of 3×3; 2 dead`.

    A narrow panel has room for little, but says where filters or channels had to be left out: `conv2: 12/64×32 of 3×3`.
    """
    outputs, inputs, height, width = filters.weights.shape
    marks = f"; {words}" if (words := side.marks.words()) else ""
    if not wide:
        sizes = [f"{n}/{all}" if n < all else f"{all}" for n, all in ((shown, outputs), (channels, inputs))]
        return f"{filters.layer}: {'×'.join(sizes)} of {height}×{width}{marks}"
    parts = ((shown, outputs, "filter"), (channels, inputs, "channel"))
    first = [f"{n}{f' of {all}' if n < all else ''} {thing}{'s' * (all > 1)}" for n, all, thing in parts]
    return f"{filters.layer}: {', '.join(first)}, {height}×{width}{marks}; scale {image.number(float(side.scales))}"
