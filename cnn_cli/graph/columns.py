"""A long drawing in several columns, like a text: a chain of forty boxes would be a tower that fits no page and no
slide.

A column may end only below a box that all further arrows come from, so that no branch is torn apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cnn_cli.graph.layout import Layout

ASPECT = 1.5  # width : height that a drawing should come near
MOST = 8  # columns
LEAST = 0.35  # of the tallest column, that every column must have


@dataclass(frozen=True)
class Grid:
    """The middle of every place, the column of every rank, the right edge and the height of every column, in px."""

    x: list[float]
    y: list[float]
    column: list[int]
    right: list[float]
    heights: list[float]  # of the columns

    @property
    def width(self) -> float:
        return self.right[-1]

    @property
    def height(self) -> float:
        return max(self.heights)


def arrange_in_columns(plan: Layout, heights: Sequence[float], gaps: Sequence[float], column_gap: float) -> Grid:
    """Cut the ranks (of these heights) into the columns that bring the drawing closest to ASPECT."""
    grids = [_grid(plan, heights, ends, gaps, column_gap) for ends in _cuts(plan, heights)]
    whole = [g for g in grids if min(g.heights) >= LEAST * g.height] or grids[:1]
    return min(whole, key=lambda g: max(g.width / g.height / ASPECT, ASPECT * g.height / g.width))


def _cuts(plan: Layout, heights: Sequence[float]) -> list[list[int]]:
    """For one to MOST columns: the ranks at which each but the last ends."""
    last = len(heights) - 1
    leaving: list[set[int]] = [set() for _ in heights]
    for way in plan.ways:
        for n in way[:-1]:
            leaving[plan.places[n].rank].add(n)
    possible = [
        rank for rank in range(last) if len(leaving[rank]) == 1 and not plan.places[next(iter(leaving[rank]))].bend
    ]
    below = [sum(heights[: rank + 1]) for rank in range(len(heights))]
    found: list[list[int]] = [[]]
    for count in range(2, MOST + 1):
        wanted = [below[last] * n / count for n in range(1, count)]
        ends = sorted({min(possible, key=lambda r: abs(below[r] - w)) for w in wanted}) if possible else []
        if len(ends) == count - 1:
            found.append(ends)
    return found


def _grid(
    plan: Layout, heights: Sequence[float], ends: Sequence[int], gaps: Sequence[float], column_gap: float
) -> Grid:
    x, y = [0.0] * len(plan.places), [0.0] * len(plan.places)
    column, right, left, tall = [0] * len(heights), [], 0.0, []
    for number, (first, end) in enumerate(zip([0, *(e + 1 for e in ends)], [*ends, len(heights) - 1], strict=True)):
        inside = [n for rank in range(first, end + 1) for n in plan.ranks[rank]]
        start = min(plan.places[n].x - plan.places[n].width / 2 for n in inside)
        top = 0.0
        for rank in range(first, end + 1):
            column[rank] = number
            for n in plan.ranks[rank]:
                x[n], y[n] = plan.places[n].x - start + left, top + heights[rank] / 2
            top += heights[rank] + gaps[rank]
        left += max(plan.places[n].x + plan.places[n].width / 2 for n in inside) - start
        right.append(left)
        left += column_gap
        tall.append(top - gaps[end])
    return Grid(x, y, column, right, tall)
