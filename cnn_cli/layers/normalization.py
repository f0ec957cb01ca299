"""Normalization: subtract a mean, divide by a standard deviation, and usually scale and shift by learned values."""

from collections.abc import Callable
from math import prod
from typing import Any

from cnn_cli.layers.base import (
    MASK,
    NOTHING,
    LayerType,
    Saved,
    Setting,
    Settings,
    Shape,
    ShapeError,
    Tensor,
    TooSmall,
    grid,
    image,
    register,
    sizes,
)
from cnn_cli.layers.taps import Reads, everything
from cnn_cli.values import Flag, Integer, ListOf, Number, maybe

_EPS = Setting(Number(0), 1e-5)
_EPS_ABOVE = Setting(Number(0, above=True), 1e-5)  # PyTorch's batch statistics refuse 0
_MOMENTUM = Setting(maybe(Number(0, 1)), 0.1)
_CHANNELS = Setting(Integer(1), inferred=True)
_TEXT = "Subtracts the mean and divides by the standard deviation of {}, then scales and shifts where it has weights."


def _register(name: str, explain: str, settings: dict[str, Setting], **rules: Any) -> None:
    module = rules.pop("module", "torch.nn")
    traits = frozenset({"normalization", *rules.pop("traits", ())})
    rules = {"output": lambda s, shape: image(shape)} | rules
    register(LayerType(name, module, settings, explain=explain, traits=traits, **rules))


def _affine(shape: Shape, wanted: bool, bias: bool = True) -> tuple[Tensor, ...]:
    if not wanted:
        return ()
    return (Tensor("weight", shape), Tensor("bias", shape)) if bias else (Tensor("weight", shape),)


def _per_channel(s: Settings) -> tuple[Tensor, ...]:
    shape = (s["num_features"],)
    if not s["track_running_stats"]:
        return _affine(shape, s["affine"])
    running = Tensor("running_mean", shape, True), Tensor("running_var", shape, True)
    return (*_affine(shape, s["affine"]), *running, Tensor("num_batches_tracked", (), True))


def _features(s: Settings, shape: Shape) -> Shape:
    if len(shape) > 2:
        raise ShapeError("takes features, or channels x length", "use BatchNorm2d")
    return _alone(s, shape)


def _alone(s: Settings, shape: Shape) -> Shape:
    """Without running statistics, an image is normalized by its own, for which it needs several values per channel."""
    if not s["track_running_stats"] and prod(shape[1:]) < 2:
        raise TooSmall("without running statistics it needs several values per channel", "remove track_running_stats")
    return shape


def _several(axes: int) -> Callable[[Settings, Shape], Shape]:
    """Statistics of each channel of each image need more than one value per channel."""

    def output(s: Settings, shape: Shape) -> Shape:
        if prod(grid(shape, axes)[1:]) < 2:
            raise TooSmall("needs more than one value in each channel", "use BatchNorm or a larger input")
        return shape

    return output


def _image_statistics(s: Settings, i: Shape, o: Shape) -> Reads:
    """Normalized by the mean and deviation of the image itself, unless running ones are kept."""
    return {} if s["track_running_stats"] else everything(*range(1, len(i)))


def _channel_norm(name: str, over: str, output: Any, batch: bool, **rules: Any) -> None:
    settings = {
        "num_features": _CHANNELS,
        "eps": _EPS_ABOVE if batch else _EPS,
        "momentum": _MOMENTUM,
        "affine": Setting(Flag(), batch),
        "track_running_stats": Setting(Flag(), batch),
    }
    infer, traits = (lambda shape: {"num_features": shape[0]}), {"batch statistics", "linear"} if batch else set()
    rules |= {"output": output, "infer": infer, "tensors": _per_channel, "traits": traits}
    _register(name, _TEXT.format(over), settings, **rules)


_BATCH = "(over the batch in training, running averages in evaluation)"
_channel_norm("BatchNorm1d", f"each feature {_BATCH}", _features, batch=True)
_channel_norm("BatchNorm2d", f"each channel {_BATCH}", lambda s, shape: _alone(s, image(shape)), batch=True)
for _axes, _input in ((1, "sequence"), (2, "image")):
    _over = f"each channel of each {_input}"
    _channel_norm(f"InstanceNorm{_axes}d", _over, _several(_axes), batch=False, taps=_image_statistics)

