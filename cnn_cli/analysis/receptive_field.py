"""Receptive fields: the rows and columns of the image that a value depends on, for every layer through all branches.

Two results are tracked along each axis of the image. `spans` is the receptive field as usually defined (Araujo, Norris
and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019): the window as if the image had no
border. `seen` are the rows and columns of the image, without padding, that a position really depends on, as bits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, reduce
from math import lcm, prod
from operator import or_
from typing import Any

from cnn_cli.language.plan import Layer, Plan
from cnn_cli.layers import Shape
from cnn_cli.layers.taps import EACH, EVERYTHING, Taps

MOST_SPANS = 1000  # that repeat; repeated resizing can make a period that is longer than any image
Span = tuple[int, int] | None  # the first and the last pixel; None for a value that depends on no pixel
Factor = tuple[int | None, int]  # an axis of the image (0 rows, 1 columns; None: channels), and how many positions


@dataclass(frozen=True)
class Side:
    """One axis of the image, as the positions of a tensor see it.

    `spans` repeat: position o + len(spans) sees what position o sees, shifted by `step` pixels. 0: all positions see
    the same; None: the shifts are uneven, and `spans` has every position.
    """

    spans: tuple[Span, ...]
    step: int | None
    seen: tuple[int, ...]

    def at(self, o: int) -> Span:
        if self.step is None:
            return self.spans[min(max(o, 0), len(self.spans) - 1)]
        rounds, phase = divmod(o, len(self.spans))
        span = self.spans[phase]
        return span and (span[0] + rounds * self.step, span[1] + rounds * self.step)


@dataclass(frozen=True)
class Sight:
    """What a tensor sees: the factors of each of its axes, and the sides of the image.

    A one-dimensional input has one side.
    """

    axes: tuple[tuple[Factor, ...], ...]
    sides: tuple[Side, ...]


@dataclass(frozen=True)
class Field:
    """A receptive field, (rows, columns), in pixels of the image; of a one-dimensional input (values,)."""

    size: tuple[int, ...]
    stride: tuple[float | None, ...]  # pixels from one position to the next; 0: none, None: uneven
    offset: tuple[int, ...]  # the first pixel of position 0, negative where that lies in the padding
    average: bool  # the stride alternates, and is a mean
    whole: bool  # it is all of the image, for every position

    def document(self) -> dict[str, Any]:
        stride = {"stride": self.stride, "average": True} if self.average else {"stride": self.stride}
        return {"size": self.size, **stride, "offset": self.offset}


def sights(plan: Plan) -> dict[str, Sight]:
    """The sight of the input and of every row, by its name."""
    channels, *image = plan.input or (1, 1, 1)
    sides = [Side(((0, 0),), 1, tuple(1 << n for n in range(size))) for size in image]
    sight_of = {"input": Sight((((None, channels),), *(((n, size),) for n, size in enumerate(image))), tuple(sides))}
    for layer in plan.layers:
        inputs = zip(layer.reads, layer.input_shapes, strict=False)
        sight_of[layer.name] = _sight(layer, [_taken(name, shape, sight_of) for name, shape in inputs], len(sides))
    return sight_of


def _taken(name: str, shape: Shape, sight_of: dict[str, Sight]) -> Sight:
    """The sight of a value; a piece has its own channels, and otherwise the sight of the row of all pieces."""
    row = producer(name, sight_of)
    return sight_of[row] if row == name else replace(sight_of[row], axes=(((None, shape[0]),), *sight_of[row].axes[1:]))


def producer(name: str, rows: Any) -> str:
    """The row that computes the value `name`, which may be a piece of a Chunk: `split.1`."""
    return name if name in rows else name.rpartition(".")[0]


def field(sight: Sight, image: Shape) -> Field | None:
    """The receptive field of a tensor; None if it depends on no pixel."""
    return _field(sight.sides, image)


@lru_cache(maxsize=8)  # that of a convolution is that of the next layers, too
def _field(all_sides: tuple[Side, ...], image: Shape) -> Field | None:
    sides = [_whole(side) if len(side.seen) == 1 else side for side in all_sides]  # one position
    spans = [[s for s in side.spans if s] for side in sides]
    if not all(spans):
        return None
    size = [max(last - first + 1 for first, last in s) for s in spans]
    strides = [None if s.step is None else Fraction(s.step, len(s.spans)) for s in sides]
    stride = [s if s is None else int(s) if s.denominator == 1 else float(s) for s in strides]
    whole = all(s.step == 0 and s.seen[0] == (1 << n) - 1 for s, n in zip(sides, image, strict=True))
    average = any(side.step and len({_starts(side, o) for o in range(len(side.spans))}) > 1 for side in sides)
    return Field(tuple(size), tuple(stride), tuple(s[0][0] for s in spans), average, whole)


def _starts(side: Side, o: int) -> int | None:
    """How many pixels position o + 1 starts after position o."""
    one, next_ = side.at(o), side.at(o + 1)
    return next_[0] - one[0] if one and next_ else None


def unused(plan: Plan, sight_of: dict[str, Sight]) -> tuple[list[int], ...]:
    """The rows and the columns of the image on which no output depends; the values of a one-dimensional input."""
    ends = [sight_of[name] for name in _ends(plan)]
    seen = [_any(mask for end in ends for mask in end.sides[n].seen) for n in range(len(plan.input) - 1)]
    return tuple([i for i in range(n) if not mask >> i & 1] for n, mask in zip(plan.input[1:], seen, strict=True))


def never_read(layer: Layer) -> dict[int, list[int]]:
    """By axis of the input: the positions that the layer reads for none of its outputs."""
    before, after = layer.grid
    left = {}
    for axis, taps in layer.taps.items():
        if taps is not EVERYTHING and taps.axis is None:
            read = {i for o in range(after[axis]) for i in taps.inside(o, before[axis])}
            if missing := [i for i in range(before[axis]) if i not in read]:
                left[axis] = missing
    return left


def _ends(plan: Plan) -> list[str]:
    """The rows whose values are outputs of the network, or that nothing takes."""
    taken = {name for layer in plan.layers for name in layer.takes}
    taken |= {name.rpartition(".")[0] for name in taken}
    ends = {producer(name, {layer.name for layer in plan.layers}) for name in plan.ends}
    return [layer.name for layer in plan.layers if layer.name not in taken or layer.name in ends] or ["input"]


def _sight(layer: Layer, inputs: list[Sight], sides: int) -> Sight:
    if not inputs:
        nothing = Side((None,), 0, (0,))
        return Sight(tuple(((None, n),) for n in layer.output_shape), (nothing,) * sides)
    if layer.rule.joins:
        return _joined(layer, inputs)
    before, after = layer.grid
    return _reshaped(_read(layer, _reshaped(inputs[0], before), before, after), layer.output_shape)


def _read(layer: Layer, sight: Sight, before: Shape, after: Shape) -> Sight:
    """The sight of the output of a layer with taps."""
    taps = layer.taps
    sides, axes = list(sight.sides), list(sight.axes)
    for n, read in taps.items():
        source = n if read is EVERYTHING or read.axis is None else read.axis
        factors = axes[n] = sight.axes[source]
        own = [image for image, _ in factors if image is not None]
        if read is not EVERYTHING and read._replace(axis=None) == EACH and after[n] == before[source]:
            continue
        for image in own:
            if read is EVERYTHING or len(factors) > 1:
                sides[image] = _whole(sides[image])
            else:
                sides[image] = _through(sides[image], read, after[n])
    for n in range(min(len(axes), len(after))):
        if after[n] != _count(axes[n]):
            own = [image for image, _ in axes[n] if image is not None]
            axes[n] = ((own[0] if len(axes[n]) == 1 and own else None, after[n]),)
    return Sight(tuple(axes), tuple(sides))


def _reshaped(sight: Sight, shape: Shape) -> Sight:
    """The same values in the same order, with axes of other sizes, as for Flatten and Unflatten."""
    if tuple(_count(axis) for axis in sight.axes) == shape:
        return sight
    left = [factor for axis in sight.axes for factor in axis if factor[1] > 1]
    axes: list[tuple[Factor, ...]] = []
    for size in shape:
        axis: list[Factor] = []
        while left and _count(axis) < size:
            axis.append(left.pop(0))
        over = _count(axis) // size
        if over > 1 and axis[-1][0] is None and axis[-1][1] % over == 0:  # channels can be divided freely
            axis[-1], left = (None, axis[-1][1] // over), [(None, over), *left]
        if _count(axis) != size:
            return _mixed(sight, axes, [*axis, *left], shape)
        axes.append(tuple(axis) or ((None, 1),))
    return replace(sight, axes=tuple(axes))


def _mixed(sight: Sight, axes: list[tuple[Factor, ...]], rest: list[Factor], shape: Shape) -> Sight:
    """The axes of the image in `rest` are mixed: from here on, every value sees all of them."""
    sides = list(sight.sides)
    for image, _ in rest:
        if image is not None:
            sides[image] = _whole(sides[image])
    return Sight((*axes, *(((None, size),) for size in shape[len(axes) :])), tuple(sides))


@lru_cache(maxsize=8)  # height and width are mostly alike
def _through(side: Side, taps: Taps, count: int) -> Side:
    """What `count` positions see that read positions of `side` by `taps`."""
    if side.step == 0:
        return side
    seen = tuple(_any(side.seen[i] for i in taps.inside(o, len(side.seen))) for o in range(count))
    if taps.bounded:
        return Side(tuple(_bounds(one) for one in seen), None, seen)
    if side.step is None:
        return Side(tuple(_hull(side.at(i) for i in taps.at(o)) for o in range(count)), None, seen)
    period = len(side.spans)
    rounds = lcm(period, taps.step) // taps.step  # of the layer's own phases, until both periods end
    if rounds * len(taps.phases) > max(count, MOST_SPANS):
        return Side(tuple(_hull(side.at(i) for i in taps.at(o)) for o in range(count)), None, seen)
    spans = tuple(_hull(side.at(i) for i in taps.at(o)) for o in range(rounds * len(taps.phases)))
    return Side(spans, rounds * taps.step // period * side.step, seen)


def _whole(side: Side) -> Side:
    """What a value that depends on all positions sees."""
    seen = _any(side.seen)
    return Side((_bounds(seen),), 0, (seen,))


def _joined(layer: Layer, arrives: list[Sight]) -> Sight:
    """The union of what the branches see."""
    sides = []
    for n in range(len(arrives[0].sides)):
        side = arrives[0].sides[n]
        for other in arrives[1:]:
            side = _union(side, other.sides[n])
        sides.append(side)
    axes = []
    for n, size in enumerate(layer.output_shape):
        back = n - len(layer.output_shape)
        own = [s.axes[back] for s in arrives if len(s.axes) >= -back]
        stacked = layer.type == "Concat" and n == 0
        meanings = {tuple(image for image, k in a if image is not None and k > 1) for a in own if _count(a) > 1}
        if len(meanings) > 1 or (stacked and meanings != {()}):  # each value of one meets all of the other
            for image in {i for meaning in meanings for i in meaning}:
                sides[image] = _whole(sides[image])
        fitting = sorted((a for a in own if _count(a) == size), key=lambda a: not any(i is not None for i, _ in a))
        axes.append(((None, size),) if stacked or not fitting else fitting[0])
    return Sight(tuple(axes), tuple(sides))


def _union(a: Side, b: Side) -> Side:
    if a == b or b.spans == (None,):
        return a
    if a.spans == (None,):
        return b
    count = max(len(a.seen), len(b.seen))
    a, b = (_whole(side) if len(side.seen) == 1 < count else side for side in (a, b))  # one position is broadcast
    seen = tuple(x | y for x, y in zip(_spread(a.seen, count), _spread(b.seen, count), strict=True))
    if 0 in (a.step, b.step) and len(set(seen)) == 1:
        return Side((_bounds(seen[0]),), 0, seen[:1])
    period = lcm(len(a.spans), len(b.spans))
    uneven = a.step is None or b.step is None or a.step * len(b.spans) != b.step * len(a.spans)
    if a.step is None or uneven or period > max(count, MOST_SPANS):
        return Side(tuple(_hull((a.at(o), b.at(o))) for o in range(count)), None, seen)
    return Side(tuple(_hull((a.at(o), b.at(o))) for o in range(period)), a.step * period // len(a.spans), seen)


def _count(factors: Sequence[Factor]) -> int:
    return prod([k for _, k in factors])


def _hull(spans: Iterable[Span]) -> Span:
    real = [s for s in spans if s]
    return (min(s[0] for s in real), max(s[1] for s in real)) if real else None


def _any(masks: Iterable[int]) -> int:
    return reduce(or_, masks, 0)


def _bounds(seen: int) -> Span:
    """The lowest and the highest bit that is set."""
    return ((seen & -seen).bit_length() - 1, seen.bit_length() - 1) if seen else None


def _spread(seen: Sequence[int], count: int) -> Sequence[int]:
    return seen if len(seen) == count else [seen[0]] * count
