"""Pooling: windows without weights, over images (2d) and over sequences (1d)."""

from typing import Any

from cnn_cli.layers.base import LayerType, Setting, Settings, Shape, grid, register, sizes
from cnn_cli.layers.convolution import by_axis, windows
from cnn_cli.layers.formulas import window_words
from cnn_cli.values import Flag, Integer, ListOf, Number, OneOf, Sizes, maybe


def _axes(s: Settings) -> list[tuple[Any, ...]]:
    """(kernel, stride, padding, dilation, ceil) for each axis; the stride is the kernel unless written."""
    kernel = s["kernel_size"]
    zeros, ones = (0,) * len(kernel), (1,) * len(kernel)
    rows = zip(kernel, s["stride"] or kernel, s.get("padding", zeros), s.get("dilation", ones), strict=True)
    return [(*row, s["ceil_mode"]) for row in rows]


def _pool(s: Settings, shape: Shape) -> Shape:
    return (shape[0], *windows(_axes(s), grid(shape, len(s["kernel_size"]))))


def _half(s: Settings) -> None:
    """Padding is at most half of the window; PyTorch counts its taps, whatever the dilation."""
    for k, _, p, *_ in _axes(s):
        if p > k // 2:
            raise ValueError(f"padding {p} is more than half of kernel_size {k}; write at most {k // 2}")


def _words(s: Settings, i: Shape, o: Shape) -> list[str]:
    return by_axis([window_words(n, *a) for n, a in zip(i[1:], _axes(s), strict=True)])


def _adaptive(s: Settings, shape: Shape) -> Shape:
    sides = grid(shape, len(s["output_size"]))[1:]
    return (shape[0], *(i if o is None else o for i, o in zip(sides, s["output_size"], strict=True)))


def _adaptive_words(s: Settings, i: Shape, o: Shape) -> list[str]:
    covers = "x".join(f"{a / b:.3g}" for a, b in zip(i[1:], o[1:], strict=True))
    return [f"any size becomes {sizes(o[1:])}: each output covers about {covers} inputs"]


def _register(axes: int) -> None:
    """All that pools along so many axes."""
    positive, zeros, ones = Sizes(Integer(1), axes), (0,) * axes, (1,) * axes
    window = {"kernel_size": Setting(positive), "stride": Setting(maybe(positive), None)}
    padding, ceil = Setting(Sizes(Integer(0), axes), zeros), Setting(Flag(), False)
    divisor = {"divisor_override": Setting(maybe(Integer(1)), None)} if axes == 2 else {}  # AvgPool1d has none
    count = {"count_include_pad": Setting(Flag(), True), **divisor}
    kept = ListOf(maybe(Integer(1)), 2, 2)  # null keeps a side as it is
    size = {"output_size": Setting(OneOf((Sizes(Integer(1)), kept)) if axes == 2 else Sizes(Integer(1), 1))}
    windowed: dict[str, Any] = {"output": _pool, "words": _words, "traits": frozenset({"pooling"})}
    adaptive: dict[str, Any] = windowed | {"output": _adaptive, "words": _adaptive_words}
    rows: list[tuple[str, dict[str, Setting], dict[str, Any]]] = [
        (
            "MaxPool",
            {**window, "padding": padding, "dilation": Setting(positive, ones), "ceil_mode": ceil},
            {**windowed, "check": _half},
        ),
        ("AvgPool", {**window, "padding": padding, "ceil_mode": ceil, **count}, {**windowed, "check": _half}),
        ("AdaptiveAvgPool", size, adaptive),
        ("AdaptiveMaxPool", size, adaptive),
    ]
    if axes == 2:
        rows.append(("LPPool", {"norm_type": Setting(Number(0, above=True)), **window, "ceil_mode": ceil}, windowed))
    for name, settings, rules in rows:
        register(LayerType(f"{name}{axes}d", "torch.nn", settings, **rules))


_register(axes=2)
_register(axes=1)
