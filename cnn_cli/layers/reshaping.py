"""Layers without weights that move, repeat or resize values."""

import math
from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any

from cnn_cli.layers.base import (
    NOTHING,
    LayerType,
    Setting,
    Settings,
    Shape,
    ShapeError,
    SizeOf,
    TooSmall,
    Uneven,
    axis,
    grid,
    image,
    register,
    sizes,
)
from cnn_cli.layers.convolution import window_axes, window_taps, windows
from cnn_cli.layers.formulas import Formula, Line, by_axis, ratio
from cnn_cli.layers.taps import EACH, Reads, Taps, behind_channels, everything, resized, sliding, transposed
from cnn_cli.values import Choice, Flag, Integer, ListOf, Number, OneOf, Sizes, maybe


def _register(name: str, settings: dict[str, Setting], output: Any, explain: str, **rules: Any) -> None:
    register(LayerType(name, rules.pop("module", "torch.nn"), settings, output, explain, saved=NOTHING, **rules))


def _is(n: Any) -> Any:
    return n


def _span(s: Settings, shape: Shape) -> tuple[int, int]:
    start, end = axis(s["start_dim"], shape), axis(s["end_dim"], shape)
    if start > end:
        raise ShapeError(f"start_dim {s['start_dim']} must not be greater than end_dim {s['end_dim']}", "swap the two")
    return start, end


def _flattened(s: Settings, shape: Shape) -> Formula:
    start, end = _span(s, shape)
    return Formula(_is, {"n": shape[start : end + 1]})


def _flatten(s: Settings, shape: Shape) -> Shape:
    start, end = _span(s, shape)
    return (*shape[:start], _flattened(s, shape).value, *shape[end + 1 :])


_DIM = Integer(-8, 8)
_register(
    "Flatten",
    {"start_dim": Setting(_DIM, 1), "end_dim": Setting(_DIM, -1)},
    _flatten,
    "Merges axes {start_dim} to {end_dim} into one, in the order channels, rows, columns. Nothing is computed.",
    sizes=lambda s, i, o: [_flattened(s, i)],
    grid=lambda s, i, o: (i, i),
    traits=frozenset({"view", "linear"}),
)