_FROZEN = ("weight", "bias", "running_mean", "running_var")
_register(
    "FrozenBatchNorm2d",
    "BatchNorm2d whose weights and statistics are fixed.",
    {"num_features": _CHANNELS, "eps": _EPS},
    module="torchvision.ops",
    infer=lambda shape: {"num_features": shape[0]},
    tensors=lambda s: tuple(Tensor(name, (s["num_features"],), True) for name in _FROZEN),
    saved=NOTHING,
)


def _group(s: Settings, shape: Shape) -> Shape:
    if shape[0] % s["num_groups"]:
        need = f"num_groups {s['num_groups']} must divide the channels"
        raise ShapeError(need, f"write a number that divides {shape[0]}")
    if prod(shape) == s["num_groups"]:
        raise TooSmall("needs more than one value in each group", "write fewer groups or a larger input")
    return shape


_register(
    "GroupNorm",
    _TEXT.format("each group of channels of each image ({num_groups} in all)"),
    {"num_groups": Setting(Integer(1)), "num_channels": _CHANNELS, "eps": _EPS, "affine": Setting(Flag(), True)},
    output=_group,
    infer=lambda shape: {"num_channels": shape[0]},
    tensors=lambda s: _affine((s["num_channels"],), s["affine"]),
    taps=lambda s, i, o: everything(*range(len(i))),
)


def _last_axes(s: Settings, shape: Shape) -> Shape:
    tail = s["normalized_shape"]
    if shape[-len(tail) :] != tail:
        fix = f"write normalized_shape: {list(shape[-len(tail) :])}"
        raise ShapeError(f"normalized_shape {sizes(tail)} must match the last axes of the input", fix)
    return shape


def _statistics(s: Settings, i: Shape, o: Shape) -> int:
    """A mean and a deviation at every position."""
    return 2 * prod(i) // prod(s["normalized_shape"])


for _name, _explain, _eps, _bias, _values in (
    ("LayerNorm", _TEXT.format("all values along the last axes"), _EPS, {"bias": Setting(Flag(), True)}, _statistics),
    (
        "RMSNorm",
        "Divides by the root mean square of all values along the last axes, then scales where it has weights.",
        Setting(maybe(Number(0)), None),
        {},
        lambda s, i, o: _statistics(s, i, o) + MASK.values(s, i, o),
    ),
):
    _register(
        _name,
        _explain,
        {
            "normalized_shape": Setting(ListOf(Integer(1), single=True)),
            "eps": _eps,
            "elementwise_affine": Setting(Flag(), True),
            **_bias,
        },
        output=_last_axes,
        tensors=lambda s: _affine(s["normalized_shape"], s["elementwise_affine"], s.get("bias", False)),
        taps=lambda s, i, o: everything(*range(len(i) - len(s["normalized_shape"]), len(i))),
        saved=Saved(values=_values),
    )
_register(
    "LayerNorm2d",
    _TEXT.format("the channels at each position"),
    {"num_channels": _CHANNELS, "eps": Setting(Number(0), 1e-6)},
    module="cnn_cli.network.modules",
    infer=lambda shape: {"num_channels": shape[0]},
    tensors=lambda s: _affine((s["num_channels"],), True),
    taps=lambda s, i, o: everything(0),
    saved=Saved(values=lambda s, i, o: 2 * prod(i) // i[0]),  # a mean and a deviation at every position
)
_register(
    "LocalResponseNorm",
    "Divides each value by a power of the sum of squares over {size} neighboring channels.",
    {
        "size": Setting(Integer(1, 10_000)),
        "alpha": Setting(Number(), 1e-4),
        "beta": Setting(Number(), 0.75),
        "k": Setting(Number(), 1.0),
    },
    taps=lambda s, i, o: everything(0),
    saved=Saved(values=lambda s, i, o: 2 * prod(i) + prod(i[1:]) * (i[0] + int(s["size"]) - 1)),
)
