"""Layers that move or repeat values without weights."""

import math
from typing import Any

from cnn_cli.layers.base import (
    LayerType,
    Setting,
    Settings,
    Shape,
    ShapeError,
    TooSmall,
    Uneven,
    axis,
    grid,
    image,
    register,
    sizes,
)
from cnn_cli.layers.convolution import by_axis, windows
from cnn_cli.values import Choice, Flag, Integer, ListOf, Number, OneOf, Sizes, maybe, product


def _register(
    name: str, settings: dict[str, Setting], output: Any, words: Any, module: str = "torch.nn", **rules: Any
) -> None:
    register(LayerType(name, module, settings, output=output, words=words, **rules))


def _times(shape: Shape) -> str:
    return "·".join(str(n) for n in shape)


def _span(s: Settings, shape: Shape) -> tuple[int, int]:
    start, end = axis(s["start_dim"], shape), axis(s["end_dim"], shape)
    if start > end:
        raise ShapeError(f"start_dim {s['start_dim']} must not lie behind end_dim {s['end_dim']}", "exchange the two")
    return start, end


def _flatten(s: Settings, shape: Shape) -> Shape:
    start, end = _span(s, shape)
    return (*shape[:start], product(shape[start : end + 1]), *shape[end + 1 :])


def _flatten_words(s: Settings, i: Shape, o: Shape) -> list[str]:
    start, end = _span(s, i)
    return [f"{_times(i[start : end + 1])} = {product(i[start : end + 1])}"]


_DIM = Integer(-8, 8)
_register("Flatten", {"start_dim": Setting(_DIM, 1), "end_dim": Setting(_DIM, -1)}, _flatten, _flatten_words)


