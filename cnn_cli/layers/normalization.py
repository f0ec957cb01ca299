"""Normalization: a mean and a deviation taken away, and usually two numbers learned for each channel."""

from typing import Any

from cnn_cli.layers.base import (
    LayerType,
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
from cnn_cli.values import Flag, Integer, ListOf, Number, maybe, product

_EPS = Setting(Number(0), 1e-5)
_EPS_ABOVE = Setting(Number(0, above=True), 1e-5)  # PyTorch's batch statistics refuse 0
_MOMENTUM = Setting(maybe(Number(0, 1)), 0.1)


def _affine(n: int, wanted: bool, bias: bool = True) -> tuple[Tensor, ...]:
    if not wanted:
        return ()
    return (Tensor("weight", (n,)), Tensor("bias", (n,))) if bias else (Tensor("weight", (n,)),)


def _per_channel(s: Settings) -> tuple[Tensor, ...]:
    n = s["num_features"]
    if not s["track_running_stats"]:
        return _affine(n, s["affine"])
    running = Tensor("running_mean", (n,), True), Tensor("running_var", (n,), True)
    return (*_affine(n, s["affine"]), *running, Tensor("num_batches_tracked", (), True))


def _two_each(name: str, key: str) -> Any:
    def count(s: Settings) -> str:
        return f"2·{s[name]} = {2 * s[name]:,}" if s[key] else ""

    return count


def _channel_norm(name: str, output: Any, affine: bool, track: bool) -> None:
    register(
        LayerType(
            name,
            "torch.nn",
            {
                "num_features": Setting(Integer(1), inferred=True),
                "eps": _EPS_ABOVE if name.startswith("Batch") else _EPS,
                "momentum": _MOMENTUM,
                "affine": Setting(Flag(), affine),
                "track_running_stats": Setting(Flag(), track),
            },
            output=output,
            infer=lambda shape: {"num_features": shape[0]},
            tensors=_per_channel,
            count=_two_each("num_features", "affine"),
            traits=frozenset({"normalization", "batch statistics"} if name.startswith("Batch") else {"normalization"}),
        )
    )


def _features(s: Settings, shape: Shape) -> Shape:
    if len(shape) > 2:
        raise ShapeError("takes features, or channels x length", "use BatchNorm2d")
    return _alone(s, shape)


def _alone(s: Settings, shape: Shape) -> Shape:
    """Without running statistics a single image brings its own, so it needs several values in each channel."""
    if not s["track_running_stats"] and product(shape[1:]) < 2:
        raise TooSmall("without running statistics it needs several values a channel", "remove track_running_stats")
    return shape


def _several(axes: int) -> Any:
    """Statistics of each channel of each image need more than one value there."""

    def output(s: Settings, shape: Shape) -> Shape:
        if product(grid(shape, axes)[1:]) < 2:
            raise TooSmall("needs more than one value in each channel", "use BatchNorm or a larger input")
        return shape

    return output


_channel_norm("BatchNorm1d", _features, affine=True, track=True)
_channel_norm("BatchNorm2d", lambda s, shape: _alone(s, image(shape)), affine=True, track=True)
_channel_norm("InstanceNorm1d", _several(1), affine=False, track=False)
_channel_norm("InstanceNorm2d", _several(2), affine=False, track=False)


def _frozen_tensors(s: Settings) -> tuple[Tensor, ...]:
    return tuple(Tensor(n, (s["num_features"],), True) for n in ("weight", "bias", "running_mean", "running_var"))


register(
    LayerType(
        "FrozenBatchNorm2d",
        "torchvision.ops",
        {"num_features": Setting(Integer(1), inferred=True), "eps": _EPS},
        output=lambda s, shape: image(shape),
        infer=lambda shape: {"num_features": shape[0]},
        tensors=_frozen_tensors,
        traits=frozenset({"normalization"}),
    )
)


def _group(s: Settings, shape: Shape) -> Shape:
    if shape[0] % s["num_groups"]:
        raise ShapeError(
            f"num_groups {s['num_groups']} must divide the channels", f"write a number that divides {shape[0]}"
        )
    if product(shape) == s["num_groups"]:
        raise TooSmall("needs more than one value in each group", "write fewer groups or a larger input")
    return shape


register(
    LayerType(
        "GroupNorm",
        "torch.nn",
        {
            "num_groups": Setting(Integer(1)),
            "num_channels": Setting(Integer(1), inferred=True),
            "eps": _EPS,
            "affine": Setting(Flag(), True),
        },
        output=_group,
        infer=lambda shape: {"num_channels": shape[0]},
        tensors=lambda s: _affine(s["num_channels"], s["affine"]),
        count=_two_each("num_channels", "affine"),
        traits=frozenset({"normalization"}),
    )
)


def _last_axes(s: Settings, shape: Shape) -> Shape:
    tail = s["normalized_shape"]
    if shape[-len(tail) :] != tail:
        fix = f"write normalized_shape: {list(shape[-len(tail) :])}"
        raise ShapeError(f"normalized_shape {sizes(tail)} must be the last sizes of what arrives", fix)
    return shape


def _layer_norm_tensors(s: Settings) -> tuple[Tensor, ...]:
    if not s["elementwise_affine"]:
        return ()
    weight = Tensor("weight", s["normalized_shape"])
    return (weight, Tensor("bias", s["normalized_shape"])) if s.get("bias") else (weight,)


def _layer_norm_count(s: Settings) -> str:
    tensors = _layer_norm_tensors(s)
    n = "·".join(str(v) for v in s["normalized_shape"])
    total = sum(product(t.shape) for t in tensors)
    return f"{len(tensors)}·{n} = {total:,}" if tensors else ""


for _name, _more in (("LayerNorm", {"bias": Setting(Flag(), True)}), ("RMSNorm", {})):
    register(
        LayerType(
            _name,
            "torch.nn",
            {
                "normalized_shape": Setting(ListOf(Integer(1), single=True)),
                "eps": _EPS if _name == "LayerNorm" else Setting(maybe(Number(0)), None),
                "elementwise_affine": Setting(Flag(), True),
                **_more,
            },
            output=_last_axes,
            tensors=_layer_norm_tensors,
            count=_layer_norm_count,
            traits=frozenset({"normalization"}),
        )
    )

register(
    LayerType(
        "LayerNorm2d",
        "cnn_cli.network.modules",
        {"num_channels": Setting(Integer(1), inferred=True), "eps": Setting(Number(0), 1e-6)},
        output=lambda s, shape: image(shape),
        infer=lambda shape: {"num_channels": shape[0]},
        tensors=lambda s: _affine(s["num_channels"], True),
        count=lambda s: f"2·{s['num_channels']} = {2 * s['num_channels']:,}",
        traits=frozenset({"normalization"}),
    )
)
register(
    LayerType(
        "LocalResponseNorm",
        "torch.nn",
        {
            "size": Setting(Integer(1, 10_000)),
            "alpha": Setting(Number(), 1e-4),
            "beta": Setting(Number(), 0.75),
            "k": Setting(Number(), 1.0),
        },
        output=lambda s, shape: image(shape),
        traits=frozenset({"normalization"}),
    )
)
