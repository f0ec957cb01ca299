"""An encoder-decoder such as U-Net as a U: down on the left, up on the right, skip connections straight across."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from cnn_cli.graph.boxes import Arrow
from cnn_cli.graph.columns import RANK_GAP
from cnn_cli.graph.curves import Arrangement, Label, Piece, Point, Size, rounded, straight

GAP = 150.0  # px between the two columns
_SHORT = 2  # longest span, in steps of the chain, of a residual connection; skip connections are longer
_OUTSIDE = 26.0  # px from a column to an arrow that passes it


@dataclass(frozen=True)
class Encoder:
    """An encoder-decoder: `skips` are its skip connections, outermost first, with the box that `through` may have on
    one; `beside` are other arrows that pass boxes, such as those of residual blocks; `chain` are all other boxes."""

    chain: tuple[int, ...]
    skips: tuple[Arrow, ...]
    through: Mapping[Arrow, int]
    beside: tuple[Arrow, ...]
    bottom: int  # the place in the chain of the last box of the left column


def find_encoder(count: int, arrows: Sequence[Arrow]) -> Encoder | None:
    """The encoder-decoder of `count` boxes; None for other graphs.

    Such a graph is a chain with at least two nested skip connections, the inner one within the outer one. Other arrows
    lie within one side of the U. A skip connection may lead through one box.
    """
    through, chain = _off_the_chain(count, arrows)
    long = [a for a in arrows if not {a.start, a.end} & set(through.values())] + list(through)
    steps = set(pairwise(chain))
    if len([a for a in long if (a.start, a.end) in steps]) != len(chain) - 1:
        return None
    place = {n: i for i, n in enumerate(chain)}
    further = [a for a in long if (a.start, a.end) not in steps]
    skips = _longest_nesting([a for a in further if place[a.end] - place[a.start] > _SHORT])
    beside = tuple(a for a in further if a not in skips)
    if len(skips) < 2 or any(a not in skips for a in through):
        return None
    ends = [place[n] for n in (skips[-1].start, skips[-1].end)]
    free = [i for i in range(*ends) if not any(place[a.start] <= i < place[a.end] for a in beside)]
    if not free:
        return None
    return Encoder(tuple(chain), tuple(skips), through, beside, min(free, key=lambda i: abs(2 * i - sum(ends))))


def _longest_nesting(arrows: Sequence[Arrow]) -> list[Arrow]:
    """The longest sequence of nested arrows, outermost first."""
    best: dict[Arrow, list[Arrow]] = {}
    for arrow in sorted(arrows, key=lambda a: a.end - a.start):
        inside = [best[a] for a in best if arrow.start < a.start and a.end < arrow.end]
        best[arrow] = [arrow, *max(inside, key=len, default=[])]
    return max(best.values(), key=len, default=[])


def _off_the_chain(count: int, arrows: Sequence[Arrow]) -> tuple[dict[Arrow, int], list[int]]:
    """Boxes on a skip connection, by the arrow that replaces them, and the other boxes in order."""
    through: dict[Arrow, int] = {}
    for n in range(1, count - 1):
        into, out = ([a for a in arrows if a.end == n], [a for a in arrows if a.start == n])
        if (
            len(into) == len(out) == 1
            and into[0].start < n - 1
            and not any(a.start == n - 1 and a.end == n for a in arrows)
        ):
            through[Arrow(into[0].start, out[0].end, into[0].shape)] = n
    return through, [n for n in range(count) if n not in through.values()]


def arrange_as_u(sizes: Sequence[Size], arrows: Sequence[Arrow], encoder: Encoder) -> Arrangement:
    """Both ends of a skip connection have the same y; the boxes between two levels are spaced evenly."""
    chain, bottom = encoder.chain, encoder.bottom
    place = {n: i for i, n in enumerate(chain)}
    ends = [(place[a.start], place[a.end]) for a in encoder.skips]
    levels = [(0, len(chain) - 1), *ends, (bottom, bottom + 1)]
    high = [sizes[n] for n in chain]
    widths = [max(w for w, _ in column) for column in (high[: bottom + 1], high[bottom + 1 :])]
    gap = max([GAP, *(sizes[n][0] + GAP for n in encoder.through.values())])
    edge = _OUTSIDE + 8 if encoder.beside else 0.0
    x = edge + widths[0] / 2, edge + widths[0] + gap + widths[1] / 2
    y = [0.0] * len(chain)
    top = max(high[0][1], high[-1][1]) / 2
    for (left, right), (lower, higher) in pairwise(levels):
        columns = list(range(left, lower + 1)), list(range(right, higher - 1, -1))
        offsets = [_offsets(high, column) for column in columns]
        height = max(offset[-1] for offset in offsets)
        for column, offset in zip(columns, offsets, strict=True):
            for n, distance in zip(column, offset, strict=True):
                y[n] = top + (distance * height / offset[-1] if offset[-1] else height * (n in (lower, higher)))
        top += height
    centers = {n: (x[i > bottom], y[i]) for i, n in enumerate(chain)}
    middle = edge + widths[0] + gap / 2
    centers |= {n: (middle, y[place[arrow.start]]) for arrow, n in encoder.through.items()}
    drawn = [
        _beside(a, centers, sizes, widths, x[0]) if a in encoder.beside else _arrow(a, centers, sizes) for a in arrows
    ]
    total = max(y[n] + high[n][1] / 2 for n in (bottom, bottom + 1))
    points = [centers[n] for n in range(len(sizes))]
    return Arrangement(points, [c for c, _ in drawn], [t for _, t in drawn], x[1] + widths[1] / 2 + edge, total)


def _beside(
    arrow: Arrow, centers: Mapping[int, Point], sizes: Sequence[Size], widths: Sequence[float], left: float
) -> tuple[tuple[Piece, ...], Label]:
    """An arrow that passes the boxes of a column on its outer side."""
    (x, y), (x2, y2) = centers[arrow.start], centers[arrow.end]
    side = -1 if x == left else 1
    outer = x + side * (widths[side > 0] / 2 + _OUTSIDE)
    ends = [(x + side * sizes[arrow.start][0] / 2, y), (x2 + side * sizes[arrow.end][0] / 2, y2)]
    return tuple(rounded([ends[0], (outer, y), (outer, y2), ends[1]])), Label(outer, (y + y2) / 2, "")


def _offsets(sizes: Sequence[Size], column: Sequence[int]) -> list[float]:
    """The least distance of each box of a column from the first one, center to center."""
    return [0.0, *accumulate((sizes[a][1] + sizes[b][1]) / 2 + RANK_GAP for a, b in pairwise(column))]


def _arrow(arrow: Arrow, centers: Mapping[int, Point], sizes: Sequence[Size]) -> tuple[tuple[Piece, ...], Label]:
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
