"""A finished figure as a list of shapes in px, the same for SVG and PNG: rounded boxes, curves with arrowheads, and
text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cnn_cli.graph.boxes import Arrow, Box
from cnn_cli.graph.columns import Grid, arrange_in_columns
from cnn_cli.graph.layout import Layout, lay_out

Point = tuple[float, float]
Piece = tuple[Point, Point, Point, Point]  # of a cubic curve: start, two controls, end

INK, SOFT, LINE, PAPER = "#1f2933", "#5f6c7b", "#7b8794", "#ffffff"
# Fill and border, told apart by people with any color vision: lightness differs as well as hue (after Okabe and Ito).
COLORS = {
    "input": ("#ffffff", "#7b8794"),
    "block": ("#eef2f6", "#52606d"),
    "convolution": ("#d6e6f5", "#2a6496"),
    "linear": ("#d3ede1", "#1d7a55"),
    "pooling": ("#fde5c8", "#b8690b"),
    "join": ("#ffffff", "#1f2933"),
    "parameter": ("#f6e3ee", "#a3457c"),
    "shape": ("#f4f1ea", "#8a8069"),
    "point": ("#fbf4cc", "#9a8410"),
}
TITLE, SMALL, SHAPE, HEAD = 13.0, 11.0, 11.0, 20.0  # px of text
MARGIN, COLUMN_GAP = 28.0, 56.0
RANK_GAP, FAN_GAP = 40.0, 58.0  # where arrows run straight down, and where they bend
STUB, TIP = 18.0, 9.0  # px that an arrow runs straight down at first, beside its shape, and at its end


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    width: float
    height: float
    fill: str
    border: str
    radius: float = 6.0


@dataclass(frozen=True)
class Text:
    x: float
    y: float  # of the baseline
    text: str
    size: float
    color: str
    bold: bool = False
    anchor: str = "middle"  # or start
    halo: bool = False  # a white rim, so that a line behind does not disturb


@dataclass(frozen=True)
class Curve:
    """A line through points: cubic pieces (start, control, control, end), with an arrowhead at the end."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Figure:
    width: float
    height: float
    shapes: tuple[Rect | Text | Curve, ...]


def width_of(text: str, size: float, bold: bool = False) -> float:
    """About how wide a text is in DejaVu Sans or Verdana: the same estimate for all formats, so that they look
    alike."""
    units = sum(
        0.34 if c in "ijltI.,:;|'·-() " else 0.92 if c in "mwMW@%" else 0.68 if c.isupper() else 0.62 for c in text
    )
    return units * size * (1.08 if bold else 1.0)


def compose(name: str, caption: str, boxes: Sequence[Box], arrows: Sequence[Arrow]) -> Figure:
    """The drawing of these boxes under their name; long chains go on in further columns."""
    sizes = [_size(box) for box in boxes]
    plan = lay_out([w for w, _ in sizes], [(a.start, a.end) for a in arrows])
    heights = [max((sizes[n][1] for n in rank if n < len(boxes)), default=0.0) for rank in plan.ranks]
    grid = arrange_in_columns(plan, heights, _gaps(plan), COLUMN_GAP)
    canvas = _Canvas(plan, grid, heights, sizes, MARGIN + HEAD + (72 if len(grid.right) > 1 else 44))
    shapes: list[Rect | Text | Curve] = [Curve(tuple(canvas.way(way))) for way in plan.ways]
    for number, box in enumerate(boxes):
        shapes += _drawn(box, *canvas.middle(number), sizes[number])
    for start, shape in dict.fromkeys(
        (a.start, a.shape) for a in arrows
    ):  # where several leave with one shape, it is said once
        x, y = canvas.bottom(start)
        shapes.append(Text(x + 7, y + 17, shape, SHAPE, SOFT, anchor="start", halo=True))
    shapes.append(Text(MARGIN, MARGIN + HEAD * 0.8, name, HEAD, INK, bold=True, anchor="start"))
    shapes.append(Text(MARGIN, MARGIN + HEAD + 15, caption, SMALL, SOFT, anchor="start"))
    wide = max(grid.width + 6, width_of(name, HEAD, True), width_of(caption, SMALL))
    return Figure(wide + 2 * MARGIN, grid.height + canvas.top + MARGIN, tuple(shapes))


