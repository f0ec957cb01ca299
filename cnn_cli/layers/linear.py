"""Fully connected layers."""

from collections.abc import Collection
from math import prod

from cnn_cli.layers.base import LayerType, Saved, Setting, Settings, Shape, Tensor, image, register, sizes
from cnn_cli.layers.taps import everything
from cnn_cli.values import Choice, Flag, Integer


def _explain(s: Settings, i: Shape, o: Shape) -> str:
    bias = ", plus a bias" if s["bias"] else ""
    positions = f", at each of {sizes(o[:-1])} positions" if prod(o[:-1]) > 1 else ""
    outputs = f"Each of the {o[-1]} outputs" if o[-1] > 1 else "The one output"
    inputs = f"all {i[-1]} inputs" if i[-1] > 1 else "the one input"
    return f"{outputs} is a weighted sum of {inputs}{bias}{positions}."


def _tensors(s: Settings) -> tuple[Tensor, ...]:
    weight = Tensor("weight", (s["out_features"], s["in_features"]))
    return (weight, Tensor("bias", (s["out_features"],))) if s["bias"] else (weight,)


def _unflattened(shape: Shape, before: Collection[str]) -> str:
    """PyTorch applies Linear along the rows of an image: intended only after the channels were moved to the end."""
    if len(shape) < 3 or "Permute" in before:
        return ""
    return f"is applied along the last axis of its {sizes(shape)} input; put Flatten before it"


register(
    LayerType(
        "Linear",
        "torch.nn",
        {
            "in_features": Setting(Integer(1, 2**53), inferred=True),
            "out_features": Setting(Integer(1, 2**53)),
            "bias": Setting(Flag(), True),
        },
        output=lambda s, shape: (*shape[:-1], s["out_features"]),
        explain=_explain,
        infer=lambda shape: {"in_features": shape[-1]},
        tensors=_tensors,
        applied=lambda i, o: o[:-1],
        taps=lambda s, i, o: everything(len(i) - 1),
        warning=_unflattened,
        traits=frozenset({"weighted sum"}),
    )
)


def _squeeze_tensors(s: Settings) -> tuple[Tensor, ...]:
    c, q = s["input_channels"], s["squeeze_channels"]
    first = Tensor("fc1.weight", (q, c, 1, 1)), Tensor("fc1.bias", (q,))
    return (*first, Tensor("fc2.weight", (c, q, 1, 1)), Tensor("fc2.bias", (c,)))


_GATES = Choice(("ReLU", "ReLU6", "SiLU", "GELU", "Hardswish", "Sigmoid", "Hardsigmoid", "Tanh"))
register(
    LayerType(
        "SqueezeExcitation",
        "torchvision.ops",
        {
            "input_channels": Setting(Integer(1), inferred=True),
            "squeeze_channels": Setting(Integer(1)),
            "activation": Setting(_GATES, "ReLU", is_class=True),
            "scale_activation": Setting(_GATES, "Sigmoid", is_class=True),
        },
        output=lambda s, shape: image(shape),
        explain="Scales each channel by a factor computed from the means of all channels: "
        "{input_channels} → {squeeze_channels} → {input_channels}.",
        infer=lambda shape: {"input_channels": image(shape)[0]},
        tensors=_squeeze_tensors,
        applied=lambda i, o: (),
        taps=lambda s, i, o: everything(0, 1, 2),
        saved=Saved(values=lambda s, i, o: 2 * int(s["input_channels"]) + int(s["squeeze_channels"])),
    )
)
