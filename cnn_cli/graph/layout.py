"""The layered graph layout of Sugiyama, Tagawa and Toda (IEEE Trans. SMC, 1981), from top to bottom.

Every box has a rank, one below its lowest input. Arrows over several ranks get bends in between, which are laid out as
boxes without a size. Boxes of a rank are ordered to minimize crossings, then moved towards the boxes that they are
connected with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

GAP = 26.0  # px between neighbors of a rank
BEND = 16.0  # px that an arrow keeps free around itself
ROUNDS = 12


@dataclass
class Place:
    """A box, or a bend of an arrow: its rank, its width, and the x of its middle."""

    rank: int
    width: float
    x: float = 0.0
    bend: bool = False


@dataclass(frozen=True)
class Layout:
    """The places of all boxes (first) and bends, the route of each arrow through them, and the ranks from left to
    right."""

    places: list[Place]
    routes: list[list[int]]
    ranks: list[list[int]]


def lay_out(widths: Sequence[float], arrows: Sequence[tuple[int, int]]) -> Layout:
    """Ranks and x positions of boxes of these widths; `arrows` lead from smaller numbers to larger ones."""
    places = [Place(rank, width) for rank, width in zip(_ranks(len(widths), arrows), widths, strict=True)]
    routes = [_route(places, start, end) for start, end in arrows]
    ranks: list[list[int]] = [[] for _ in range(max(p.rank for p in places) + 1)]
    for number, place in enumerate(places):
        ranks[place.rank].append(number)
    above: list[list[int]] = [[] for _ in places]
    below: list[list[int]] = [[] for _ in places]
    for route in routes:
        for a, b in pairwise(route):
            below[a].append(b)
            above[b].append(a)
    _order(ranks, above, below)
    _spread(places, ranks, above, below)
    return Layout(places, routes, ranks)


def _ranks(count: int, arrows: Sequence[tuple[int, int]]) -> list[int]:
    ranks = [0] * count
    for start, end in sorted(arrows, key=lambda a: a[1]):
        ranks[end] = max(ranks[end], ranks[start] + 1)
    fed = {end for _, end in arrows}
    for number in range(1, count):  # a box without inputs is placed just above its first consumer
        takers = [ranks[end] for start, end in arrows if start == number]
        if number not in fed and takers:
            ranks[number] = min(takers) - 1
    return ranks


def _route(places: list[Place], start: int, end: int) -> list[int]:
    """The arrow's stations: box, bends, box."""
    route = [start]
    for rank in range(places[start].rank + 1, places[end].rank):
        places.append(Place(rank, BEND, bend=True))
        route.append(len(places) - 1)
    return [*route, end]


def _order(ranks: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    """Sort each rank by the middle of its neighbors, down and up in turn; keep the order with the fewest crossings."""
    best, fewest = [list(rank) for rank in ranks], _crossings(ranks, below)
    for turn in range(ROUNDS):
        neighbors = above if turn % 2 == 0 else below
        for rank in ranks[1:] if turn % 2 == 0 else ranks[-2::-1]:
            position = {n: i for r in ranks for i, n in enumerate(r)}
            keys = {n: _middle([position[m] for m in neighbors[n]], position[n]) for n in rank}
            rank.sort(key=lambda n: keys[n])
        if (crossings := _crossings(ranks, below)) < fewest:
            best, fewest = [list(rank) for rank in ranks], crossings
    ranks[:] = best


def _middle(positions: Sequence[float], otherwise: float) -> float:
    return sum(positions) / len(positions) if positions else otherwise


def _crossings(ranks: list[list[int]], below: list[list[int]]) -> int:
    count = 0
    for upper, lower in pairwise(ranks):
        position = {n: i for i, n in enumerate(lower)}
        ends = [position[m] for n in upper for m in sorted(below[n], key=lambda m: position.get(m, 0)) if m in position]
        count += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
    return count


def _spread(places: list[Place], ranks: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    """x positions: each box as close to the median of its neighbors as the widths allow."""
    for rank in ranks:
        _place(places, rank, [0.0] * len(rank), [1.0] * len(rank))
    for turn in range(20 * ROUNDS):
        neighbors = above if turn % 2 == 0 else below
        for rank in ranks if turn % 2 == 0 else ranks[::-1]:
            wanted = [median(places[m].x for m in neighbors[n]) if neighbors[n] else places[n].x for n in rank]
            others = below if neighbors is above else above
            weights = [_weight(places, n, neighbors[n], others) for n in rank]
            _place(places, rank, wanted, weights)


def _weight(places: list[Place], number: int, neighbors: Sequence[int], others: list[list[int]]) -> float:
    """The weight of a box's preferred place: highest if it and its neighbor have only each other, so that chains are
    straight."""
    if not neighbors:
        return 0.1
    if len(neighbors) == 1 and len(others[neighbors[0]]) == 1:
        return 12.0 if places[number].bend else 8.0
    return 4.0 if places[number].bend else 1.0


def _place(places: list[Place], rank: list[int], wanted: Sequence[float], weights: Sequence[float]) -> None:
    """The x closest to the preferred ones (least squares) that keep the order and the gaps: boxes that would overlap
    move together."""
    offsets, edge = [], 0.0
    for left, number in zip([None, *rank], rank, strict=False):
        if left is not None:
            gap = GAP if not (places[left].bend and places[number].bend) else 0.0
            edge += (places[left].width + places[number].width) / 2 + gap
        offsets.append(edge)
    blocks: list[tuple[float, float, int]] = []  # (mean, weight, how many), each further right than the one before
    for target, offset, weight in zip(wanted, offsets, weights, strict=True):
        mean, total, count = target - offset, weight, 1
        while blocks and blocks[-1][0] > mean:
            other, heavy, more = blocks.pop()
            mean, total, count = (mean * total + other * heavy) / (total + heavy), total + heavy, count + more
        blocks.append((mean, total, count))
    starts = [mean for mean, _, count in blocks for _ in range(count)]
    for number, start, offset in zip(rank, starts, offsets, strict=True):
        places[number].x = start + offset