def _unflatten(s: Settings, shape: Shape) -> Shape:
    index, parts = axis(s["dim"], shape), s["unflattened_size"]
    rest = product([n for n in parts if n != -1])
    full = tuple(shape[index] // rest if n == -1 and rest else n for n in parts)
    if parts.count(-1) > 1 or product(full) != shape[index]:
        need = f"the sizes {_times(parts)} need an axis {s['dim']} of their product"
        raise ShapeError(need, f"write sizes whose product is {shape[index]}")
    return (*shape[:index], *full, *shape[index + 1 :])


_SIZE = OneOf((Integer(1), Choice((-1,))))
_register(
    "Unflatten",
    {"dim": Setting(_DIM), "unflattened_size": Setting(ListOf(_SIZE))},
    _unflatten,
    lambda s, i, o: [f"{product(i)} = {_times(o)}"],
)


def _permute(s: Settings, shape: Shape) -> Shape:
    dims = s["dims"]
    if len(dims) != len(shape) + 1:
        order = ", ".join(str(n) for n in (0, *range(2, len(shape) + 1), 1))
        raise ShapeError(
            f"dims of {len(dims)} numbers needs {len(dims) - 1} axes", f"write {len(shape) + 1}: [{order}]"
        )
    return tuple(shape[d - 1] for d in dims[1:])


def _every_axis(s: Settings) -> None:
    count = len(s["dims"])
    if s["dims"][0] != 0 or sorted(s["dims"]) != list(range(count)):
        raise ValueError(f"dims must be 0 (the batch) and then each of 1 to {count - 1} once, in any order")


_register(
    "Permute",
    {"dims": Setting(ListOf(Integer(0, 8)))},
    _permute,
    lambda s, i, o: [f"axes in the order {', '.join(str(d) for d in s['dims'])}: {sizes(i)} becomes {sizes(o)}"],
    module="torchvision.ops",
    check=_every_axis,
)


def _shuffle(s: Settings, shape: Shape) -> Shape:
    c, h, w = image(shape)
    r = s["upscale_factor"]
    if c % (r * r):
        raise ShapeError(f"the channels must be a multiple of {r}·{r} = {r * r}", "change the out_channels before it")
    return (c // (r * r), h * r, w * r)


def _unshuffle(s: Settings, shape: Shape) -> Shape:
    c, h, w = image(shape)
    r = s["downscale_factor"]
    if h % r or w % r:
        raise Uneven(f"height and width must be multiples of {r}", "write another downscale_factor or input")
    return (c * r * r, h // r, w // r)


def _shuffle_words(s: Settings, i: Shape, o: Shape) -> list[str]:
    r = s["upscale_factor"]
    return [f"channels {i[0]}/({r}·{r}) = {o[0]}, sides {i[1]}·{r} = {o[1]}"]


def _unshuffle_words(s: Settings, i: Shape, o: Shape) -> list[str]:
    r = s["downscale_factor"]
    return [f"channels {i[0]}·{r}·{r} = {o[0]}, sides {i[1]}/{r} = {o[1]}"]


_register("PixelShuffle", {"upscale_factor": Setting(Integer(1))}, _shuffle, _shuffle_words)
_register("PixelUnshuffle", {"downscale_factor": Setting(Integer(1))}, _unshuffle, _unshuffle_words)


def _channel_shuffle(s: Settings, shape: Shape) -> Shape:
    if image(shape)[0] % s["groups"]:
        raise ShapeError(f"groups {s['groups']} must divide the channels", f"write a number that divides {shape[0]}")
    return shape


_register(
    "ChannelShuffle",
    {"groups": Setting(Integer(1))},
    _channel_shuffle,
    lambda s, i, o: [f"channels dealt out: {i[0]} = {s['groups']} groups of {i[0] // s['groups']}"],
)


def _upsampled(s: Settings, shape: Shape) -> Shape:
    c, h, w = image(shape)
    if s["size"] is not None:
        return (c, *s["size"])
    out = tuple(math.floor(n * f) for n, f in zip((h, w), s["scale_factor"], strict=True))
    if min(out) < 1:
        raise TooSmall("scale_factor leaves nothing", "write a larger one, or a larger input")
    return (c, *out)


def _one_of_two(s: Settings) -> None:
    if (s["size"] is None) == (s["scale_factor"] is None):
        raise ValueError("needs either size or scale_factor; write {scale_factor: 2}")
    if s["size"] is not None and s.get("recompute_scale_factor"):
        raise ValueError("recompute_scale_factor belongs to scale_factor, not to size; remove it")
    if s.get("align_corners") is not None and s["mode"] not in ("bilinear", "bicubic"):
        raise ValueError(f"align_corners belongs to bilinear and bicubic, not to mode {s['mode']}; remove it")


def _upsample_words(s: Settings, i: Shape, o: Shape) -> list[str]:
    if s["size"] is not None:
        return [f"any size becomes {sizes(o[1:])}"]
    return by_axis(
        [
            f"⌊{n}·{f:g}⌋ = {m}" if n * f % 1 else f"{n}·{f:g} = {m}"
            for n, f, m in zip(i[1:], s["scale_factor"], o[1:], strict=True)
        ]
    )


_UPSAMPLE = {
    "size": Setting(maybe(Sizes(Integer(1))), None),
    "scale_factor": Setting(maybe(Sizes(Number(0, 1024, above=True))), None),
}
_register(
    "Upsample",
    _UPSAMPLE
    | {
        "mode": Setting(Choice(("nearest", "bilinear", "bicubic", "nearest-exact")), "nearest"),
        "align_corners": Setting(maybe(Flag()), None),
        "recompute_scale_factor": Setting(maybe(Flag()), None),
    },
    _upsampled,
    _upsample_words,
    check=_one_of_two,
)
for _name in ("UpsamplingNearest2d", "UpsamplingBilinear2d"):
    _register(_name, _UPSAMPLE, _upsampled, _upsample_words, check=_one_of_two)


def _places(s: Settings, sides: Shape) -> Shape:
    """How many windows there are along height and width."""
    rows = zip(s["kernel_size"], s["stride"], s["padding"], s["dilation"], strict=True)
    return windows(list(rows), (0, *sides))


def _unfold(s: Settings, shape: Shape) -> Shape:
    return (image(shape)[0] * product(s["kernel_size"]), product(_places(s, shape[1:])))


def _fold(s: Settings, shape: Shape) -> Shape:
    window, places = product(s["kernel_size"]), _places(s, s["output_size"])
    if grid(shape, 1)[0] % window:
        need = f"the channels must be a multiple of {_times(s['kernel_size'])} = {window}"
        raise ShapeError(need, "write the kernel_size of the Unfold before it")
    if shape[1] != product(places):
        need = f"output_size {sizes(s['output_size'])} needs {_times(places)} = {product(places)} windows"
        raise ShapeError(need, "write the settings of the Unfold before it")
    return (shape[0] // window, *s["output_size"])


_WINDOW = {
    "kernel_size": Setting(Sizes(Integer(1))),
    "dilation": Setting(Sizes(Integer(1)), (1, 1)),
    "padding": Setting(Sizes(Integer(0)), (0, 0)),
    "stride": Setting(Sizes(Integer(1)), (1, 1)),
}
_register(
    "Unfold",
    _WINDOW,
    _unfold,
    lambda s, i, o: [f"{i[0]}·{_times(s['kernel_size'])} = {o[0]} values at each of {o[1]} places"],
)
_register(
    "Fold",
    {"output_size": Setting(Sizes(Integer(1))), **_WINDOW},
    _fold,
    lambda s, i, o: [f"{i[0]}/({_times(s['kernel_size'])}) = {o[0]} channels, from {i[1]} windows"],
)
