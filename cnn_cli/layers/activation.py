"""Activations, dropout and the identity: the shape that comes is the shape that goes."""

from typing import Any

from cnn_cli.layers.base import LayerType, Setting, Settings, Shape, ShapeError, Tensor, axis, grid, image, register
from cnn_cli.values import Choice, Integer, Number

_ACTIVATION = frozenset({"activation"})


def _same(s: Settings, shape: Shape) -> Shape:
    return shape


def _activation(name: str, settings: dict[str, Setting] | None = None, **rules: Any) -> None:
    register(LayerType(name, "torch.nn", settings or {}, **{"output": _same, "traits": _ACTIVATION, **rules}))


_PLAIN = "ReLU ReLU6 SELU SiLU Mish Hardswish Hardsigmoid Sigmoid LogSigmoid Tanh Tanhshrink Softsign Identity"
for _name in _PLAIN.split():
    _activation(_name)

_NUMBER = Number()
_activation("LeakyReLU", {"negative_slope": Setting(_NUMBER, 0.01)})
_activation("ELU", {"alpha": Setting(_NUMBER, 1.0)})
_activation("CELU", {"alpha": Setting(Number(0, above=True), 1.0)})
_activation("GELU", {"approximate": Setting(Choice(("none", "tanh")), "none")})
_activation("Hardshrink", {"lambd": Setting(_NUMBER, 0.5)})
_activation("Softshrink", {"lambd": Setting(Number(0), 0.5)})
_activation("Softplus", {"beta": Setting(Number(0, above=True), 1.0), "threshold": Setting(_NUMBER, 20.0)})
_activation("Threshold", {"threshold": Setting(_NUMBER), "value": Setting(_NUMBER)})


def _ordered(low: str, high: str, strict: bool) -> Any:
    def check(s: Settings) -> None:
        if s[low] > s[high] or (strict and s[low] == s[high]):
            raise ValueError(f"{low} {s[low]} must be below {high} {s[high]}")

    return check


_activation(
    "Hardtanh",
    {"min_val": Setting(_NUMBER, -1.0), "max_val": Setting(_NUMBER, 1.0)},
    check=_ordered("min_val", "max_val", strict=True),
)
_activation(
    "RReLU",
    {"lower": Setting(_NUMBER, 1 / 8), "upper": Setting(_NUMBER, 1 / 3)},
    check=_ordered("lower", "upper", strict=False),
    traits=frozenset({"activation", "random"}),
)


def _slopes(s: Settings, shape: Shape) -> Shape:
    if s["num_parameters"] not in (1, shape[0]):
        raise ShapeError(f"num_parameters {s['num_parameters']} needs as many channels", f"write 1 or {shape[0]}")
    return shape


_activation(
    "PReLU",
    {"num_parameters": Setting(Integer(1), 1), "init": Setting(_NUMBER, 0.25)},
    output=_slopes,
    tensors=lambda s: (Tensor("weight", (s["num_parameters"],)),),
    count=lambda s: f"{s['num_parameters']}",
)


def _along(s: Settings, shape: Shape) -> Shape:
    axis(s["dim"], shape)
    return shape


def _halved(s: Settings, shape: Shape) -> Shape:
    index = axis(s["dim"], shape)
    if shape[index] % 2:
        raise ShapeError(f"halves axis {s['dim']}, which must be even", "change the layer that gives it, or dim")
    return (*shape[:index], shape[index] // 2, *shape[index + 1 :])


# PyTorch's own default for dim is deprecated; 1, the channels or classes, is what it meant for images and vectors.
for _name in ("Softmax", "Softmin", "LogSoftmax"):
    _activation(_name, {"dim": Setting(Integer(-8, 8), 1)}, output=_along)
_activation(
    "GLU", {"dim": Setting(Integer(-8, 8), -1)}, output=_halved, words=lambda s, i, o: ["half gates the other half"]
)
_activation("Softmax2d", output=lambda s, shape: image(shape))

_P = Setting(Number(0, 1), 0.5)
_RANDOM = frozenset({"random"})
for _name in ("Dropout", "AlphaDropout", "FeatureAlphaDropout"):
    register(LayerType(_name, "torch.nn", {"p": _P}, output=_same, traits=_RANDOM))
register(LayerType("Dropout1d", "torch.nn", {"p": _P}, output=lambda s, shape: grid(shape, 1), traits=_RANDOM))
register(LayerType("Dropout2d", "torch.nn", {"p": _P}, output=lambda s, shape: image(shape), traits=_RANDOM))


def _odd(s: Settings, shape: Shape) -> Shape:
    block = min(s["block_size"], *image(shape)[1:])
    if block % 2 == 0:
        cut = "" if block == s["block_size"] else f", cut to {block},"
        raise ShapeError(f"block_size {s['block_size']}{cut} must be odd", f"write block_size: {max(block - 1, 1)}")
    return shape


register(
    LayerType(
        "StochasticDepth",
        "torchvision.ops",
        {"p": Setting(Number(0, 1)), "mode": Setting(Choice(("batch", "row")))},
        output=_same,
        traits=_RANDOM,
    )
)
register(
    LayerType(
        "DropBlock2d",
        "torchvision.ops",
        {"p": Setting(Number(0, 1)), "block_size": Setting(Integer(1)), "eps": Setting(Number(0), 1e-6)},
        output=_odd,
        traits=_RANDOM,
    )
)
