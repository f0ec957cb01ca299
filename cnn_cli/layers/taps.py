"""Receptive-field taps: for a position of a layer's output, the positions of its input that it reads, axis by axis."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor, gcd
from typing import NamedTuple

from cnn_cli.layers.formulas import adaptive_end, adaptive_start


class Taps(NamedTuple):
    """Position o reads the positions `phases[o % len(phases)]`, each shifted by `step` for every round of phases.

    Positions may lie outside of the input; `border` is the padding there: zeros, reflect, replicate or circular.
    `axis` is the axis of the input that is read, if it differs from that of the output. `bounded`: the windows depend
    on the size of the input, so a larger input has other windows.
    """

    phases: tuple[tuple[int, ...], ...]
    step: int
    border: str = "zeros"
    axis: int | None = None
    bounded: bool = False

    def at(self, o: int) -> list[int]:
        rounds, phase = divmod(o, len(self.phases))
        return [i + rounds * self.step for i in self.phases[phase]]

    def inside(self, o: int, size: int) -> list[int]:
        """The positions within an input of `size` that position o reads."""
        positions = self.at(o)
        if not positions or (positions[0] >= 0 and positions[-1] < size):  # sorted, and most windows lie inside
            return positions
        return [i for i in (_mirrored(i, size, self.border) for i in positions) if 0 <= i < size]


Reads = Mapping[int, Taps | None]
EVERYTHING = None
EACH = Taps(((0,),), 1)  # every position reads the same position of the input


def _mirrored(i: int, size: int, border: str) -> int:
    if 0 <= i < size or border == "zeros":
        return i
    if border == "circular":
        return i % size
    if border == "replicate":
        return min(max(i, 0), size - 1)
    return -i if i < 0 else 2 * (size - 1) - i


def everything(*axes: int) -> Reads:
    return dict.fromkeys(axes, EVERYTHING)


def behind_channels(taps: Sequence[Taps]) -> Reads:
    """Taps of height and width (or length)."""
    return dict(enumerate(taps, start=1))


def sliding(k: int, s: int, p: int, d: int, border: str = "zeros") -> Taps:
    """A window of `k` values, `d` apart, moved by `s`, with `p` values of padding before."""
    return Taps((tuple(range(-p, d * (k - 1) - p + 1, d)),), s, border)


def transposed(k: int, s: int, p: int, d: int) -> Taps:
    """A transposed convolution: input i writes to the outputs i·s − p + d·j, so output o reads every such i."""
    phases = [[(o + p - d * j) // s for j in reversed(range(k)) if (o + p - d * j) % s == 0] for o in range(s)]
    return Taps(tuple(tuple(taps) for taps in phases), 1)


def adaptive(n: int, o: int) -> Taps:
    """Adaptive pooling of `n` values to `o`."""
    common = gcd(n, o)
    phases = [tuple(range(adaptive_start(i, n, o), adaptive_end(i, n, o))) for i in range(o // common)]
    return Taps(tuple(phases), n // common, bounded=len(phases) > 1)


def resized(i: int, o: int, scale: Fraction, mode: str, corners: bool) -> Taps:
    """Upsampling; `scale` is input positions per output position. Weights that are exactly 0 read nothing."""

    def taps(n: int) -> tuple[int, ...]:
        if mode in ("nearest", "nearest-exact"):
            return (min(floor((n + Fraction(mode != "nearest") / 2) * scale), i - 1),)
        if corners:
            source = Fraction(n * (i - 1), o - 1) if o > 1 else Fraction(0)
        else:
            source = (n + Fraction(1, 2)) * scale - Fraction(1, 2)
            source = max(source, Fraction(0)) if mode == "bilinear" else source
        first = floor(source)
        if source == first:
            reads: tuple[int, ...] = (first,)
        else:
            reads = (first, first + 1) if mode == "bilinear" else tuple(range(first - 1, first + 3))
        return tuple(sorted({min(max(r, 0), i - 1) for r in reads}))

    return EACH if i == o and scale == 1 else Taps(tuple(taps(n) for n in range(o)), i)
