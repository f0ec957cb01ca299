"""Activations, dropout and the identity: the output has the shape of the input, except for GLU."""

from typing import Any

from cnn_cli.layers.base import (
    MASK,
    NOTHING,
    OUTPUT,
    LayerType,
    Saved,
    Setting,
    Settings,
    Shape,
    ShapeError,
    Tensor,
    axis,
    grid,
    image,
    register,
)
from cnn_cli.layers.formulas import Formula, ratio
from cnn_cli.layers.taps import EVERYTHING, Reads, Taps, everything
from cnn_cli.values import Choice, Integer, Number

_NUMBER = Number()
_POSITIVE = Number(0, above=True)
_INPUT_AND_MASK = Saved(values=MASK.values)


def _same(s: Settings, shape: Shape) -> Shape:
    return shape


def _activation(name: str, explain: str, settings: dict[str, Setting] | None = None, **rules: Any) -> None:
    traits = frozenset({"activation", *rules.pop("traits", ())})
    register(LayerType(name, "torch.nn", settings or {}, rules.pop("output", _same), explain, traits=traits, **rules))


def _cut_off(outputs: int) -> str:
    return "scores below 0 become 0 and get no gradient; remove it"


def _squashed(outputs: int) -> str:
    """Cross-entropy includes a softmax; a single probability has its own loss, binary cross-entropy."""
    return "" if outputs == 1 else "the loss includes a softmax, and bounded scores stay close together; remove it"


def _probabilities(outputs: int) -> str:
    return "the loss includes a softmax; with probabilities it is less exact and its gradient can vanish; remove it"


_activation("ReLU", "max(0, x): negative values become 0.", saved=OUTPUT, as_last=_cut_off)
_activation("ReLU6", "min(max(0, x), 6).", bounds=lambda s: (6.0,), as_last=_cut_off)
_activation("LeakyReLU", "x where x > 0, else {negative_slope}·x.", {"negative_slope": Setting(_NUMBER, 0.01)})
_activation("ELU", "x where x > 0, else {alpha}·(eˣ − 1).", {"alpha": Setting(_NUMBER, 1.0)})
_activation("CELU", "x where x > 0, else {alpha}·(e^(x/{alpha}) − 1).", {"alpha": Setting(_POSITIVE, 1.0)})
_activation("SELU", "ELU scaled to preserve mean 0 and variance 1: 1.0507·(x where x > 0, else 1.6733·(eˣ − 1)).")
_activation(
    "GELU",
    "x·Φ(x), where Φ is the cumulative distribution function of the normal distribution.",
    {"approximate": Setting(Choice(("none", "tanh")), "none")},
)
_activation("SiLU", "x·sigmoid(x), also called swish.")
_activation("Mish", "x·tanh(ln(1 + eˣ)).")
_activation("Hardswish", "x·min(max(0, x + 3), 6)/6.")
_activation("Hardsigmoid", "min(max(0, x + 3), 6)/6.", bounds=lambda s: (0.0, 1.0), as_last=_squashed)
_activation("Hardshrink", "0 where |x| ≤ {lambd}, else x.", {"lambd": Setting(_NUMBER, 0.5)})
_activation("Softshrink", "x shrunk towards 0 by {lambd}.", {"lambd": Setting(Number(0), 0.5)})
_activation(
    "Softplus",
    "ln(1 + e^({beta}·x))/{beta}: a smooth ReLU.",
    {"beta": Setting(_POSITIVE, 1.0), "threshold": Setting(_NUMBER, 20.0)},
)
_activation("Softsign", "x/(1 + |x|).", saved=_INPUT_AND_MASK, bounds=lambda s: (-1.0, 1.0), as_last=_squashed)
_activation("Sigmoid", "1/(1 + e⁻ˣ), between 0 and 1.", saved=OUTPUT, bounds=lambda s: (0.0, 1.0), as_last=_squashed)
_activation("LogSigmoid", "ln(1/(1 + e⁻ˣ)).", saved=_INPUT_AND_MASK)
_activation("Tanh", "tanh x, between −1 and 1.", saved=OUTPUT, bounds=lambda s: (-1.0, 1.0), as_last=_squashed)
_activation("Tanhshrink", "x − tanh x.", saved=MASK)
_activation(
    "Threshold",
    "x where x > {threshold}, else {value}.",
    {"threshold": Setting(_NUMBER), "value": Setting(_NUMBER)},
)
_activation("Identity", "The output is the input.", saved=NOTHING, traits={"view", "linear"})


def _ordered(low: str, high: str, strict: bool) -> Any:
    def check(s: Settings) -> None:
        if s[low] > s[high] or (strict and s[low] == s[high]):
            raise ValueError(f"{low} {s[low]} must be below {high} {s[high]}")

    return check


_activation(
    "Hardtanh",
    "x, clipped to {min_val} … {max_val}.",
    {"min_val": Setting(_NUMBER, -1.0), "max_val": Setting(_NUMBER, 1.0)},
    check=_ordered("min_val", "max_val", strict=True),
    bounds=lambda s: (s["min_val"], s["max_val"]),
)
_activation(
    "RReLU",
    "x where x > 0, else a·x; in training a is drawn from {lower:.3g} to {upper:.3g}.",
    {"lower": Setting(_NUMBER, 1 / 8), "upper": Setting(_NUMBER, 1 / 3)},
    check=_ordered("lower", "upper", strict=False),
    saved=_INPUT_AND_MASK,
    traits={"random"},
)


