"""Fully connected layers."""

from collections.abc import Collection

from cnn_cli.layers.base import LayerType, Setting, Settings, Shape, Tensor, image, register, sizes
from cnn_cli.values import Choice, Flag, Integer, product


def _linear(s: Settings, shape: Shape) -> Shape:
    return (*shape[:-1], s["out_features"])


def _linear_tensors(s: Settings) -> tuple[Tensor, ...]:
    weight = Tensor("weight", (s["out_features"], s["in_features"]))
    return (weight, Tensor("bias", (s["out_features"],))) if s["bias"] else (weight,)


def _unflattened(shape: Shape, before: Collection[str]) -> str:
    """PyTorch takes an image and works along its rows; only networks that move the channels to the end mean that."""
    if len(shape) < 3 or "Permute" in before:
        return ""
    return f"works along the last axis of the {sizes(shape)} that arrives; put Flatten before it"


def _linear_count(s: Settings) -> str:
    total = sum(product(t.shape) for t in _linear_tensors(s))
    i, o = s["in_features"], s["out_features"]
    return f"({i} + 1)·{o} = {total:,}" if s["bias"] else f"{i}·{o} = {total:,}"


register(
    LayerType(
        "Linear",
        "torch.nn",
        {
            "in_features": Setting(Integer(1, 2**53), inferred=True),
            "out_features": Setting(Integer(1, 2**53)),
            "bias": Setting(Flag(), True),
        },
        output=_linear,
        infer=lambda shape: {"in_features": shape[-1]},
        tensors=_linear_tensors,
        macs=lambda s, i, o: product(o) * s["in_features"],
        count=_linear_count,
        warning=_unflattened,
    )
)


def _squeeze_tensors(s: Settings) -> tuple[Tensor, ...]:
    c, q = s["input_channels"], s["squeeze_channels"]
    first = Tensor("fc1.weight", (q, c, 1, 1)), Tensor("fc1.bias", (q,))
    return (*first, Tensor("fc2.weight", (c, q, 1, 1)), Tensor("fc2.bias", (c,)))


def _squeeze_count(s: Settings) -> str:
    c, q = s["input_channels"], s["squeeze_channels"]
    return f"({c} + 1)·{q} + ({q} + 1)·{c} = {(c + 1) * q + (q + 1) * c:,}"


_GATES = Choice(("ReLU", "ReLU6", "SiLU", "GELU", "Hardswish", "Sigmoid", "Hardsigmoid", "Tanh"))
register(
    LayerType(
        "SqueezeExcitation",
        "torchvision.ops",
        {
            "input_channels": Setting(Integer(1), inferred=True),
            "squeeze_channels": Setting(Integer(1)),
            "activation": Setting(_GATES, "ReLU"),
            "scale_activation": Setting(_GATES, "Sigmoid"),
        },
        output=lambda s, shape: image(shape),
        infer=lambda shape: {"input_channels": image(shape)[0]},
        tensors=_squeeze_tensors,
        macs=lambda s, i, o: 2 * s["input_channels"] * s["squeeze_channels"],
        words=lambda s, i, o: [f"each channel is scaled by one number, computed from the {i[0]} channel means"],
        count=_squeeze_count,
    )
)
