"""Lessons of layers that work on each value, or on all of them: activations, dropout, normalization, Linear."""

from math import prod

from cnn_cli.analysis.lessons.base import Lesson, Make, times
from cnn_cli.language.plan import Layer


def _linear(layer: Layer) -> Lesson:
    s, out = layer.settings, layer.output_shape
    i, o, places = s["in_features"], s["out_features"], out[:-1]
    where = f", at each of {times(*places)} places" if places else ""
    bias = (f"({i} + 1) · {o}", "(inputs + 1 bias) · outputs") if s["bias"] else (f"{i} · {o}", "inputs · outputs")
    return Lesson(
        f"Each of the {o} outputs is a weighted sum of all {i} inputs{', plus a bias' if s['bias'] else ''}{where}.",
        (),
        (bias[1], f"{bias[0]} = {layer.params:,}"),
        (
            ("places · " if places else "") + "inputs · outputs",
            f"{times(*places) + ' · ' if places else ''}{i} · {o} = {layer.macs:,}",
        ),
    )


def _normalisation(what: str) -> Make:
    def make(layer: Layer) -> Lesson:
        learned = [t for t in layer.tensors if not t.buffer]
        names = {"weight": "scale", "bias": "shift"}
        parts = " + ".join(f"{prod(t.shape):,} {names.get(t.name, t.name)}" for t in learned)
        lines = [f"{parts} = {layer.params:,}" if learned else "none"]
        if kept := sum(prod(t.shape) for t in layer.tensors if t.buffer):
            lines.append(f"and {kept:,} values in buffers, which are not trained: running means and the like")
        then = ", then scales and shifts" if len(learned) > 1 else ", then scales" if learned else ""
        return Lesson(f"{what}{then}.", (), tuple(lines))

    return make


def _squeeze(layer: Layer) -> Lesson:
    c, q = layer.settings["input_channels"], layer.settings["squeeze_channels"]
    return Lesson(
        f"Scales each channel by one number, computed from the means of all {c} channels: {c} → {q} → {c}.",
        (),
        ("(channels + 1)·squeezed + (squeezed + 1)·channels", f"({c} + 1)·{q} + ({q} + 1)·{c} = {layer.params:,}"),
        ("channels·squeezed + squeezed·channels", f"{c}·{q} + {q}·{c} = {layer.macs:,}"),
    )


def _says(text: str) -> Make:
    """A layer that keeps the size; `{name}` in the text is a setting."""
    return lambda layer: Lesson(
        text.format(**layer.settings, channels=layer.input_shape[0] if layer.input_shape else "")
    )


def _slopes(layer: Layer) -> Lesson:
    n = layer.settings["num_parameters"]
    parameters = ("slopes · channels", f"1 · {n} = {n}") if n > 1 else ("one slope for all channels", "1 = 1")
    return Lesson("x where x > 0, else a·x, with a slope a that is learned.", (), parameters)


def _gated(layer: Layer) -> Lesson:
    i, o = layer.input_shape, layer.output_shape
    n, m = next((a, b) for a, b in zip(i, o, strict=True) if a != b)
    return Lesson("The first half times sigmoid(the second half).", (f"{n}/2 = {m}",))


def _parameter(layer: Layer) -> Lesson:
    shape = layer.settings["shape"]
    return Lesson("A tensor that is learned, the same for every image.", (), (f"{times(*shape)} = {layer.params:,}",))


