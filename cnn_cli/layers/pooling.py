"""Pooling: windows without weights, over images (2d) and over sequences (1d)."""

from collections.abc import Sequence
from math import prod
from typing import Any

from cnn_cli.layers.base import LayerType, Saved, Setting, Settings, Shape, grid, register, sizes
from cnn_cli.layers.convolution import window_axes, window_formulas, window_taps, windows
from cnn_cli.layers.formulas import Term, adaptive_end, adaptive_start
from cnn_cli.layers.taps import adaptive, behind_channels
from cnn_cli.values import Flag, Integer, ListOf, Number, OneOf, Sizes, maybe


def _output(s: Settings, shape: Shape) -> Shape:
    return (shape[0], *windows(s, grid(shape, len(s["kernel_size"]))))


def _check(s: Settings) -> None:
    """Padding is at most half of kernel_size, regardless of the dilation, as in PyTorch."""
    for k, _, p, _ in window_axes(s):
        if p > k // 2:
            raise ValueError(f"padding {p} is more than half of kernel_size {k}; write at most {k // 2}")


def _explain(statistic: str) -> Any:
    def explain(s: Settings, i: Shape, o: Shape) -> str:
        stride = "" if s["stride"] else " The stride defaults to kernel_size."
        return f"{statistic} of each {sizes(s['kernel_size'])} window, channel by channel.{stride}"

    return explain


def _adaptive(s: Settings, shape: Shape) -> Shape:
    sides = grid(shape, len(s["output_size"]))[1:]
    return (shape[0], *(n if o is None else o for n, o in zip(sides, s["output_size"], strict=True)))


def _adaptive_sizes(s: Settings, i: Shape, o: Shape) -> Sequence[str]:
    """The output size, and which inputs an output covers, unless it covers all of them."""
    lines = [f"the output size is {sizes(o[1:])} for any input"]
    for n, m in dict.fromkeys(zip(i[1:], o[1:], strict=True)):
        if 1 < m < n:
            start, end = (rule(Term("i"), n, m).text for rule in (adaptive_start, adaptive_end))
            covers = {len(taps) for taps in adaptive(n, m).phases}
            count = f"{min(covers)} to {max(covers)}" if len(covers) > 1 else f"{min(covers)}"
            lines.append(f"output i covers inputs {start} to {end} − 1: {count} of {n}")
    return lines


def _register(axes: int) -> None:
    """Register the pooling layers of a number of axes."""
    positive, zeros, ones = Sizes(Integer(1), axes), (0,) * axes, (1,) * axes
    window = {"kernel_size": Setting(positive), "stride": Setting(maybe(positive), None)}
    padding = {"padding": Setting(Sizes(Integer(0), axes), zeros)}
    dilation, ceil = {"dilation": Setting(positive, ones)}, {"ceil_mode": Setting(Flag(), False)}
    divisor = {"divisor_override": Setting(maybe(Integer(1)), None)} if axes == 2 else {}  # AvgPool1d has none
    count = {"count_include_pad": Setting(Flag(), True), **divisor}
    kept = ListOf(maybe(Integer(1)), 2, 2)  # null keeps a side as it is
    size = {"output_size": Setting(OneOf((Sizes(Integer(1)), kept)) if axes == 2 else Sizes(Integer(1), 1))}

    def pool(name: str, statistic: str, settings: dict[str, Setting], **more: Any) -> None:
        rules: dict[str, Any] = {
            "output": _output,
            "explain": _explain(statistic),
            "sizes": lambda s, i, o: window_formulas(s, i),
            "taps": lambda s, i, o: behind_channels(window_taps(s)),
            "check": _check,
            "traits": frozenset({"pooling"}),
        }
        register(LayerType(f"{name}{axes}d", "torch.nn", settings, **rules | more))

    adaptive_rules: dict[str, Any] = {
        "output": _adaptive,
        "sizes": _adaptive_sizes,
        "taps": lambda s, i, o: behind_channels([adaptive(n, m) for n, m in zip(i[1:], o[1:], strict=True)]),
        "check": lambda s: None,
    }
    indices = Saved(indices=True)
    pool("MaxPool", "The maximum", {**window, **padding, **dilation, **ceil}, saved=indices)
    means = frozenset({"pooling", "linear"})
    pool("AvgPool", "The mean", {**window, **padding, **ceil, **count}, traits=means)
    pool("AdaptiveAvgPool", "", size, **adaptive_rules, explain=_ADAPTIVE.format("Means"), traits=means)
    pool("AdaptiveMaxPool", "", size, **adaptive_rules, explain=_ADAPTIVE.format("Maxima"), saved=indices)
    if axes == 2:
        power = {"norm_type": Setting(Number(0, above=True))}
        saved = Saved(values=lambda s, i, o: prod(i) + 4 * prod(o))
        pool("LPPool", "The p-norm (p = norm_type)", {**power, **window, **ceil}, saved=saved)


_ADAPTIVE = "{} over windows chosen so that the output has the requested size, channel by channel."
_register(axes=2)
_register(axes=1)
