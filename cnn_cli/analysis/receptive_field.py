"""How far a value sees: which rows and columns of the image it depends on, for every layer and through every branch.

Two answers are carried along each axis of the image. `spans` is the receptive field of the books (Araujo, Norris and
Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019): the window as if the image went on
without end. `seen` is what is really there: the very rows and columns that a position depends on, as bits, padding
left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import Any

from cnn_cli.analysis.taps import EVERYTHING, Taps, fold_windows, reads, sliding, transposed
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.layers import Shape
from cnn_cli.values import product

Span = tuple[int, int] | None  # the first and the last pixel; None for what depends on no pixel
_EACH = sliding(1, 1, 0, 1)  # every position reads the one of its own number
Factor = tuple[int | None, int]  # an axis of the image (0 rows, 1 columns; None: channels), and how many positions


@dataclass(frozen=True)
class Side:
    """One axis of the image, as the positions of a tensor see it.

    `spans` repeat: position o + len(spans) sees what position o sees, `step` pixels on. A step of 0: all see the same;
    None: branches of different strides meet, and every position is written out.
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
    """What a tensor sees: for each of its axes the positions that it runs over, and both sides of the image."""

    axes: tuple[tuple[Factor, ...], ...]
    sides: tuple[Side, Side]


@dataclass(frozen=True)
class Field:
    """A receptive field, (rows, columns): how many pixels, how far it moves from one position to the next (0: it does
    not, None: unevenly), and the first pixel of position 0, negative where that lies in the padding."""

    size: tuple[int, int]
    stride: tuple[float | None, float | None]
    offset: tuple[int, int]
    whole: bool  # it is all of the image, for every position


def sights(plan: Plan) -> dict[str, Sight]:
    """The sight of the input and of every row, by its name."""
    channels, *image = plan.input or (1, 1, 1)
    sides = [Side(((0, 0),), 1, tuple(1 << n for n in range(size))) for size in image]
    found = {
        "input": Sight((((None, channels),), *(((n, size),) for n, size in enumerate(image))), (sides[0], sides[1]))
    }
    for layer in plan.layers:
        found[layer.name] = _sight(layer, [found[producer(name, found)] for name in layer.takes])
    return found


def producer(name: str, rows: Any) -> str:
    """The row that makes what is called `name`, which may be a piece of a Chunk: `split.1`."""
    return name if name in rows else name.rpartition(".")[0]


def field(sight: Sight, image: Shape) -> Field | None:
    """The receptive field of a tensor; None where it depends on no pixel."""
    sides = [
        _whole(side) if len(side.seen) == 1 else side for side in sight.sides
    ]  # one position: what is really there
    spans = [[s for s in side.spans if s] for side in sides]
    if not all(spans):
        return None
    size = [max(last - first + 1 for first, last in s) for s in spans]
    strides = [None if s.step is None else Fraction(s.step, len(s.spans)) for s in sides]
    stride = [s if s is None else int(s) if s.denominator == 1 else float(s) for s in strides]
    whole = all(s.step == 0 and s.seen[0] == _full(n) for s, n in zip(sides, image, strict=True))
    return Field((size[0], size[1]), (stride[0], stride[1]), (spans[0][0][0], spans[1][0][0]), whole)


def unused(plan: Plan, found: dict[str, Sight]) -> tuple[list[int], list[int]]:
    """The rows and the columns of the image on which no output depends."""
    ends = [found[name] for name in _ends(plan)]
    missing = []
    for n, size in enumerate(plan.input[1:]):
        seen = 0
        for end in ends:
            seen |= _any(end.sides[n].seen)
        missing.append([i for i in range(size) if not seen >> i & 1])
    return missing[0], missing[1]


def never_read(layer: Layer) -> dict[int, list[int]]:
    """By axis of what arrives, the positions that the layer itself reads for none of its outputs."""
    shape, out = layer.input_shape, layer.output_shape
    if layer.type == "Unfold":
        taps = {1 + n: t for n, t in enumerate(fold_windows(layer.settings, shape))}
        counts = {
            a: len([o for o in range(shape[a]) if max(t.at(o)) < shape[a] - t.phases[0][0]]) for a, t in taps.items()
        }
    else:
        taps = {a: t for a, t in reads(layer.type, layer.settings, shape, out).items() if t is not EVERYTHING}
        counts = {a: out[a] for a in taps}
    left = {}
    for a, t in taps.items():
        read = {i for o in range(counts[a]) for i in t.inside(o, shape[a])}
        if missing := [i for i in range(shape[a]) if i not in read]:
            left[a] = missing
    return left


