"""Convolutions and transposed convolutions, over images (2d) and over sequences (1d).

Every rule here counts axes by the settings, which hold one value for each axis that the window moves along.
"""

from collections.abc import Sequence
from typing import Any

from cnn_cli.layers.base import LayerType, Setting, Settings, Shape, ShapeError, Tensor, TooSmall, grid, register, sizes
from cnn_cli.layers.formulas import transposed, transposed_words, window, window_words
from cnn_cli.values import Choice, Flag, Integer, OneOf, Sizes, product


def _groups(s: Settings) -> None:
    if s["out_channels"] % s["groups"]:
        raise ValueError(f"out_channels {s['out_channels']} must be a multiple of groups {s['groups']}")
    if s["padding"] == "same" and set(s["stride"]) != {1}:
        raise ValueError("padding: same needs stride 1; write the padding as a number")


def _axes(s: Settings) -> list[tuple[int, int, int, int]]:
    """(kernel, stride, padding, dilation) for each axis; `same` is handled apart."""
    padding = (0,) * len(s["kernel_size"]) if isinstance(s["padding"], str) else s["padding"]
    return list(zip(s["kernel_size"], s["stride"], padding, s["dilation"], strict=True))


def _in_groups(s: Settings, shape: Shape) -> None:
    if shape[0] % s["groups"]:
        raise ShapeError(f"groups {s['groups']} must divide the channels", f"write a number that divides {shape[0]}")


def _conv(s: Settings, shape: Shape) -> Shape:
    _in_groups(s, shape)
    _padding_mode(s, shape)
    if s["padding"] == "same":
        return (s["out_channels"], *shape[1:])
    return (s["out_channels"], *windows(_axes(s), shape))


def windows(axes: Sequence[tuple[Any, ...]], shape: Shape) -> Shape:
    """Positions of a window along each axis behind the channels; TooSmall says what must arrive for it to fit."""
    out = tuple(window(i, *a) for i, a in zip(shape[1:], axes, strict=True))
    if min(out) < 1:
        spans = [d * (k - 1) + 1 for k, _, _, d, *_ in axes]
        need = [max(1, span - 2 * p) for span, (_, _, p, *_) in zip(spans, axes, strict=True)]
        window_ = f"a {sizes(tuple(spans))} window needs at least {sizes(tuple(need))}"
        raise TooSmall(window_, "write a smaller kernel_size, a padding, or a larger input")
    return out


