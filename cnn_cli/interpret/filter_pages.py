"""Pages of filters: one convolution, two checkpoints side by side, or all convolutions of a network.

A layer whose input channels are the image's red, green and blue is drawn in color, others as maps of signed weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cnn_cli.errors import UsageError
from cnn_cli.interpret.filters import Filters, Health, cosine_similarity, describe, health, ordered
from cnn_cli.pictures import image
from cnn_cli.pictures.page import Axis, Bar, Caption, Page, Panel, compose_page
from cnn_cli.tables import counted

SIMILAR_INKS = ("#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito: colorblind-safe
_NUMBER = 17  # px under a filter for its number
_SECTION = 17  # px of the heading of a layer in an atlas
_MAX_LAYERS = 180  # on one page


@dataclass(frozen=True)
class Drawing:
    """A page of filters: its grid of tiles, the filters' `order`, the numbers of filters and channels `shown`, and the
    absolute weight of full color (`scale`)."""

    page: Page
    grid: image.Grid
    shown: tuple[int, int]
    scale: float
    order: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """A layer's filters in display order, each with its scale: one side of a page."""

    filters: Filters
    order: tuple[int, ...]
    scales: image.Array | float
    marks: Health

    @property
    def tiles(self) -> image.Array:
        """(O, I, H, W, 3) uint8, or (O, 1, H, W, 3) if the channels are colors."""
        values = self.filters.weights[list(self.order)]
        scales = self.scales[list(self.order)] if isinstance(self.scales, np.ndarray) else self.scales
        return image.color(values, scales)[:, None] if self.filters.color else image.signed(values, scales)

    def ink(self, number: int) -> str | None:
        """The color of a filter's frame; None without a frame."""
        if number in self.marks.dead:
            return image.INK
        for i, group in enumerate(self.marks.similar):
            if number in group:
                return SIMILAR_INKS[i % len(SIMILAR_INKS)]
        return None


def draw_filters(
    filters: Filters,
    title: str,
    provenance: str,
    per_filter: bool = False,
    by_norm: bool = False,
    compared: tuple[Filters, str] | None = None,
) -> Drawing:
    """A page of all filters of a layer, or as many as a picture holds, which the page then says.

    One scale for the layer, so that filters can be compared; with `per_filter` one per filter, so that weak ones are
    visible. `compared` (filters and their provenance) is drawn beside it in the same order and scale. UsageError if its
    shape differs.
    """
    sides = _sides(filters, compared and compared[0], per_filter, by_norm)
    scale = max(float(np.abs(side.filters.weights).max()) for side in sides)
    one_row = filters.color or filters.weights.shape[1] == 1
    drawn = [_sheet(side, len(sides)) if one_row else _matrix(side, len(sides)) for side in sides]
    panels, grid, shown = [panel for d in drawn for panel in d[0]], drawn[0][1], drawn[0][2]
    lines = [describe(filters, shown), *_explain_frames(sides[0].marks), provenance]
    if compared:
        panels = [replace(panel, heading=letter) for panel, letter in zip(panels, "AB", strict=True)]
        similarity = cosine_similarity(filters, compared[0])
        mean, least, most = (image.number(float(f(similarity))) for f in (np.mean, np.min, np.max))
        similar = f"cosine similarity of each filter to its counterpart: mean {mean}, from {least} to {most}"
        lines[-1:] = [similar, f"A: {provenance}", f"B: {compared[1]}"]
    return Drawing(
        compose_page(panels, title, lines, _bar(filters, scale, per_filter)), grid, shown, scale, sides[0].order
    )


def _sides(filters: Filters, others: Filters | None, per_filter: bool, by_norm: bool) -> list[Side]:
    both = [filters] if others is None else [filters, others]
    if others is not None and others.weights.shape != filters.weights.shape:
        shape, other = ("x".join(map(str, f.weights.shape)) for f in (filters, others))
        raise UsageError(
            f"layer {filters.layer} has weights of shape {shape}, but {other} in the network of --compare; compare "
            "networks of one spec"
        )
    scale = max(float(np.abs(f.weights).max()) for f in both)
    own = [np.abs(f.weights).max(axis=(1, 2, 3), keepdims=True) for f in both]
    order = ordered(filters, by_norm)
    return [Side(f, order, own[i] if per_filter else scale, health(f)) for i, f in enumerate(both)]


def _sheet(side: Side, panels: int) -> tuple[list[Panel], image.Grid, tuple[int, int]]:
    """A tile per filter, row by row, numbered if there is room."""
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
    return [Panel(body, captions=tuple(captions))], grid, (shown, 3 if side.filters.color else 1)