_PLACES = {
    "ReLU": "max(0, x): what is negative becomes 0.",
    "ReLU6": "min(max(0, x), 6).",
    "LeakyReLU": "x where x > 0, else {negative_slope}·x.",
    "RReLU": "x where x > 0, else a·x; in training a is drawn from {lower:.3g} to {upper:.3g}.",
    "ELU": "x where x > 0, else {alpha}·(eˣ − 1).",
    "CELU": "x where x > 0, else {alpha}·(e^(x/{alpha}) − 1).",
    "SELU": "ELU scaled so that mean 0 and variance 1 keep themselves: 1.0507·(x where x > 0, else 1.6733·(eˣ − 1)).",
    "GELU": "x·Φ(x), Φ the normal distribution function.",
    "SiLU": "x·sigmoid(x), also called swish.",
    "Mish": "x·tanh(ln(1 + eˣ)).",
    "Hardswish": "x·min(max(0, x + 3), 6)/6.",
    "Hardsigmoid": "min(max(0, x + 3), 6)/6.",
    "Hardtanh": "x, cut to {min_val} … {max_val}.",
    "Hardshrink": "0 where |x| ≤ {lambd}, else x.",
    "Softshrink": "x moved towards 0 by {lambd}.",
    "Softplus": "ln(1 + e^({beta}·x))/{beta}: a smooth ReLU.",
    "Softsign": "x/(1 + |x|).",
    "Sigmoid": "1/(1 + e⁻ˣ): into 0 … 1.",
    "LogSigmoid": "ln(1/(1 + e⁻ˣ)).",
    "Tanh": "tanh x: into −1 … 1.",
    "Tanhshrink": "x − tanh x.",
    "Threshold": "x where x > {threshold}, else {value}.",
    "Identity": "What comes goes.",
    "Softmax": "eˣ divided by the sum of eˣ along axis {dim}: shares that add up to 1.",
    "Softmin": "e⁻ˣ divided by the sum of e⁻ˣ along axis {dim}: shares that add up to 1.",
    "LogSoftmax": "The logarithm of the shares eˣ/Σeˣ along axis {dim}.",
    "Softmax2d": "At every place the {channels} channels become shares that add up to 1.",
    "Dropout": "In training each value becomes 0 with probability {p}, and the rest is divided by 1 − {p}.",
    "Dropout1d": "In training whole channels become 0 with probability {p}; else nothing.",
    "Dropout2d": "In training whole channels become 0 with probability {p}; else nothing.",
    "AlphaDropout": "Dropout for SELU: with probability {p}, mean and variance kept; only in training.",
    "FeatureAlphaDropout": "AlphaDropout of whole channels, with probability {p}; only in training.",
    "StochasticDepth": "In training the whole branch is skipped with probability {p}; else nothing.",
    "DropBlock2d": "In training squares of {block_size}x{block_size} become 0, a share of {p} in all; else nothing.",
    "ChannelShuffle": "Interleaves {groups} groups of {channels}/{groups} channels. Nothing is computed.",
    "LocalResponseNorm": "Divides each value by a power of the squares in its {size} neighbour channels.",
}
_CENTRED = "Takes away the mean and divides by the standard deviation of"
_RUNNING = "(in training those of the batch, in evaluation the running ones)"
_NORMS = {
    "BatchNorm1d": f"{_CENTRED} each feature {_RUNNING}",
    "BatchNorm2d": f"{_CENTRED} each channel {_RUNNING}",
    "FrozenBatchNorm2d": f"{_CENTRED} each channel, all of them fixed numbers",
    "InstanceNorm1d": f"{_CENTRED} each channel, sequence by sequence",
    "InstanceNorm2d": f"{_CENTRED} each channel, image by image",
    "GroupNorm": f"{_CENTRED} each group of channels, image by image",
    "LayerNorm": f"{_CENTRED} the last axes together",
    "LayerNorm2d": f"{_CENTRED} the channels at each place",
    "RMSNorm": "Divides by the root of the mean of the squares over the last axes",
}
VALUES: dict[str, Make] = {
    **{name: _says(text) for name, text in _PLACES.items()},
    **{name: _normalisation(text) for name, text in _NORMS.items()},
    "Linear": _linear,
    "SqueezeExcitation": _squeeze,
    "PReLU": _slopes,
    "GLU": _gated,
    "Parameter": _parameter,
}
