"""Convolutions and transposed convolutions, over images (2d) and over sequences (1d).

Every rule here counts axes by the settings, which hold one value for each axis that the window moves along.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from cnn_cli.layers.base import (
    LayerType,
    Saved,
    Setting,
    Settings,
    Shape,
    ShapeError,
    Tensor,
    TooSmall,
    grid,
    register,
    sizes,
)
from cnn_cli.layers.formulas import AXES, Formula, Line, by_axis, transposed_window, window_size
from cnn_cli.layers.taps import EVERYTHING, Reads, Taps, behind_channels, sliding, transposed
from cnn_cli.values import Choice, Flag, Integer, OneOf, Sizes


def window_axes(s: Settings) -> list[tuple[int, int, int, int]]:
    """(kernel, stride, padding before, dilation) of a convolution, pooling or Unfold along each axis.

    The stride of pooling defaults to the kernel; with padding `same`, PyTorch puts the smaller half before.
    """
    kernel = s["kernel_size"]
    dilation = s.get("dilation", (1,) * len(kernel))
    padding = s.get("padding", "valid")
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    elif padding == "valid":
        padding = (0,) * len(kernel)
    return list(zip(kernel, s["stride"] or kernel, padding, dilation, strict=True))


def window_formulas(s: Settings, shape: Shape) -> list[Formula]:
    """The number of positions of a window along each axis after the channels."""
    axes, ceil = window_axes(s), s.get("ceil_mode", False)
    labels = AXES[len(axes)]
    return [window_size(n, *a, ceil, label) for n, a, label in zip(shape[1:], axes, labels, strict=True)]


def windows(s: Settings, shape: Shape) -> Shape:
    """Positions of a window along each axis; TooSmall says which input it would need."""
    out = tuple(formula.value for formula in window_formulas(s, shape))
    if min(out) < 1:
        spans = [d * (k - 1) + 1 for k, _, _, d in window_axes(s)]
        need = [max(1, span - 2 * p) for span, (_, _, p, _) in zip(spans, window_axes(s), strict=True)]
        message = f"a {sizes(tuple(spans))} window needs at least {sizes(tuple(need))}"
        raise TooSmall(message, "write a smaller kernel_size, a padding, or a larger input")
    return out


def window_taps(s: Settings) -> list[Taps]:
    """Height and width (or length) of a convolution, pooling or Unfold."""
    return [sliding(*axis, s.get("padding_mode", "zeros")) for axis in window_axes(s)]


def _check(s: Settings) -> None:
    if s["out_channels"] % s["groups"]:
        raise ValueError(f"out_channels {s['out_channels']} must be a multiple of groups {s['groups']}")
    if s["padding"] == "same" and set(s["stride"]) != {1}:
        raise ValueError("padding: same needs stride 1; write the padding as a number")


def _in_groups(s: Settings, shape: Shape) -> None:
    if shape[0] % s["groups"]:
        raise ShapeError(f"groups {s['groups']} must divide the channels", f"write a number that divides {shape[0]}")


def _output(s: Settings, shape: Shape) -> Shape:
    _in_groups(s, shape)
    _check_padding_mode(s, shape)
    return (s["out_channels"], *(shape[1:] if s["padding"] == "same" else windows(s, shape)))


def _check_padding_mode(s: Settings, shape: Shape) -> None:
    """Reflection needs at least one value more than it pads, circular padding as many as it pads."""
    mode = s["padding_mode"]
    for size, (k, _, p, d) in zip(shape[1:], window_axes(s), strict=True):
        pad = d * (k - 1) - p if s["padding"] == "same" else p
        if (mode == "reflect" and pad >= size) or (mode == "circular" and pad > size):
            need = f"padding {pad} with padding_mode {mode} needs sides of at least {pad + (mode == 'reflect')}"
            raise TooSmall(need, "write a smaller padding or a larger input")


def _explain(s: Settings, i: Shape, o: Shape) -> str:
    kernel, groups, per_group = sizes(s["kernel_size"]), s["groups"], i[0] // s["groups"]
    if per_group == 1 and groups > 1:
        text = f"Depthwise convolution: a {kernel} window over each of the {i[0]} channels on its own"
    else:
        channels = f"the {i[0]} channels" if i[0] > 1 else "the one channel"
        channels = channels if groups == 1 else f"{per_group} of {channels}, in {groups} groups"
        outputs = f"Each of the {o[0]} output channels" if o[0] > 1 else "The one output channel"
        text = f"{outputs} is a weighted sum over a {kernel} window of {channels}"
    text += (", plus a bias" if s["bias"] else "") + (
        f", at each of {sizes(o[1:])} positions." if prod(o[1:]) > 1 else "."
    )
    if max(s["dilation"]) > 1:
        spans = sizes(tuple(d * (k - 1) + 1 for k, d in zip(s["kernel_size"], s["dilation"], strict=True)))
        text += f" With dilation {sizes(s['dilation'])}, the window spans {spans}."
    return text


def _sizes(s: Settings, i: Shape, o: Shape) -> Sequence[Line]:
    return [f"padding: same keeps {sizes(i[1:])}"] if s["padding"] == "same" else window_formulas(s, i)


def _schemes(s: Settings, shape: Shape) -> str:
    """The output sizes with the padding schemes valid, same and full."""
    if max(s["kernel_size"]) == 1:
        return ""
    schemes = []
    for name, share in (("valid", 0.0), ("same", 0.5), ("full", 1.0)):
        spans = [d * (k - 1) for k, d in zip(s["kernel_size"], s["dilation"], strict=True)]
        padded = (0, *(n + round(2 * share * span) for n, span in zip(shape[1:], spans, strict=True)))
        out = tuple(formula.value for formula in window_formulas({**s, "padding": "valid"}, padded))
        around = "x".join(f"{share * span:g}" for span in dict.fromkeys(spans))
        schemes.append(f"{name} ({around}) {sizes(out) if min(out) > 0 else 'does not fit'}")
    return f"other paddings would give: {', '.join(schemes)}"


def _tensors(s: Settings) -> tuple[Tensor, ...]:
    weight = Tensor("weight", (s["out_channels"], s["in_channels"] // s["groups"], *s["kernel_size"]))
    return (weight, Tensor("bias", (s["out_channels"],))) if s["bias"] else (weight,)


def _padded(s: Settings, i: Shape, o: Shape) -> int:
    """The values of the padded copy that PyTorch makes unless it pads with the same number of zeros on both sides."""
    spans: list[int] = [d * (k - 1) for k, d in zip(s["kernel_size"], s["dilation"], strict=True)]
    same = s["padding"] == "same"
    if s["padding_mode"] == "zeros":  # equal padding on both sides is left to the convolution itself
        around = [span % 2 if same else 0 for span in spans]
        return i[0] * prod([n + extra for n, extra in zip(i[1:], around, strict=True)]) if any(around) else 0
    around = spans if same else [2 * p for _, _, p, _ in window_axes(s)]
    return i[0] * prod([n + extra for n, extra in zip(i[1:], around, strict=True)])


def _transposed_formulas(s: Settings, i: Shape, o: Shape = ()) -> list[Formula]:
    columns = (s[name] for name in ("kernel_size", "stride", "padding", "dilation", "output_padding"))
    return by_axis(transposed_window, "nkspde", i[1:], *columns)


def _transposed_output(s: Settings, shape: Shape) -> Shape:
    _in_groups(s, shape)
    out = tuple(formula.value for formula in _transposed_formulas(s, shape))
    if min(out) < 1:
        need = f"padding {sizes(s['padding'])} removes everything"
        raise TooSmall(need, "write a smaller padding or a larger input")
    return (s["out_channels"], *out)


def _check_output_padding(s: Settings) -> None:
    _check(s)
    for extra, stride, dilation in zip(s["output_padding"], s["stride"], s["dilation"], strict=True):
        if extra >= max(stride, dilation):
            raise ValueError(f"output_padding {extra} must be smaller than stride {stride} or dilation {dilation}")


def _transposed_tensors(s: Settings) -> tuple[Tensor, ...]:
    weight = Tensor("weight", (s["in_channels"], s["out_channels"] // s["groups"], *s["kernel_size"]))
    return (weight, Tensor("bias", (s["out_channels"],))) if s["bias"] else (weight,)


def _transposed_taps(s: Settings, i: Shape, o: Shape) -> Reads:
    return {0: EVERYTHING, **behind_channels([transposed(*axis) for axis in window_axes(s)])}


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
        "traits": frozenset({"convolution", "weighted sum"}),
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
            output=_output,
            explain=_explain,
            sizes=_sizes,
            schemes=_schemes,
            tensors=_tensors,
            applied=lambda i, o: o[1:],
            taps=lambda s, i, o: {0: EVERYTHING, **behind_channels(window_taps(s))},
            saved=Saved(values=_padded),
            check=_check,
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
            output=_transposed_output,
            explain="Transposed convolution: each input value times the kernel is added to the output, one stride "
            "further for each position. So the output is larger by the stride.",
            sizes=_transposed_formulas,
            tensors=_transposed_tensors,
            applied=lambda i, o: i[1:],
            taps=_transposed_taps,
            check=_check_output_padding,
            **shared,
        )
    )


_register(axes=2)
_register(axes=1)
