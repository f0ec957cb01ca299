"""The shapes that a figure is made of, in px, with y downward; `rendering` draws them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
Piece = tuple[Point, Point, Point, Point]  # of a cubic curve: start, two controls, end

INK, SOFT, LINE, PAPER = "#1f2933", "#5f6c7b", "#7b8794", "#ffffff"
SMALL = 11.0  # px of text


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
    halo: bool = False  # on paper color, so that lines behind do not disturb


@dataclass(frozen=True)
class Curve:
    """A line of cubic pieces, with an arrowhead at the end."""

    pieces: tuple[Piece, ...]


Shape = Rect | Text | Curve


@dataclass(frozen=True)
class Figure:
    """Shapes on a page whose upper left corner is (x, y)."""

    x: float
    y: float
    width: float
    height: float
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Arrangement:
    """Where boxes have their centers, the arrows between them with their labels, and the size of all that."""

    centers: list[Point]
    arrows: list[Curve]
    labels: list[Text]
    width: float
    height: float


def label(x: float, y: float, text: str, anchor: str = "start") -> Text:
    """The shape that flows along an arrow."""
    return Text(x, y, text, SMALL, SOFT, anchor=anchor, halo=True)


def straight(a: Point, b: Point) -> Piece:
    return a, a, b, b


def rounded(points: Sequence[Point], radius: float = 9.0) -> Iterator[Piece]:
    """Horizontal and vertical lines through these points, with rounded corners."""
    start = points[0]
    for corner, after in pairwise(points[1:]):
        before, behind = _towards(corner, start, radius), _towards(corner, after, radius)
        yield straight(start, before)
        yield before, corner, corner, behind
        start = behind
    yield straight(start, points[-1])


def _towards(a: Point, b: Point, distance: float) -> Point:
    """The point on the way from a to b, this far from a but at most half of the way."""
    length = abs(b[0] - a[0]) + abs(b[1] - a[1])
    share = min(distance, length / 2) / length if length else 0.0
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