def _ends(plan: Plan) -> list[str]:
    """The rows whose values leave the network."""
    taken = {name for layer in plan.layers for name in layer.takes}
    taken |= {name.rpartition(".")[0] for name in taken}
    return [layer.name for layer in plan.layers if layer.name not in taken] or ["input"]


def _sight(layer: Layer, arrives: list[Sight]) -> Sight:
    if not arrives:
        nothing = Side((None,), 0, (0,))
        return Sight(tuple(((None, n),) for n in layer.output_shape), (nothing, nothing))
    if layer.rule.joins:
        return _joined(layer, arrives)
    rearrange = _REARRANGED.get(layer.type)
    return rearrange(layer, arrives[0]) if rearrange else _read(layer, arrives[0])


def _read(layer: Layer, sight: Sight) -> Sight:
    """A layer that keeps the meaning of its axes."""
    out = layer.output_shape
    taps = reads(layer.type, layer.settings, layer.input_shape, out)
    sides, axes = list(sight.sides), list(sight.axes)
    for n, factors in enumerate(axes):
        own = [image for image, _ in factors if image is not None]
        if n in taps and (taps[n] != _EACH or out[n] != layer.input_shape[n]):
            t = taps[n]
            for image in own:
                sides[image] = (
                    _whole(sides[image]) if t is None or len(factors) > 1 else _through(sides[image], t, out[n])
                )
        if out[n] != layer.input_shape[n]:
            axes[n] = ((own[0] if len(factors) == 1 and own else None, out[n]),)
    return Sight(tuple(axes), (sides[0], sides[1]))