def _padding_mode(s: Settings, shape: Shape) -> None:
    """Reflection needs one value more than it pads, wrapping around as many."""
    mode = s["padding_mode"]
    pads = [d * (k - 1) - d * (k - 1) // 2 if s["padding"] == "same" else p for k, _, p, d in _axes(s)]
    for size, pad in zip(shape[1:], pads, strict=True):
        if (mode == "reflect" and pad >= size) or (mode == "circular" and pad > size):
            need = f"padding {pad} with padding_mode {mode} needs sides of at least {pad + (mode == 'reflect')}"
            raise TooSmall(need, "write a smaller padding or a larger input")


def _conv_tensors(s: Settings) -> tuple[Tensor, ...]:
    weight = Tensor("weight", (s["out_channels"], s["in_channels"] // s["groups"], *s["kernel_size"]))
    return (weight, Tensor("bias", (s["out_channels"],))) if s["bias"] else (weight,)


def _conv_macs(s: Settings, i: Shape, o: Shape) -> int:
    return product(o) * product(s["kernel_size"]) * int(s["in_channels"] // s["groups"])


def _conv_words(s: Settings, i: Shape, o: Shape) -> list[str]:
    if s["padding"] == "same":
        return [f"padding: same keeps {sizes(i[1:])}"]
    return by_axis([window_words(n, *a) for n, a in zip(i[1:], _axes(s), strict=True)])


def by_axis(words: list[str]) -> list[str]:
    """One line where all axes are computed alike, else one for height and one for width."""
    return words[:1] if len(set(words)) == 1 else [f"height {words[0]}", f"width {words[1]}"]


def _conv_count(s: Settings) -> str:
    kernel = "·".join(str(k) for k in s["kernel_size"])
    inside = f"{kernel}·{s['in_channels']}" + (f"/{s['groups']}" if s["groups"] > 1 else "")
    total = sum(product(t.shape) for t in _conv_tensors(s))
    return (
        f"({inside} + 1)·{s['out_channels']} = {total:,}" if s["bias"] else f"{inside}·{s['out_channels']} = {total:,}"
    )


def _conv_transposed(s: Settings, shape: Shape) -> Shape:
    _in_groups(s, shape)
    axes = zip(shape[1:], _axes(s), s["output_padding"], strict=True)
    out = tuple(transposed(i, *a, extra) for i, a, extra in axes)
    if min(out) < 1:
        pads = sizes(tuple(p for _, _, p, _ in _axes(s)))
        raise TooSmall(f"padding {pads} takes everything away", "write a smaller padding or a larger input")
    return (s["out_channels"], *out)


def _extra_fits(s: Settings) -> None:
    _groups(s)
    for extra, stride, dilation in zip(s["output_padding"], s["stride"], s["dilation"], strict=True):
        if extra >= max(stride, dilation):
            raise ValueError(f"output_padding {extra} must be smaller than stride {stride} or dilation {dilation}")


def _transposed_tensors(s: Settings) -> tuple[Tensor, ...]:
    weight = Tensor("weight", (s["in_channels"], s["out_channels"] // s["groups"], *s["kernel_size"]))
    return (weight, Tensor("bias", (s["out_channels"],))) if s["bias"] else (weight,)


def _transposed_macs(s: Settings, i: Shape, o: Shape) -> int:
    return product(i) * product(s["kernel_size"]) * int(s["out_channels"] // s["groups"])


def _transposed_words(s: Settings, i: Shape, o: Shape) -> list[str]:
    axes = zip(i[1:], _axes(s), s["output_padding"], strict=True)
    return by_axis([transposed_words(n, *a, extra) for n, a, extra in axes])


def _register(axes: int) -> None:
    """Conv1d and ConvTranspose1d, or Conv2d and ConvTranspose2d."""
    positive, zeros, ones = Sizes(Integer(1), axes), (0,) * axes, (1,) * axes
    head = {
        "in_channels": Setting(Integer(1), inferred=True),
        "out_channels": Setting(Integer(1)),
        "kernel_size": Setting(positive),
        "stride": Setting(positive, ones),
    }
    dilation, groups, bias = Setting(positive, ones), Setting(Integer(1), 1), Setting(Flag(), True)
    paddings = Sizes(Integer(0), axes)
    shared: dict[str, Any] = {
        "infer": lambda shape: {"in_channels": grid(shape, axes)[0]},
        "traits": frozenset({"convolution"}),
    }
    register(
        LayerType(
            f"Conv{axes}d",
            "torch.nn",
            {
                **head,
                "padding": Setting(OneOf((paddings, Choice(("same", "valid")))), zeros),
                **{"dilation": dilation, "groups": groups, "bias": bias},
                "padding_mode": Setting(Choice(("zeros", "reflect", "replicate", "circular")), "zeros"),
            },
            output=_conv,
            tensors=_conv_tensors,
            macs=_conv_macs,
            check=_groups,
            words=_conv_words,
            count=_conv_count,
            **shared,
        )
    )
    register(
        LayerType(
            f"ConvTranspose{axes}d",
            "torch.nn",
            {
                **head,
                "padding": Setting(paddings, zeros),
                "output_padding": Setting(paddings, zeros),
                **{"groups": groups, "bias": bias, "dilation": dilation},
                "padding_mode": Setting(Choice(("zeros",)), "zeros"),
            },
            output=_conv_transposed,
            tensors=_transposed_tensors,
            macs=_transposed_macs,
            check=_extra_fits,
            words=_transposed_words,
            count=_conv_count,
            **shared,
        )
    )


_register(axes=2)
_register(axes=1)