def _unflatten(s: Settings, shape: Shape) -> Shape:
    index, parts = axis(s["dim"], shape), s["unflattened_size"]
    rest = prod([n for n in parts if n != -1])
    full = tuple(shape[index] // rest if n == -1 and rest else n for n in parts)
    if parts.count(-1) > 1 or prod(full) != shape[index]:
        need = f"the product of the sizes {'·'.join(map(str, parts))} must equal the size of axis {s['dim']}"
        raise ShapeError(need, f"write sizes whose product is {shape[index]}")
    return (*shape[:index], *full, *shape[index + 1 :])


_register(
    "Unflatten",
    {"dim": Setting(_DIM), "unflattened_size": Setting(ListOf(OneOf((Integer(1), Choice((-1,))))))},
    _unflatten,
    "Splits axis {dim} into several. Nothing is computed.",
    sizes=lambda s, i, o: [Formula(_is, {"n": o[axis(s["dim"], i) :][: len(s["unflattened_size"])]})],
    grid=lambda s, i, o: (i, i),
    traits=frozenset({"view"}),
)


def _permute(s: Settings, shape: Shape) -> Shape:
    dims = s["dims"]
    if len(dims) != len(shape) + 1:
        order = ", ".join(str(n) for n in (0, *range(2, len(shape) + 1), 1))
        need = f"dims of {len(dims)} numbers needs {len(dims) - 1} axes"
        raise ShapeError(need, f"write {len(shape) + 1}: [{order}]")
    return tuple(shape[d - 1] for d in dims[1:])


def _every_axis(s: Settings) -> None:
    count = len(s["dims"])
    if s["dims"][0] != 0 or sorted(s["dims"]) != list(range(count)):
        raise ValueError(f"dims must be 0 (the batch) and then each of 1 to {count - 1} once, in any order")


_register(
    "Permute",
    {"dims": Setting(ListOf(Integer(0, 8)))},
    _permute,
    "Reorders the axes. Nothing is computed.",
    module="torchvision.ops",
    check=_every_axis,
    sizes=lambda s, i, o: [f"axes in the order {', '.join(map(str, s['dims']))}: {sizes(i)} becomes {sizes(o)}"],
    taps=lambda s, i, o: {n: EACH._replace(axis=d - 1) for n, d in enumerate(s["dims"][1:])},
    traits=frozenset({"view"}),
)


def _shuffled(s: Settings, shape: Shape) -> list[Formula]:
    (c, h, w), r = image(shape), s["upscale_factor"]
    if c % (r * r):
        raise ShapeError(f"the channels must be a multiple of {r}·{r} = {r * r}", "change the out_channels before it")
    channels = Formula(lambda c, r: ratio(c, r * r), {"c": c, "r": r}, "channels")
    return [channels, *by_axis(lambda n, r: n * r, "nr", (h, w), (r, r))]


def _unshuffled(s: Settings, shape: Shape) -> list[Formula]:
    (c, h, w), r = image(shape), s["downscale_factor"]
    if h % r or w % r:
        raise Uneven(f"height and width must be multiples of {r}", "write another downscale_factor or input")
    channels = Formula(lambda c, r: c * r * r, {"c": c, "r": r}, "channels")
    return [channels, *by_axis(ratio, "nr", (h, w), (r, r))]


def _pixels(name: str, setting: str, explain: str, formulas: Any, taps: Any) -> None:
    _register(
        name,
        {setting: Setting(Integer(1))},
        lambda s, shape: tuple(formula.value for formula in formulas(s, shape)),
        explain,
        sizes=lambda s, i, o: formulas(s, i),
        taps=lambda s, i, o: {0: None, **behind_channels([taps(s[setting])] * 2)},
    )


_pixels(
    "PixelShuffle",
    "upscale_factor",
    "Rearranges groups of {upscale_factor}·{upscale_factor} channels into {upscale_factor}x{upscale_factor} pixels.",
    _shuffled,
    lambda r: Taps(((0,),) * r, 1),
)
_pixels(
    "PixelUnshuffle",
    "downscale_factor",
    "Rearranges {downscale_factor}x{downscale_factor} pixels into {downscale_factor}·{downscale_factor} channels.",
    _unshuffled,
    lambda r: sliding(r, r, 0, 1),
)


def _channel_shuffle(s: Settings, shape: Shape) -> Shape:
    if image(shape)[0] % s["groups"]:
        raise ShapeError(f"groups {s['groups']} must divide the channels", f"write a number that divides {shape[0]}")
    return shape


_register(
    "ChannelShuffle",
    {"groups": Setting(Integer(1))},
    _channel_shuffle,
    "Interleaves the channels of its groups ({groups} in all). Nothing is computed.",
    taps=lambda s, i, o: everything(0),
)


def _enlarged(s: Settings, i: Shape, o: Shape = ()) -> Sequence[Line]:
    if isinstance(s["size"], SizeOf):
        return [f"the output size is that of {s['size'].name}"]
    if s["size"] is not None:
        return [f"the output size is {sizes(s['size'])} for any input"]
    return by_axis(lambda n, f: math.floor(n * f), "nf", image(i)[1:], s["scale_factor"])


def _upsampled(s: Settings, shape: Shape) -> Shape:
    if s["size"] is not None:
        return (image(shape)[0], *s["size"])
    out = tuple(formula.value for formula in _enlarged(s, shape) if isinstance(formula, Formula))
    if min(out) < 1:
        raise TooSmall("scale_factor makes the output empty", "write a larger one, or a larger input")
    return (shape[0], *out)


def _one_of_two(s: Settings) -> None:
    if (s["size"] is None) == (s["scale_factor"] is None):
        raise ValueError("needs either size or scale_factor; write {scale_factor: 2}")
    if s["size"] is not None and s.get("recompute_scale_factor"):
        raise ValueError("recompute_scale_factor belongs to scale_factor, not to size; remove it")
    if s.get("align_corners") is not None and s["mode"] not in ("bilinear", "bicubic"):
        raise ValueError(f"align_corners belongs to bilinear and bicubic, not to mode {s['mode']}; remove it")


def _resized(s: Settings, i: Shape, o: Shape, mode: str = "", corners: bool = False) -> Reads:
    mode, corners = mode or s["mode"], corners or bool(s.get("align_corners"))
    factors = s["scale_factor"] if not s.get("recompute_scale_factor") else None
    if factors:
        scales = [1 / Fraction(f) for f in factors]
    else:
        scales = [Fraction(a, b) for a, b in zip(i[1:], o[1:], strict=True)]
    return behind_channels([resized(a, b, f, mode, corners) for a, b, f in zip(i[1:], o[1:], scales, strict=True)])


_SIZE = maybe(Sizes(Integer(1)))
_FACTOR = {"scale_factor": Setting(maybe(Sizes(Number(0, 1024, above=True))), None)}
_UPSAMPLE = {"size": Setting(_SIZE, None), **_FACTOR}
_register(
    "Upsample",
    {
        "size": Setting(_SIZE, None, sibling=True),
        **_FACTOR,
        "mode": Setting(Choice(("nearest", "bilinear", "bicubic", "nearest-exact")), "nearest"),
        "align_corners": Setting(maybe(Flag()), None),
        "recompute_scale_factor": Setting(maybe(Flag()), None),
    },
    _upsampled,
    "Resizes height and width, {mode}.",
    check=_one_of_two,
    sizes=_enlarged,
    taps=_resized,
)
for _name, _mode in (("UpsamplingNearest2d", "nearest"), ("UpsamplingBilinear2d", "bilinear")):
    _register(
        _name,
        _UPSAMPLE,
        _upsampled,
        f"Resizes height and width, {_mode}.",
        check=_one_of_two,
        sizes=_enlarged,
        taps=lambda s, i, o, mode=_mode: _resized(s, i, o, mode, corners=mode == "bilinear"),
    )


def _columns(s: Settings, sides: Shape) -> Shape:
    """The windows of an image of `sides` as Unfold reads and Fold writes them: (values, rows, columns)."""
    return (prod(s["kernel_size"]), *windows(s, (1, *sides)))


def _unfolded(s: Settings, shape: Shape) -> list[Formula]:
    inside = Formula(_is, {"v": (image(shape)[0], *s["kernel_size"])}, "values per window")
    return [inside, Formula(_is, {"w": _columns(s, shape[1:])[1:]}, "windows")]


def _folded(s: Settings, shape: Shape) -> Shape:
    values, *positions = _columns(s, s["output_size"])
    if grid(shape, 1)[0] % values:
        need = f"the channels must be a multiple of {'·'.join(map(str, s['kernel_size']))} = {values}"
        raise ShapeError(need, "write the kernel_size of the Unfold before it")
    if shape[1] != prod(positions):
        windows_ = f"{'·'.join(map(str, positions))} = {prod(positions)} windows"
        need = f"output_size {sizes(s['output_size'])} needs {windows_}"
        raise ShapeError(need, "write the settings of the Unfold before it")
    return (_fold_channels(s, shape).value, *s["output_size"])


def _fold_channels(s: Settings, i: Shape) -> Formula:
    return Formula(ratio, {"c": i[0], "k": s["kernel_size"]}, "channels")


_WINDOW = {
    "kernel_size": Setting(Sizes(Integer(1))),
    "dilation": Setting(Sizes(Integer(1)), (1, 1)),
    "padding": Setting(Sizes(Integer(0)), (0, 0)),
    "stride": Setting(Sizes(Integer(1)), (1, 1)),
}
_register(
    "Unfold",
    _WINDOW,
    lambda s, shape: tuple(formula.value for formula in _unfolded(s, shape)),
    "Writes every window as a column.",
    sizes=lambda s, i, o: _unfolded(s, i),
    taps=lambda s, i, o: behind_channels(window_taps(s)),
    grid=lambda s, i, o: (i, (o[0], *_columns(s, i[1:])[1:])),
)
_register(
    "Fold",
    {"output_size": Setting(Sizes(Integer(1))), **_WINDOW},
    _folded,
    "Writes every column back as a window; overlapping windows are added.",
    sizes=lambda s, i, o: [_fold_channels(s, i)],
    taps=lambda s, i, o: behind_channels([transposed(*axis) for axis in window_axes(s)]),
    grid=lambda s, i, o: ((i[0], *_columns(s, s["output_size"])[1:]), o),
)