def _through(side: Side, taps: Taps, count: int) -> Side:
    """What `count` positions see that read positions of `side`."""
    if side.step == 0:
        return side
    seen = tuple(_any(side.seen[i] for i in taps.inside(o, len(side.seen))) for o in range(count))
    if side.step is None:
        return Side(tuple(_hull(side.at(i) for i in taps.at(o)) for o in range(count)), None, seen)
    period = len(side.spans)
    rounds = lcm(period, taps.step) // taps.step  # of the layer's own phases, until all begins anew
    spans = tuple(_hull(side.at(i) for i in taps.at(o)) for o in range(rounds * len(taps.phases)))
    return Side(spans, rounds * taps.step // period * side.step, seen)


def _whole(side: Side) -> Side:
    """What a value sees that depends on all positions."""
    seen = _any(side.seen)
    return Side((_bounds(seen),), 0, (seen,))


def _joined(layer: Layer, arrives: list[Sight]) -> Sight:
    """The union of what the branches see."""
    sides = []
    for n in (0, 1):
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
    return Sight(tuple(axes), (sides[0], sides[1]))


def _union(a: Side, b: Side) -> Side:
    if a == b or b.spans == (None,):
        return a
    if a.spans == (None,):
        return b
    count = max(len(a.seen), len(b.seen))
    seen = tuple(x | y for x, y in zip(_spread(a.seen, count), _spread(b.seen, count), strict=True))
    if 0 in (a.step, b.step) and len(set(seen)) == 1:
        return Side((_bounds(seen[0]),), 0, seen[:1])
    if a.step is None or b.step is None or a.step * len(b.spans) != b.step * len(a.spans):
        return Side(tuple(_hull((a.at(o), b.at(o))) for o in range(count)), None, seen)
    period = lcm(len(a.spans), len(b.spans))
    return Side(tuple(_hull((a.at(o), b.at(o))) for o in range(period)), a.step * period // len(a.spans), seen)


def _flattened(layer: Layer, sight: Sight) -> Sight:
    start, end = (
        d - 1 if d > 0 else len(sight.axes) + d for d in (layer.settings["start_dim"], layer.settings["end_dim"])
    )
    merged = tuple(f for a in sight.axes[start : end + 1] for f in a)
    return replace(sight, axes=(*sight.axes[:start], merged, *sight.axes[end + 1 :]))


def _unflattened(layer: Layer, sight: Sight) -> Sight:
    """The way back of _flattened where the sizes are the same; other sizes mix rows and columns."""
    dim = layer.settings["dim"]
    n = dim - 1 if dim > 0 else len(sight.axes) + dim
    left, parts = list(sight.axes[n]), []
    for size in layer.output_shape[n : n + len(layer.output_shape) - len(sight.axes) + 1]:
        part: list[Factor] = []
        while left and _count(part) < size:
            part.append(left.pop(0))
        over = _count(part) // size if part else 1
        if over > 1 and part[-1][0] is None and part[-1][1] % over == 0:  # channels may be divided at will
            part[-1], left = (None, part[-1][1] // over), [(None, over), *left]
        if _count(part) != size:
            return _mixed(layer, sight, n)
        parts.append(tuple(part))
    return replace(sight, axes=(*sight.axes[:n], *parts, *sight.axes[n + 1 :]))


def _mixed(layer: Layer, sight: Sight, n: int) -> Sight:
    """The axes of the image in axis `n` can no longer be told apart: from here on, all of them is seen."""
    sides = list(sight.sides)
    for image, _ in sight.axes[n]:
        if image is not None:
            sides[image] = _whole(sides[image])
    return Sight(tuple(((None, k),) for k in layer.output_shape), (sides[0], sides[1]))


def _permuted(layer: Layer, sight: Sight) -> Sight:
    return replace(sight, axes=tuple(sight.axes[d - 1] for d in layer.settings["dims"][1:]))


def _chunked(layer: Layer, sight: Sight) -> Sight:
    if any(image is not None for image, _ in sight.axes[0]):
        return _mixed(layer, sight, 0)
    return replace(sight, axes=(((None, layer.output_shape[0]),), *sight.axes[1:]))


def _unfolded(layer: Layer, sight: Sight) -> Sight:
    """The windows of an image become columns: a last axis that runs over rows and columns of windows."""
    out, sides, places = layer.output_shape, list(sight.sides), []
    for n, taps in enumerate(fold_windows(layer.settings, layer.input_shape)):
        span, pad = taps.phases[0][-1] - taps.phases[0][0], -taps.phases[0][0]
        places.append((layer.input_shape[1 + n] + 2 * pad - span - 1) // taps.step + 1)
        for image in [i for i, _ in sight.axes[1 + n] if i is not None]:
            sides[image] = _through(sides[image], taps, places[-1])
    names = [sight.axes[1 + n][0][0] if len(sight.axes[1 + n]) == 1 else None for n in (0, 1)]
    return Sight((((None, out[0]),), tuple(zip(names, places, strict=True))), (sides[0], sides[1]))


def _folded(layer: Layer, sight: Sight) -> Sight:
    """Columns become an image again, each window added where it stood."""
    s, columns = layer.settings, sight.axes[1]
    rows = list(zip(s["kernel_size"], s["stride"], s["padding"], s["dilation"], strict=True))
    counts = [
        (size + 2 * p - d * (k - 1) - 1) // st + 1 for size, (k, st, p, d) in zip(s["output_size"], rows, strict=True)
    ]
    if [k for _, k in columns] != counts:
        return _mixed(layer, sight, 1)
    sides = list(sight.sides)
    for (image, _), row, size in zip(columns, rows, s["output_size"], strict=True):
        if image is not None:
            sides[image] = _through(sides[image], transposed(*row), size)
    out = layer.output_shape
    return Sight((((None, out[0]),), ((columns[0][0], out[1]),), ((columns[1][0], out[2]),)), (sides[0], sides[1]))


_REARRANGED = {
    "Flatten": _flattened,
    "Unflatten": _unflattened,
    "Permute": _permuted,
    "Chunk": _chunked,
    "Unfold": _unfolded,
    "Fold": _folded,
}


def _count(factors: Sequence[Factor]) -> int:
    return product([k for _, k in factors])


def _hull(spans: Iterable[Span]) -> Span:
    real = [s for s in spans if s]
    return (min(s[0] for s in real), max(s[1] for s in real)) if real else None


def _any(masks: Iterable[int]) -> int:
    seen = 0
    for mask in masks:
        seen |= mask
    return seen


def _full(size: int) -> int:
    return (1 << size) - 1


def _bounds(seen: int) -> Span:
    """The lowest and the highest bit that is set."""
    return ((seen & -seen).bit_length() - 1, seen.bit_length() - 1) if seen else None


def _spread(seen: Sequence[int], count: int) -> Sequence[int]:
    return seen if len(seen) == count else [seen[0]] * count
