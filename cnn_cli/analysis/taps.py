"""What the layers read: for each axis of what comes out, the positions along the axis of what arrives.

Receptive fields, and rows that nothing reads, both follow from this one table. A layer that is not in it works value
by value.
"""

from collections.abc import Callable
from fractions import Fraction
from math import floor, gcd
from typing import Any, NamedTuple

from cnn_cli.layers import Settings, Shape
from cnn_cli.layers.base import axis


class Taps(NamedTuple):
    """Position o reads the positions `phases[o % len(phases)]`, each moved on by `step` for every whole round of
    phases.

    Positions may lie outside of what arrives; `border` says what stands there: zeros, reflect, replicate or circular.
    """

    phases: tuple[tuple[int, ...], ...]
    step: int
    border: str = "zeros"

    def at(self, o: int) -> list[int]:
        rounds, phase = divmod(o, len(self.phases))
        return [i + rounds * self.step for i in self.phases[phase]]

    def inside(self, o: int, size: int) -> list[int]:
        """The positions within what arrives, `size` long, that position o reads."""
        found = (_mirrored(i, size, self.border) for i in self.at(o))
        return [i for i in found if 0 <= i < size]


Reads = dict[int, Taps | None]  # by axis of the shape without the batch; None: every position reads all of them
EVERYTHING = None


def sliding(k: int, s: int, p: int, d: int, border: str = "zeros") -> Taps:
    """A window of `k` taps, `d` apart, moved by `s`, with `p` values of padding before."""
    return Taps((tuple(range(-p, d * (k - 1) - p + 1, d)),), s, border)