@dataclass(frozen=True)
class _Canvas:
    """Where things are on the page, and the ways of arrows between them."""

    plan: Layout
    grid: Grid
    heights: list[float]
    sizes: list[tuple[float, float]]
    top: float

    def middle(self, n: int) -> Point:
        return self.grid.x[n] + MARGIN, self.grid.y[n] + self.top

    def height(self, n: int) -> float:
        """Of a box; a bend goes straight down along all of its rank."""
        return self.sizes[n][1] if n < len(self.sizes) else self.heights[self.plan.places[n].rank]

    def bottom(self, n: int) -> Point:
        x, y = self.middle(n)
        return x, y + self.height(n) / 2

    def way(self, way: Sequence[int]) -> Iterator[Piece]:
        for a, b in pairwise(way):
            x, y = self.middle(b)
            yield from self.step(a, b, self.bottom(a), (x, y - self.height(b) / 2))
            if b != way[-1]:
                yield _straight((x, y - self.height(b) / 2), self.bottom(b))

    def step(self, a: int, b: int, start: Point, end: Point) -> Iterator[Piece]:
        """From one rank to the next; from the foot of a column around to the head of the next one."""
        columns = [self.grid.column[self.plan.places[n].rank] for n in (a, b)]
        if columns[0] != columns[1]:
            between = self.grid.right[columns[0]] + MARGIN + COLUMN_GAP / 2
            foot, head, x = start[1] + RANK_GAP * 0.62, self.top - 42, self.landing(a)
            yield from _rounded(
                [start, (start[0], foot), (between, foot), (between, head), (x, head), (x, head + STUB)]
            )
            start = (x, head + STUB)
        if abs(start[0] - end[0]) < 0.5:
            yield _straight(start, end)
            return
        low = (start[0], start[1] + (STUB if a < len(self.sizes) and columns[0] == columns[1] else 0.0))
        high = (end[0], end[1] - (TIP if b < len(self.sizes) else 0.0))
        half = (high[1] - low[1]) / 2
        yield _straight(start, low)
        yield low, (low[0], low[1] + half), (high[0], high[1] - half), high
        yield _straight(high, end)

    def landing(self, a: int) -> float:
        """Where arrows that come around into a new column arrive: above the middle of what they lead to."""
        found = [self.middle(y)[0] for way in self.plan.ways for x, y in pairwise(way) if x == a]
        return found[0] if len(found) == 1 else (min(found) + max(found)) / 2


def _gaps(plan: Layout) -> list[float]:
    """The room below each rank."""
    gaps = [RANK_GAP] * len(plan.ranks)
    for way in plan.ways:
        for a, b in pairwise(way):
            if abs(plan.places[a].x - plan.places[b].x) >= 0.5:
                gaps[plan.places[a].rank] = FAN_GAP
    return gaps


def _straight(a: Point, b: Point) -> Piece:
    return a, a, b, b


def _rounded(points: Sequence[Point], radius: float = 9.0) -> Iterator[Piece]:
    """Straight lines through these points, with rounded corners."""
    here = points[0]
    for corner, after in pairwise(points[1:]):
        into, out = _towards(corner, here, radius), _towards(corner, after, radius)
        yield _straight(here, into)
        yield into, corner, corner, out
        here = out
    yield _straight(here, points[-1])


def _towards(a: Point, b: Point, distance: float) -> Point:
    """The point on the way from a to b, so far from a but at most half of the way."""
    length = abs(b[0] - a[0]) + abs(b[1] - a[1])
    share = min(distance, length / 2) / length if length else 0.0
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def _texts(box: Box) -> list[tuple[str, float, bool, str]]:
    """(text, size, bold, color) of the lines in a box."""
    named = box.kind not in ("input", "block") and box.name != box.title
    above = [(box.name, SMALL, False, SOFT)] if named and box.kind != "join" else []
    return [*above, (box.title, TITLE, True, INK), *((line, SMALL, False, INK) for line in box.texts)]


def _size(box: Box) -> tuple[float, float]:
    lines = _texts(box)
    wide = max(width_of(text, size, bold) for text, size, bold, _ in lines)
    padding = 26 if box.kind in ("join", "input") else 22
    return max(wide + padding, 70), sum(size * 1.35 for _, size, _, _ in lines) + 13


def _drawn(box: Box, x: float, y: float, size: tuple[float, float]) -> Iterator[Rect | Text]:
    width, height = size
    fill, border = COLORS[box.kind]
    left, top = x - width / 2, y - height / 2
    if box.kind == "block":  # two sheets: there is more inside
        yield Rect(left + 4, top + 4, width, height, fill, border)
    yield Rect(left, top, width, height, fill, border, height / 2 if box.kind in ("join", "input") else 6.0)
    baseline = top + 6.5
    for text, points, bold, color in _texts(box):
        baseline += points * 1.35
        yield Text(x, baseline - points * 0.3, text, points, color, bold)
