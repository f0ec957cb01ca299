"""Padding: values set around the input, over images (2d) and over sequences (1d)."""

from collections.abc import Callable
from typing import Any

from cnn_cli.layers.base import NOTHING, LayerType, Saved, Setting, Settings, Shape, TooSmall, grid, register
from cnn_cli.layers.formulas import Formula, by_axis
from cnn_cli.layers.taps import Reads, sliding
from cnn_cli.values import Integer, Kind, ListOf, Number, OneOf, Sizes


def _pairs(s: Settings, axes: int) -> list[tuple[int, int]]:
    """(before, after) of each axis, channels first; PyTorch writes the last axis first: left, right, top, …"""
    flat = (*s["padding"], 0, 0)[: 2 * axes + 2]
    return [(flat[i], flat[i + 1]) for i in range(2 * axes, -1, -2)]


def _formulas(s: Settings, i: Shape, o: Shape = ()) -> list[Formula]:
    pairs = _pairs(s, len(i) - 1)
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    formulas = by_axis(_sum, "anb", before[1:], i[1:], after[1:])
    return [Formula(_sum, {"a": before[0], "n": i[0], "b": after[0]}, "channels"), *formulas]


def _sum(a: Any, n: Any, b: Any) -> Any:
    return a + n + b


def _shown(s: Settings, i: Shape, o: Shape) -> list[Formula]:
    """The formulas, without that of the channels if their number does not change."""
    return _formulas(s, i)[i[0] == o[0] :]


def _output(axes: int, most: int | None) -> Callable[[Settings, Shape], Shape]:
    """The shape rule of padding that can copy at most `size + most` values; None: it pads with a constant."""

    def output(s: Settings, shape: Shape) -> Shape:
        for size, pair in zip(grid(shape, axes), _pairs(s, axes), strict=True):
            cut = min(*pair, 0) if most == 0 else 0  # values cropped on one side are not copied to the other
            if most is not None and max(pair) > max(size + most + cut, 0):
                need = f"padding {max(pair)} needs sides of at least {max(pair) - most - cut} to copy from"
                raise TooSmall(need, "write a smaller padding or a larger input")
        out = tuple(formula.value for formula in _formulas(s, shape))
        kept = [n + min(a, 0) + min(b, 0) for n, (a, b) in zip(shape, _pairs(s, axes), strict=True)]
        if min(*out, *kept) < 1:
            raise TooSmall("a negative padding removes everything", "write a smaller one, or a larger input")
        return out

    return output


def _taps(s: Settings, i: Shape, border: str) -> Reads:
    taps = {n: sliding(1, 1, before, 1, border) for n, (before, _) in enumerate(_pairs(s, len(i) - 1))}
    return {n: one for n, one in taps.items() if n or len(s["padding"]) > 2 * (len(i) - 1)}


def _register(
    name: str, border: str, text: str, most: int | None = None, saved: Saved = NOTHING, constant: bool = False
) -> None:
    value = {"value": Setting(Number())} if constant else {}
    for axes in (2, 1):
        rules: dict[str, Any] = {
            "output": _output(axes, most),
            "explain": f"Pads the input with {text}: before + n + after. A negative padding crops.",
            "sizes": _shown,
            "taps": lambda s, i, o: _taps(s, i, border),
            "saved": saved,
        }
        padding: Kind = Sizes(Integer(), 2 * axes)
        if border == "zeros":  # constants can be padded to the channels too
            padding = OneOf((padding, ListOf(Integer(), 2 * axes + 2, 2 * axes + 2)))
        register(LayerType(f"{name}Pad{axes}d", "torch.nn", {"padding": Setting(padding), **value}, **rules))


_register("Zero", "zeros", "zeros")
_register("Reflection", "reflect", "its mirror image", most=-1, saved=Saved())
_register("Replication", "replicate", "copies of its border", saved=Saved())
_register("Circular", "circular", "values of the opposite side", most=0)
_register("Constant", "zeros", "the value {value}", constant=True)
