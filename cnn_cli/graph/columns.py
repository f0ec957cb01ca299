"""A graph in layers, from top to bottom; a long one continues in further columns, as text does.

A column ends only below a box from which all later arrows start, so that no branch is split.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cnn_cli.graph.boxes import Arrow
from cnn_cli.graph.curves import Arrangement, Label, Piece, Point, Size, rounded, straight
from cnn_cli.graph.layout import Layout, lay_out

ASPECT = 1.5  # preferred width : height of a drawing
MOST = 8  # columns
COLUMN_GAP = 56.0
RANK_GAP, FAN_GAP = 40.0, 58.0  # px between ranks with straight arrows, and with bent ones
STUB, TIP = 18.0, 9.0  # px of straight line at the start of an arrow, next to its label, and at its end
HEAD, FOOT = 42.0, 25.0  # px above columns and below them, for the arrow from the foot of one to the head of the next


def arrange_in_columns(sizes: Sequence[Size], arrows: Sequence[Arrow]) -> Arrangement:
    """Boxes of these sizes in the number of columns that brings the drawing closest to ASPECT with little waste."""
    layout = lay_out([width for width, _ in sizes], [(a.start, a.end) for a in arrows])
    pages = [_Page(layout, sizes, ends) for ends in _cuts(layout, sizes)]
    page = min(pages, key=_badness)
    labels = []
    for start, shape in dict.fromkeys((a.start, a.shape) for a in arrows):  # one label for all of a shape
        x, y = page.bottom(start)
        labels.append(Label(x + 7, y + 17, shape))
    curves = [tuple(page.route(route)) for route in layout.routes]
    return Arrangement(page.centers[: len(sizes)], curves, labels, page.width, page.height)


def _badness(page: "_Page") -> float:
    """How far a page is from the preferred aspect, and how much of it is empty."""
    aspect = page.width / page.height / ASPECT
    return max(aspect, 1 / aspect) * math.sqrt(page.width * page.height / page.filled)


def _heights(layout: Layout, sizes: Sequence[Size]) -> tuple[list[float], list[float]]:
    """The height of each rank, and the room below it."""
    heights = [max((sizes[n][1] for n in rank if n < len(sizes)), default=0.0) for rank in layout.ranks]
    gaps = [RANK_GAP] * len(heights)
    for route in layout.routes:
        for a, b in pairwise(route):
            if abs(layout.places[a].x - layout.places[b].x) >= 0.5:
                gaps[layout.places[a].rank] = FAN_GAP
    return heights, gaps


def _cuts(layout: Layout, sizes: Sequence[Size]) -> list[list[int]]:
    """For one to MOST columns: the ranks after which columns end, so that the columns are as equal as possible."""
    leaving: list[set[int]] = [set() for _ in layout.ranks]
    for route in layout.routes:
        for n in route[:-1]:
            leaving[layout.places[n].rank].add(n)
    possible = [r for r, boxes in enumerate(leaving) if len(boxes) == 1 and not layout.places[min(boxes)].bend]
    heights, gaps = _heights(layout, sizes)
    above = [sum(heights[:r]) + sum(gaps[:r]) for r in range(len(heights) + 1)]
    best: dict[int, tuple[float, list[int]]] = {-1: (0.0, [])}  # by the last rank: sum of squares, the ends
    cuts = []
    for _ in range(MOST):
        longer = {}
        for end in [*possible, len(heights) - 1]:
            options = [(s + (above[end + 1] - above[b + 1]) ** 2, [*e, end]) for b, (s, e) in best.items() if b < end]
            if options:
                longer[end] = min(options)
        best = longer
        if len(heights) - 1 in best:
            cuts.append(best[len(heights) - 1][1])
    return cuts


@dataclass
class _Page:
    """The centers of all places, boxes first, when columns end after the ranks `ends`."""

    layout: Layout
    sizes: Sequence[Size]
    ends: Sequence[int]

    def __post_init__(self) -> None:
        places, ranks = self.layout.places, self.layout.ranks
        self.heights, gaps = _heights(self.layout, self.sizes)
        self.centers, self.column, self.right = [(0.0, 0.0)] * len(places), list[int](), list[float]()
        self.top = HEAD if len(self.ends) > 1 else 0.0
        left = self.height = self.filled = 0.0
        for first, end in pairwise([0, *(e + 1 for e in self.ends)]):
            inside = [n for rank in ranks[first:end] for n in rank]
            start = min(places[n].x - places[n].width / 2 for n in inside)
            width = max(places[n].x + places[n].width / 2 for n in inside) - start
            y = self.top
            for rank in range(first, end):
                for n in ranks[rank]:
                    self.centers[n] = places[n].x - start + left, y + self.heights[rank] / 2
                y += self.heights[rank] + gaps[rank]
            self.column += [len(self.right)] * (end - first)
            self.right.append(left + width)
            self.height = max(self.height, y - gaps[end - 1] + FOOT * (end < len(ranks)))
            self.filled += width * (y - self.top)
            left += width + COLUMN_GAP
        self.width = self.right[-1]

    def _half(self, n: int) -> float:
        """Half the height of a box; a bend goes straight down along all of its rank."""
        return (self.sizes[n][1] if n < len(self.sizes) else self.heights[self.layout.places[n].rank]) / 2

    def bottom(self, n: int) -> Point:
        return self.centers[n][0], self.centers[n][1] + self._half(n)

    def route(self, route: Sequence[int]) -> Iterator[Piece]:
        for a, b in pairwise(route):
            x, y = self.centers[b]
            yield from self._step(a, b, self.bottom(a), (x, y - self._half(b)))
            if b != route[-1]:
                yield straight((x, y - self._half(b)), self.bottom(b))

    def _step(self, a: int, b: int, start: Point, end: Point) -> Iterator[Piece]:
        """From one rank to the next; from the foot of a column around to the head of the next one."""
        before, after = (self.column[self.layout.places[n].rank] for n in (a, b))
        if before != after:
            between, foot, x = self.right[before] + COLUMN_GAP / 2, start[1] + FOOT, self._landing(a)
            yield from rounded([start, (start[0], foot), (between, foot), (between, 0.0), (x, 0.0), (x, STUB)])
            start = (x, STUB)
        if abs(start[0] - end[0]) < 0.5:
            yield straight(start, end)
            return
        low = start[0], start[1] + (STUB if a < len(self.sizes) and before == after else 0.0)
        high = end[0], end[1] - (TIP if b < len(self.sizes) else 0.0)
        middle = (low[1] + high[1]) / 2
        yield straight(start, low)
        yield low, (low[0], middle), (high[0], middle), high
        yield straight(high, end)

    def _landing(self, a: int) -> float:
        """The x at which arrows into a new column arrive: above the middle of the boxes that they lead to."""
        ends = [self.centers[y][0] for route in self.layout.routes for x, y in pairwise(route) if x == a]
        return ends[0] if len(ends) == 1 else (min(ends) + max(ends)) / 2
