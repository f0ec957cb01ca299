"""Random layers with settings that mostly fit what arrives."""

import random
from typing import Any

from torch_values import CLASSES

SEQUENCE = [n for n in CLASSES if n.endswith("1d")] + ["Conv1d"] * 4 + ["BatchNorm1d", "Fold", "Fold"]
IMAGE = [n for n in CLASSES if n.endswith("2d")] + ["Conv2d"] * 14 + ["BatchNorm2d"] * 4 + ["MaxPool2d"] * 2
IMAGE += ["Upsample", "Upsample", "CenterCrop", "Unfold", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle"]
IMAGE += ["SqueezeExcitation", "LocalResponseNorm"]
ANY = [n for n in CLASSES if n not in IMAGE and n not in SEQUENCE] + ["Linear", "ReLU", "ReLU", "Slice"]


def _axes(r: random.Random, low: int, high: int, count: int) -> Any:
    """One number for all axes, or one for each."""
    if r.random() < 0.7:
        return r.randint(low, high)
    return [r.randint(low, high) for _ in range(count)]


def divisor(r: random.Random, *numbers: int) -> int:
    return r.choice([n for n in range(1, max(numbers) + 1) if all(m % n == 0 for m in numbers)])


def _some(r: random.Random, share: float, **settings: Any) -> dict[str, Any]:
    """Each of the settings with a probability."""
    return {k: v() if callable(v) else v for k, v in settings.items() if r.random() < share}


def _conv(r: random.Random, c: int, axes: int) -> dict[str, Any]:
    out = r.choice([1, 2, 3, 4, 6, 8, c])
    s: dict[str, Any] = {"out_channels": out, "kernel_size": _axes(r, 1, 3, axes)}
    s |= _some(r, 0.4, stride=lambda: _axes(r, 1, 2, axes), padding=lambda: _axes(r, 0, 2, axes))
    s |= _some(r, 0.2, dilation=lambda: _axes(r, 1, 2, axes), groups=lambda: divisor(r, c, out), bias=False)
    if r.random() < 0.15:
        s["padding"] = r.choice(["same", "valid"])
        s.pop("stride", None)
    return s | _some(r, 0.12, padding_mode=lambda: r.choice(["zeros", "reflect", "replicate", "circular"]))


def _transposed(r: random.Random, c: int, axes: int) -> dict[str, Any]:
    out = r.choice([1, 2, 4, 6])
    s: dict[str, Any] = {"out_channels": out, "kernel_size": _axes(r, 1, 3, axes)}
    s |= _some(r, 0.5, stride=lambda: _axes(r, 1, 2, axes))
    s |= _some(r, 0.3, padding=lambda: _axes(r, 0, 1, axes), output_padding=lambda: _axes(r, 0, 1, axes))
    return s | _some(r, 0.2, dilation=lambda: _axes(r, 1, 2, axes), groups=lambda: divisor(r, c, out), bias=False)


def _pool(r: random.Random, axes: int, *more: str) -> dict[str, Any]:
    s: dict[str, Any] = {"kernel_size": _axes(r, 1, 3, axes)}
    s |= _some(r, 0.5, stride=lambda: _axes(r, 1, 3, axes), ceil_mode=lambda: r.random() < 0.5)
    values = {"padding": lambda: r.randint(0, 1), "dilation": lambda: _axes(r, 1, 2, axes)}
    values |= {"count_include_pad": lambda: r.random() < 0.5, "divisor_override": lambda: r.choice([None, 1, 3])}
    return s | _some(r, 0.35, **{k: v for k, v in values.items() if k in more})


def _padding(r: random.Random, axes: int, channels: bool) -> Any:
    if r.random() < 0.4:
        return r.randint(-1, 2)
    count = 2 * axes + 2 if channels and r.random() < 0.4 else 2 * axes
    return [r.randint(-1, 2) for _ in range(count)]


def _upsample(r: random.Random, modes: bool) -> dict[str, Any]:
    s: dict[str, Any] = {"scale_factor": r.choice([1, 2, 2, 0.5, 1.5, 1.7, [2, 1], [0.7, 2]])}
    if r.random() < 0.4:
        s = {"size": _axes(r, 1, 10, 2)}
    if not modes:
        return s
    s |= _some(r, 0.6, mode=lambda: r.choice(["nearest", "bilinear", "bicubic", "nearest-exact"]))
    if s.get("mode") in ("bilinear", "bicubic"):
        s |= _some(r, 0.4, align_corners=lambda: r.random() < 0.5)
    return s | (_some(r, 0.2, recompute_scale_factor=lambda: r.random() < 0.5) if "scale_factor" in s else {})


def _norm(r: random.Random) -> dict[str, Any]:
    s = _some(r, 0.2, eps=lambda: r.choice([1e-3, 1e-5, 0.1]), momentum=lambda: r.choice([None, 0.5, 0.01]))
    return s | _some(r, 0.15, affine=lambda: r.random() < 0.5, track_running_stats=lambda: r.random() < 0.5)


def _unflatten(r: random.Random, shape: tuple[int, ...]) -> dict[str, Any]:
    axis = r.randrange(len(shape))
    one = divisor(r, shape[axis])
    parts = r.choice([[one, shape[axis] // one], [one, -1], [-1, one], [one, shape[axis] // one, 1]])
    return {"dim": r.choice([axis + 1, axis - len(shape)]), "unflattened_size": parts}


def _slice(r: random.Random, shape: tuple[int, ...]) -> dict[str, Any]:
    axis = r.randrange(len(shape))
    s: dict[str, Any] = {"dim": r.choice([axis + 1, axis - len(shape)])}
    s |= _some(r, 0.6, start=lambda: r.randint(-shape[axis], shape[axis] - 1))
    return s | _some(
        r, 0.5, end=lambda: r.choice([None, r.randint(-shape[axis], shape[axis])]), step=lambda: r.randint(1, 3)
    )


def _numbers(r: random.Random, *names: str, low: float = -1.0, high: float = 2.0) -> dict[str, Any]:
    return _some(r, 0.5, **{name: lambda: round(r.uniform(low, high), 2) for name in names})


def _fold(r: random.Random, shape: tuple[int, ...]) -> dict[str, Any]:
    kernel = r.choice([k for k in (1, 2, 3) if shape[0] % (k * k) == 0])
    pairs = [(a, shape[1] // a) for a in range(1, shape[1] + 1) if shape[1] % a == 0]
    a, b = r.choice(pairs)
    return {"output_size": [a + kernel - 1, b + kernel - 1], "kernel_size": kernel}


def image_layers(r: random.Random, shape: tuple[int, ...]) -> dict[str, Any]:
    """A layer …2d, and others that take images, with settings that mostly fit."""
    c, h, w = shape
    name = r.choice(IMAGE)
    pad = name.removesuffix("Pad2d")
    s: dict[str, Any] = {}
    if name == "Conv2d":
        s = _conv(r, c, 2)
    elif name == "ConvTranspose2d":
        s = _transposed(r, c, 2)
    elif name == "MaxPool2d":
        s = _pool(r, 2, "padding", "dilation")
    elif name == "AvgPool2d":
        s = _pool(r, 2, "padding", "count_include_pad", "divisor_override")
    elif name == "LPPool2d":
        s = {"norm_type": r.choice([1, 2, 1.5]), **_pool(r, 2)}
    elif name.startswith("Adaptive"):
        s = {"output_size": r.choice([1, 2, [1, 3], [None, 2], [2, None], 5])}
    elif pad != name:
        s = {"padding": _padding(r, 2, pad in ("Zero", "Constant"))}
        s |= {"value": r.choice([0, 1.5, -2])} if pad == "Constant" else {}
    elif name in ("BatchNorm2d", "InstanceNorm2d"):
        s = _norm(r)
    elif name in ("FrozenBatchNorm2d", "LayerNorm2d"):
        s = _some(r, 0.3, eps=1e-3)
    elif name == "LocalResponseNorm":
        s = {"size": r.randint(1, 5), **_numbers(r, "alpha", "beta", "k", low=0.01)}
    elif name == "SqueezeExcitation":
        s = {"squeeze_channels": r.randint(1, 4)}
        s |= _some(r, 0.3, activation=lambda: r.choice(["ReLU", "SiLU"]), scale_activation="Hardsigmoid")
    elif name == "PixelShuffle":
        s = {"upscale_factor": 2 if c % 4 == 0 else 1}
    elif name == "PixelUnshuffle":
        s = {"downscale_factor": 2 if h % 2 == w % 2 == 0 else 1}
    elif name == "ChannelShuffle":
        s = {"groups": divisor(r, c)}
    elif name == "Upsample" or name.startswith("Upsampling"):
        s = _upsample(r, name == "Upsample")
    elif name == "CenterCrop":
        s = {"size": r.choice([r.randint(1, min(h, w)), [r.randint(1, h), r.randint(1, w)]])}
    elif name == "Unfold":
        s = {"kernel_size": _axes(r, 1, 2, 2)}
        s |= _some(
            r,
            0.3,
            stride=lambda: _axes(r, 1, 2, 2),
            padding=lambda: _axes(r, 0, 1, 2),
            dilation=lambda: r.randint(1, 2),
        )
    elif name == "DropBlock2d":
        s = {"p": 0.3, "block_size": r.choice([1, 3])}
    elif name == "Dropout2d":
        s = _some(r, 0.5, p=0.3)
    return {name: s}


def sequence_layers(r: random.Random, shape: tuple[int, ...]) -> dict[str, Any]:
    """A layer …1d."""
    c = shape[0]
    name = r.choice(SEQUENCE)
    pad = name.removesuffix("Pad1d")
    s: dict[str, Any] = {}
    if name == "Conv1d":
        s = _conv(r, c, 1)
    elif name == "ConvTranspose1d":
        s = _transposed(r, c, 1)
    elif name == "MaxPool1d":
        s = _pool(r, 1, "padding", "dilation")
    elif name == "AvgPool1d":
        s = _pool(r, 1, "padding", "count_include_pad")
    elif name.startswith("Adaptive"):
        s = {"output_size": r.choice([1, 2, 5, [3]])}
    elif pad != name:
        s = {"padding": _padding(r, 1, pad in ("Zero", "Constant"))}
        s |= {"value": r.choice([0, 1.5, -2])} if pad == "Constant" else {}
    elif name in ("BatchNorm1d", "InstanceNorm1d"):
        s = _norm(r)
    elif name == "Fold":
        s = _fold(r, shape)
    return {name: s}


def any_layer(r: random.Random, shape: tuple[int, ...]) -> dict[str, Any]:
    """A layer that takes any shape."""
    name, rank = r.choice(ANY), len(shape)
    dim = lambda: r.choice([*range(1, rank + 1), *range(-rank, 0)])  # noqa: E731
    s: dict[str, Any] = {}
    if name == "Linear":
        s = {"out_features": r.choice([1, 2, 4, 5]), **_some(r, 0.2, bias=False)}
    elif name == "BatchNorm1d":
        s = _norm(r)
    elif name == "GroupNorm":
        s = {"num_groups": divisor(r, shape[0]), **_some(r, 0.2, affine=False, eps=1e-3)}
    elif name in ("LayerNorm", "RMSNorm"):
        tail = list(shape[-r.randint(1, rank) :])
        s = {"normalized_shape": tail if len(tail) > 1 or r.random() < 0.5 else tail[0]}
        s |= _some(r, 0.2, eps=1e-3, elementwise_affine=False) | (
            {} if name == "RMSNorm" else _some(r, 0.2, bias=False)
        )
    elif name == "Flatten":
        s = _some(r, 0.5, start_dim=lambda: r.randint(1, rank), end_dim=lambda: r.choice([-1, r.randint(1, rank)]))
    elif name == "Unflatten":
        s = _unflatten(r, shape)
    elif name == "Permute":
        s = {"dims": [0, *r.sample(range(1, rank + 1), rank)]}
    elif name == "Slice":
        s = _slice(r, shape)
    elif name in ("Softmax", "Softmin", "LogSoftmax"):
        s = _some(r, 0.6, dim=dim)
    elif name == "GLU":
        axis = r.choice([n for n in range(rank) if shape[n] % 2 == 0] or [0])
        s = {"dim": r.choice([axis + 1, axis - rank])}
    elif name == "PReLU":
        s = _some(r, 0.5, num_parameters=shape[0], init=0.1)
    elif name in ("ELU", "LeakyReLU"):
        s = _numbers(r, "alpha" if name == "ELU" else "negative_slope")
    elif name == "CELU":
        s = _numbers(r, "alpha", low=0.1)
    elif name == "Softplus":
        s = _numbers(r, "beta", low=0.1) | _numbers(r, "threshold")
    elif name in ("Hardshrink", "Softshrink"):
        s = _numbers(r, "lambd", low=0)
    elif name == "Threshold":
        s = {"threshold": 0.1, "value": r.choice([0, -1.5])}
    elif name == "Hardtanh":
        s = _some(r, 0.5, min_val=-0.5, max_val=0.7)
    elif name == "RReLU":
        s = _some(r, 0.5, lower=0.1, upper=0.3)
    elif name == "GELU":
        s = _some(r, 0.4, approximate="tanh")
    elif name in ("Dropout", "AlphaDropout", "FeatureAlphaDropout"):
        s = _some(r, 0.5, p=lambda: r.choice([0, 0.2, 1]))
    elif name == "StochasticDepth":
        s = {"p": 0.3, "mode": r.choice(["batch", "row"])}
    return {name: s}
