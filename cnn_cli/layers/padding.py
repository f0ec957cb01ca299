"""Padding: values set around the input, over images (2d) and over sequences (1d)."""

from collections.abc import Callable
from typing import Any

from cnn_cli.layers.base import NOTHING, LayerType, Saved, Setting, Settings, Shape, TooSmall, grid, register
from cnn_cli.layers.formulas import Formula, by_axis
from cnn_cli.layers.taps import behind_channels, sliding
from cnn_cli.values import Integer, Number, Sizes


def _pairs(s: Settings) -> list[tuple[int, int]]:
    """(before, after) for each axis, height first; PyTorch writes the last axis first: left, right, top, bottom."""
    flat = s["padding"]
    return [(flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2)]


def _formulas(s: Settings, i: Shape, o: Shape = ()) -> list[Formula]:
    return by_axis(lambda a, n, b: a + n + b, "anb", [a for a, _ in _pairs(s)], i[1:], [b for _, b in _pairs(s)])


def _output(most: int | None) -> Callable[[Settings, Shape], Shape]:
    """The rule of a padding layer that copies at most `size + most` values from inside, or makes up any (None)."""

    def output(s: Settings, shape: Shape) -> Shape:
        pairs = _pairs(s)
        for size, pair in zip(grid(shape, len(pairs))[1:], pairs, strict=True):
            if most is not None and max(pair) > size + most:
                need = f"padding {max(pair)} needs sides of at least {max(pair) - most} to copy from"
                raise TooSmall(need, "write a smaller padding or a larger input")
        return (shape[0], *(formula.value for formula in _formulas(s, shape)))

    return output


def _register(
    name: str, border: str, text: str, most: int | None = None, saved: Saved = NOTHING, constant: bool = False
) -> None:
    value = {"value": Setting(Number())} if constant else {}
    for axes in (2, 1):
        rules: dict[str, Any] = {
            "output": _output(most),
            "explain": f"Pads the input with {text}: before + n + after.",
            "sizes": _formulas,
            "taps": lambda s, i, o: behind_channels([sliding(1, 1, before, 1, border) for before, _ in _pairs(s)]),
            "saved": saved,
        }
        settings = {"padding": Setting(Sizes(Integer(0), 2 * axes)), **value}
        register(LayerType(f"{name}Pad{axes}d", "torch.nn", settings, **rules))


_register("Zero", "zeros", "zeros")
_register("Reflection", "reflect", "its mirror image", most=-1, saved=Saved())
_register("Replication", "replicate", "copies of its border", saved=Saved())
_register("Circular", "circular", "values of the opposite side", most=0)
_register("Constant", "zeros", "the value {value}", constant=True)
