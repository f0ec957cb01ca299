"""The geometry of a drawing, in px with y downward: centers of boxes, and arrows as cubic curves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
Size = tuple[float, float]  # width and height of a box
Piece = tuple[Point, Point, Point, Point]  # of a cubic curve: start, two controls, end
RADIUS = 9.0  # of rounded corners


@dataclass(frozen=True)
class Label:
    """The shape written along an arrow; (x, y) is the start of its baseline, or its middle if `centered`."""

    x: float
    y: float
    text: str
    centered: bool = False


@dataclass(frozen=True)
class Arrangement:
    """The centers of the boxes, the arrows between them with their labels, and the size of the whole."""

    centers: list[Point]
    arrows: list[tuple[Piece, ...]]
    labels: list[Label]
    width: float
    height: float


def straight(a: Point, b: Point) -> Piece:
    return a, a, b, b


def rounded(points: Sequence[Point]) -> Iterator[Piece]:
    """Horizontal and vertical lines through these points, with rounded corners."""
    start = points[0]
    for corner, after in pairwise(points[1:]):
        before, behind = _towards(corner, start), _towards(corner, after)
        yield straight(start, before)
        yield before, corner, corner, behind
        start = behind
    yield straight(start, points[-1])


def _towards(a: Point, b: Point) -> Point:
    """The point on the way from a to b, RADIUS from a but at most half of the way."""
    length = abs(b[0] - a[0]) + abs(b[1] - a[1])
    share = min(RADIUS, length / 2) / length if length else 0.0
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