def transposed(k: int, s: int, p: int, d: int) -> Taps:
    """A transposed convolution: input i writes to the outputs i·s − p + d·j, so output o reads every such i."""
    phases = [[(o + p - d * j) // s for j in reversed(range(k)) if (o + p - d * j) % s == 0] for o in range(s)]
    return Taps(tuple(tuple(taps) for taps in phases), 1)


def adaptive(i: int, o: int) -> Taps:
    """Output n of o reads from ⌊n·i/o⌋ up to before ⌈(n + 1)·i/o⌉."""
    common = gcd(i, o)
    phases = [tuple(range(n * i // o, -(-(n + 1) * i // o))) for n in range(o // common)]
    return Taps(tuple(phases), i // common)


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

    return Taps(tuple(taps(n) for n in range(o)), i)


def reads(name: str, settings: Settings, arrives: Shape, out: Shape) -> Reads:
    """What a layer of the table reads along each axis; axes that are missing are read value by value."""
    rule = _READS.get(name)
    return rule(settings, arrives, out) if rule else {}


def _mirrored(i: int, size: int, border: str) -> int:
    if 0 <= i < size or border == "zeros":
        return i
    if border == "circular":
        return i % size
    if border == "replicate":
        return min(max(i, 0), size - 1)
    return -i if i < 0 else 2 * (size - 1) - i


def windows(s: Settings, arrives: Shape) -> list[Taps]:
    """Height and width (or length) of a convolution or pooling."""
    kernel = s["kernel_size"]
    stride, ones = s["stride"] or kernel, (1,) * len(kernel)
    dilation = s.get("dilation", ones)
    padding = s.get("padding", (0,) * len(kernel))
    if padding == "same":  # PyTorch puts the smaller half before
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    elif padding == "valid":
        padding = (0,) * len(kernel)
    border = s.get("padding_mode", "zeros")
    return [sliding(*a, border) for a in zip(kernel, stride, padding, dilation, strict=True)]


def _after_channels(taps: list[Taps]) -> Reads:
    return {1 + n: t for n, t in enumerate(taps)}


def _convolution(s: Settings, i: Shape, o: Shape) -> Reads:
    return {0: EVERYTHING} | _after_channels(windows(s, i))


def _transposed(s: Settings, i: Shape, o: Shape) -> Reads:
    axes = zip(s["kernel_size"], s["stride"], s["padding"], s["dilation"], strict=True)
    return {0: EVERYTHING} | _after_channels([transposed(*a) for a in axes])


def _pooling(s: Settings, i: Shape, o: Shape) -> Reads:
    return _after_channels(windows(s, i))


def _adaptive(s: Settings, i: Shape, o: Shape) -> Reads:
    return _after_channels([adaptive(a, b) for a, b in zip(i[1:], o[1:], strict=True)])


def _padding(border: str) -> Callable[[Settings, Shape, Shape], Reads]:
    """PyTorch's order is (left, right, top, bottom)."""

    def rule(s: Settings, i: Shape, o: Shape) -> Reads:
        before = s["padding"][::2][::-1]
        return _after_channels([sliding(1, 1, p, 1, border) for p in before])

    return rule


def _resized(s: Settings, i: Shape, o: Shape, mode: str = "", corners: bool = False) -> Reads:
    mode = mode or s["mode"]
    corners = corners or bool(s.get("align_corners"))
    given = s["scale_factor"] if not s.get("recompute_scale_factor") else None
    scales = [1 / Fraction(f) for f in given] if given else [Fraction(a, b) for a, b in zip(i[1:], o[1:], strict=True)]
    return _after_channels([resized(a, b, f, mode, corners) for a, b, f in zip(i[1:], o[1:], scales, strict=True)])


def _shuffled(s: Settings, i: Shape, o: Shape) -> Reads:
    spread = Taps(((0,),) * s["upscale_factor"], 1)
    return {0: EVERYTHING, 1: spread, 2: spread}


def _unshuffled(s: Settings, i: Shape, o: Shape) -> Reads:
    r = s["downscale_factor"]
    return {0: EVERYTHING, 1: sliding(r, r, 0, 1), 2: sliding(r, r, 0, 1)}


def _halves(s: Settings, i: Shape, o: Shape) -> Reads:
    along = axis(s["dim"], i)
    return {along: Taps(tuple((n, n + o[along]) for n in range(o[along])), i[along])}


def _whole(*axes: int) -> Callable[[Settings, Shape, Shape], Reads]:
    return lambda s, i, o: {a % len(i): EVERYTHING for a in axes if -len(i) <= a < len(i)}


def _image_statistics(s: Settings, i: Shape, o: Shape) -> Reads:
    """Normalised by the mean and deviation of the image itself, unless running ones were kept."""
    return (
        {} if s.get("track_running_stats") else dict.fromkeys(range(0 if "num_groups" in s else 1, len(i)), EVERYTHING)
    )


_READS: dict[str, Callable[[Settings, Shape, Shape], Reads]] = {
    **{f"{name}{n}d": _pooling for name in ("MaxPool", "AvgPool") for n in (1, 2)},
    "LPPool2d": _pooling,
    **{f"Conv{n}d": _convolution for n in (1, 2)},
    **{f"ConvTranspose{n}d": _transposed for n in (1, 2)},
    **{f"Adaptive{kind}Pool{n}d": _adaptive for kind in ("Avg", "Max") for n in (1, 2)},
    **{f"{kind}Pad{n}d": _padding("zeros") for kind in ("Zero", "Constant") for n in (1, 2)},
    **{
        f"{k}Pad{n}d": _padding(b) for k, b in (("Reflection", "reflect"), ("Replication", "replicate")) for n in (1, 2)
    },
    **{f"CircularPad{n}d": _padding("circular") for n in (1, 2)},
    **{name: _whole(-1) for name in ("Linear",)},
    **{name: lambda s, i, o: {axis(s["dim"], i): EVERYTHING} for name in ("Softmax", "Softmin", "LogSoftmax")},
    **{
        name: lambda s, i, o: _whole(*range(-len(s["normalized_shape"]), 0))(s, i, o)
        for name in ("LayerNorm", "RMSNorm")
    },
    **{name: _whole(0) for name in ("LayerNorm2d", "LocalResponseNorm", "Softmax2d", "ChannelShuffle")},
    **dict.fromkeys(("GroupNorm", "InstanceNorm1d", "InstanceNorm2d"), _image_statistics),
    "SqueezeExcitation": _whole(0, 1, 2),
    "GLU": _halves,
    "PixelShuffle": _shuffled,
    "PixelUnshuffle": _unshuffled,
    "Upsample": _resized,
    "UpsamplingNearest2d": lambda s, i, o: _resized(s, i, o, "nearest"),
    "UpsamplingBilinear2d": lambda s, i, o: _resized(s, i, o, "bilinear", corners=True),
}


def fold_windows(s: Settings, shape: Any) -> list[Taps]:
    """The windows of Unfold and Fold over (height, width)."""
    rows = zip(s["kernel_size"], s["stride"], s["padding"], s["dilation"], strict=True)
    return [sliding(*row) for row in rows]