def _slopes(s: Settings, shape: Shape) -> Shape:
    if s["num_parameters"] not in (1, shape[0]):
        raise ShapeError(
            f"num_parameters {s['num_parameters']} must equal the number of channels", f"write 1 or {shape[0]}"
        )
    return shape


_activation(
    "PReLU",
    "x where x > 0, else a·x, with a learned slope a for each channel, or one for all.",
    {"num_parameters": Setting(Integer(1), 1), "init": Setting(_NUMBER, 0.25)},
    output=_slopes,
    tensors=lambda s: (Tensor("weight", (s["num_parameters"],)),),
)


def _along(s: Settings, shape: Shape) -> Shape:
    axis(s["dim"], shape)
    return shape


def _halved(s: Settings, shape: Shape) -> Shape:
    index = axis(s["dim"], shape)
    if shape[index] % 2:
        raise ShapeError(
            f"splits axis {s['dim']} in half, so its size must be even", "change the layer before it, or dim"
        )
    return (*shape[:index], ratio(shape[index], 2), *shape[index + 1 :])


def _halves(s: Settings, i: Shape, o: Shape) -> Reads:
    along = axis(s["dim"], i)
    return {along: Taps(tuple((n, n + o[along]) for n in range(o[along])), i[along])}


# PyTorch's default for dim is deprecated; for images and vectors it was 1, the channels or classes.
for _name, _explain in (
    ("Softmax", "eˣ divided by the sum of eˣ along axis {dim}: probabilities that add up to 1."),
    ("Softmin", "e⁻ˣ divided by the sum of e⁻ˣ along axis {dim}: probabilities that add up to 1."),
    ("LogSoftmax", "The logarithm of the softmax along axis {dim}."),
):
    _activation(
        _name,
        _explain,
        {"dim": Setting(Integer(-8, 8), 1)},
        output=_along,
        taps=lambda s, i, o: {axis(s["dim"], i): EVERYTHING},
        saved=OUTPUT,
        as_last=LayerType.as_last if _name == "LogSoftmax" else _probabilities,
    )
_activation(
    "Softmax2d",
    "A softmax over the channels at every position.",
    output=lambda s, shape: image(shape),
    taps=lambda s, i, o: everything(0),
    saved=OUTPUT,
)
_activation(
    "GLU",
    "The first half along axis {dim}, times sigmoid(the second half).",
    {"dim": Setting(Integer(-8, 8), -1)},
    output=_halved,
    sizes=lambda s, i, o: [Formula(lambda n: ratio(n, 2), {"n": i[axis(s["dim"], i)]})],
    taps=_halves,
)

_P = Setting(Number(0, 1), 0.5)


def _dropout(name: str, explain: str, settings: dict[str, Setting], **rules: Any) -> None:
    """Dropout and its variants: in evaluation, the output is the input."""
    module = "torchvision.ops" if name in ("StochasticDepth", "DropBlock2d") else "torch.nn"
    output, traits = rules.pop("output", _same), frozenset({"random", "view in evaluation", "linear"})
    register(LayerType(name, module, settings, output, explain, traits=traits, **({"saved": NOTHING} | rules)))


_dropout(
    "Dropout",
    "In training, each value becomes 0 with probability {p}, and the others are divided by 1 − {p}.",
    {"p": _P},
    saved=MASK,
)
_dropout(
    "AlphaDropout",
    "Dropout for SELU: with probability {p}, mean and variance preserved; only in training.",
    {"p": _P},
    saved=MASK,
)
_dropout("FeatureAlphaDropout", "AlphaDropout of whole channels, with probability {p}; only in training.", {"p": _P})
for _name, _axes in (("Dropout1d", 1), ("Dropout2d", 2)):
    _dropout(
        _name,
        "In training, whole channels become 0 with probability {p}, and the others are divided by 1 − {p}.",
        {"p": _P},
        output=lambda s, shape, axes=_axes: grid(shape, axes),
    )


def _odd(s: Settings, shape: Shape) -> Shape:
    block = min(s["block_size"], *image(shape)[1:])
    if block % 2 == 0:
        cut = "" if block == s["block_size"] else f", cut to {block},"
        raise ShapeError(f"block_size {s['block_size']}{cut} must be odd", f"write block_size: {max(block - 1, 1)}")
    return shape


_dropout(
    "StochasticDepth",
    "In training, the whole branch becomes 0 with probability {p}.",
    {"p": Setting(Number(0, 1)), "mode": Setting(Choice(("batch", "row")))},
)
_dropout(
    "DropBlock2d",
    "In training, {block_size}x{block_size} squares become 0, a fraction of {p} in all.",
    {"p": Setting(Number(0, 1)), "block_size": Setting(Integer(1)), "eps": Setting(Number(0), 1e-6)},
    output=_odd,
    saved=MASK,
)
