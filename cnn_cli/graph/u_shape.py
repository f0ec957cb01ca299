"""An encoder-decoder such as U-Net as a U: down on the left, up on the right, skip connections straight across."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from cnn_cli.graph.boxes import Arrow
from cnn_cli.graph.columns import RANK_GAP
from cnn_cli.graph.curves import Arrangement, Label, Piece, Point, Size, rounded, straight

GAP = 150.0  # px between the two columns


def nested_skips(count: int, arrows: Sequence[Arrow]) -> list[Arrow]:
    """The skip connections of an encoder-decoder of `count` boxes, outermost first; empty for other graphs.

    Such a graph is a chain, with at least two further arrows, each of which spans the next one.
    """
    skips = sorted((a for a in arrows if a.end != a.start + 1), key=lambda a: a.start)
    is_chain = len(arrows) - len(skips) == count - 1
    is_nested = all(a.start < b.start and b.end < a.end for a, b in pairwise(skips))
    return skips if len(skips) > 1 and is_chain and is_nested else []


def arrange_as_u(sizes: Sequence[Size], arrows: Sequence[Arrow], skips: Sequence[Arrow]) -> Arrangement:
    """Both ends of a skip connection have the same y; the boxes between two levels share the room."""
    last, inner = len(sizes) - 1, skips[-1]
    bottom = (inner.start + inner.end) // 2  # the last box of the left column
    levels = [(0, last), *((a.start, a.end) for a in skips), (bottom, bottom + 1)]
    widths = [max(w for w, _ in column) for column in (sizes[: bottom + 1], sizes[bottom + 1 :])]
    x = widths[0] / 2, widths[0] + GAP + widths[1] / 2
    y = [0.0] * len(sizes)
    top = max(sizes[0][1], sizes[last][1]) / 2
    for (left, right), (lower, higher) in pairwise(levels):
        columns = list(range(left, lower + 1)), list(range(right, higher - 1, -1))
        offsets = [_offsets(sizes, column) for column in columns]
        height = max(offset[-1] for offset in offsets)
        for column, offset in zip(columns, offsets, strict=True):
            for n, distance in zip(column, offset, strict=True):
                y[n] = top + (distance * height / offset[-1] if offset[-1] else height * (n in (lower, higher)))
        top += height
    centers = [(x[n > bottom], y[n]) for n in range(len(sizes))]
    drawn = [_arrow(arrow, centers, sizes) for arrow in arrows]
    total = max(y[n] + sizes[n][1] / 2 for n in (bottom, bottom + 1))
    return Arrangement(centers, [c for c, _ in drawn], [t for _, t in drawn], x[1] + widths[1] / 2, total)


def _offsets(sizes: Sequence[Size], column: Sequence[int]) -> list[float]:
    """How far below the first box of a column each of its boxes has its center, at the least."""
    return [0.0, *accumulate((sizes[a][1] + sizes[b][1]) / 2 + RANK_GAP for a, b in pairwise(column))]


def _arrow(arrow: Arrow, centers: Sequence[Point], sizes: Sequence[Size]) -> tuple[tuple[Piece, ...], Label]:
    (x, y), (x2, y2) = centers[arrow.start], centers[arrow.end]
    (width, height), (width2, height2) = sizes[arrow.start], sizes[arrow.end]
    if x == x2:
        side = 1 if y2 > y else -1
        start, end = (x, y + side * height / 2), (x, y2 - side * height2 / 2)
        return (straight(start, end),), Label(x + 7, start[1] + (17 if side > 0 else -10), arrow.shape)
    start = x + width / 2, y
    text = Label((x + width / 2 + x2 - width2 / 2) / 2, y - 6, arrow.shape, centered=True)
    if abs(y - y2) < 0.5:
        return (straight(start, (x2 - width2 / 2, y2)),), text
    return tuple(rounded([start, (x2, y), (x2, y2 + height2 / 2)])), text