def _matrix(side: Side, sides: int) -> tuple[list[Panel], image.Grid, tuple[int, int]]:
    """A row of maps per filter. Many filters with few channels are split into panels side by side."""
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
    """Frame the tiles of filters that are dead or similar."""
    for place, number in enumerate(side.order[:shown]):
        if ink := side.ink(number):
            x, y = grid.corner(place, tile)
            box = (x, y, x + tile[1] * grid.zoom, y + tile[0] * grid.zoom)
            image.frame(body, box, ink, max(1, grid.gap // 3))


def _frame_rows(body: image.Array, side: Side, grid: image.Grid, height: int, numbers: Sequence[int]) -> None:
    """Frame the rows of maps of filters that are dead or similar."""
    for row, number in enumerate(numbers):
        if ink := side.ink(number):
            y = grid.gap + row * (height * grid.zoom + grid.gap)
            box = (grid.gap, y, body.shape[1] - grid.gap, y + height * grid.zoom)
            image.frame(body, box, ink, max(1, grid.gap // 3))


def _explain_frames(marks: Health) -> list[str]:
    """The line that explains the frames, if there are any."""
    frames = ["black: dead"] * bool(marks.dead) + ["one color per group: similar"] * bool(marks.similar)
    return [f"{marks} (frames: {', '.join(frames)})"] if frames else []


def _bar(filters: Filters, scale: float, per_filter: bool) -> Bar:
    ends = ("−max", "max") if per_filter else (image.number(-scale), image.number(scale))
    scaling = "each filter by its own largest" if per_filter else "one scale for all filters"
    quantity = "weight of each color" if filters.color else "weight"
    if scale == 0:
        ends, scaling = ("0", "0"), "all weights are 0"
    return Bar(image.ramp(filters.color), ends[0], "0", ends[1], f"{quantity}, {scaling}")


def draw_atlas(layers: Sequence[Filters], title: str, provenance: str) -> tuple[Page, list[int]]:
    """An atlas: a section per layer with its strongest filters, and the number shown of each.

    If the channels of a layer do not fit, those with the largest weights are shown. One scale per layer. Layers beyond
    180 are left out, and the page says so.
    """
    shown_layers = layers[:_MAX_LAYERS]
    columns = max(1, round(math.sqrt(len(shown_layers) / 2.2)))
    rows = math.ceil(len(shown_layers) / columns)
    box = max(110, 1000 // rows), max(300, 1560 // columns)
    sections = [_section(layer, box) for layer in shown_layers]
    marks = [health(layer) for layer in shown_layers]
    dead, similar = sum(len(h.dead) for h in marks), sum(len(g) for h in marks for g in h.similar)
    count = counted(len(layers), "convolution")
    count += f", the first {_MAX_LAYERS} are shown" if len(shown_layers) < len(layers) else ""
    frames = f"{dead} filters dead (framed in black), {similar} similar (one color per group)"
    label = "weight, one scale per layer; rows of maps are filters, columns are channels"
    panels = _stacks([panel for panel, _ in sections], columns)
    drawn = compose_page(
        panels, title, [f"{count}; {frames}", provenance], Bar(image.ramp(), "−scale", "0", "scale", label)
    )
    return drawn, [count for _, count in sections]


def _stacks(panels: Sequence[Panel], columns: int) -> list[list[Panel]]:
    """The panels in columns of about equal height, in order."""
    heights = np.array([p.body.shape[0] + 60 for p in panels])
    middles = heights.cumsum() - heights / 2
    column = np.minimum(middles / heights.sum() * columns, columns - 1).astype(int)
    return [[p for p, c in zip(panels, column, strict=True) if c == i] for i in range(columns) if i in column]


def _section(filters: Filters, box: tuple[int, int]) -> tuple[Panel, int]:
    """A layer within (height, width) px, as tiles or as rows of maps; and the number of filters shown."""
    side = Side(filters, ordered(filters, by_norm=True), float(np.abs(filters.weights).max()), health(filters))
    one_row = filters.color or filters.weights.shape[1] == 1
    body, shown, channels = _tiles_in(side, box) if one_row else _rows_in(side, box)
    size = _SECTION if box[1] >= 700 else _SECTION - 2
    return Panel(body, heading=_heading(side, shown, channels, box[1] >= 700), size=size), shown


def _tiles_in(side: Side, box: tuple[int, int]) -> tuple[image.Array, int, int]:
    count, _, height, width = side.filters.weights.shape
    least, most = (max(1, round(px / max(height, width))) for px in (16, 84))
    for zoom in range(most, least - 1, -1):
        rows, columns = (max(1, (room - 4) // (n * zoom + 4)) for room, n in zip(box, (height, width), strict=True))
        if rows * columns >= count:
            break
    rows = min(rows, math.ceil(count / columns))
    columns = min(columns, math.ceil(count / rows))  # rows of equal length, without a short last one
    grid, shown = image.Grid(rows, columns, zoom, 4), min(count, rows * columns)
    body = image.tiled(image.wrap(side.tiles[:shown, 0], columns), grid)
    _frame_tiles(body, side, grid, (height, width), shown)
    return body, shown, side.filters.weights.shape[1]


def _rows_in(side: Side, box: tuple[int, int]) -> tuple[image.Array, int, int]:
    """Rows of maps, in several blocks side by side. If not all channels fit, those with the largest weights."""
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


def _heading(side: Side, shown: int, channels: int, wide: bool) -> str:
    """`conv2: 32 of 64 filters, 20 of 32 channels, 3x3; 2 dead; scale 0.41`; in a narrow panel
    `conv2: 32/64 × 20/32 of 3x3, ±0.41; 2 dead`."""
    outputs, inputs, height, width = side.filters.weights.shape
    marks = f"; {side.marks}" if str(side.marks) else ""
    scale, size, parts = image.number(float(side.scales)), f"{height}x{width}", ((shown, outputs), (channels, inputs))
    if not wide:
        counts = [f"{part}/{total}" if part < total else f"{total}" for part, total in parts]
        return f"{side.filters.layer}: {' × '.join(counts)} of {size}, ±{scale}{marks}"
    counts = [
        f"{part}{f' of {total}' if part < total else ''} {unit}{'s' * (total > 1)}"
        for (part, total), unit in zip(parts, ("filter", "channel"), strict=True)
    ]
    return f"{side.filters.layer}: {', '.join(counts)}, {size}{marks}; scale {scale}"
