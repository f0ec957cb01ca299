"""Padding: values set around what arrives, over images (2d) and over sequences (1d)."""

from collections.abc import Callable
from typing import Any

from cnn_cli.layers.base import LayerType, Setting, Settings, Shape, TooSmall, grid, register
from cnn_cli.layers.convolution import by_axis
from cnn_cli.values import Integer, Number, Sizes


def _pairs(s: Settings) -> list[tuple[int, int]]:
    """(before, behind) for each axis, height first; PyTorch writes the last axis first: left, right, top, bottom."""
    flat = s["padding"]
    return [(flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2)]


def _pad(most: int | None) -> Callable[[Settings, Shape], Shape]:
    """The rule of a padding layer that copies at most `size + most` values from inside, or makes up any (None)."""

    def output(s: Settings, shape: Shape) -> Shape:
        pairs = _pairs(s)
        sides = grid(shape, len(pairs))[1:]
        for size, pair in zip(sides, pairs, strict=True):
            if most is not None and max(pair) > size + most:
                need = f"padding {max(pair)} needs sides of at least {max(pair) - most} to copy from"
                raise TooSmall(need, "write a smaller padding or a larger input")
        return (shape[0], *(n + before + behind for n, (before, behind) in zip(sides, pairs, strict=True)))

    return output


def _words(s: Settings, i: Shape, o: Shape) -> list[str]:
    rows = zip(i[1:], _pairs(s), o[1:], strict=True)
    return by_axis([f"{n} + {before} + {behind} = {m}" for n, (before, behind), m in rows])


def _register(axes: int) -> None:
    padding = Setting(Sizes(Integer(0), 2 * axes))
    value = Setting(Number())
    rows: list[tuple[str, dict[str, Setting], int | None]] = [
        ("ZeroPad", {"padding": padding}, None),
        ("ReflectionPad", {"padding": padding}, -1),
        ("ReplicationPad", {"padding": padding}, None),
        ("CircularPad", {"padding": padding}, 0),
        ("ConstantPad", {"padding": padding, "value": value}, None),
    ]
    for name, settings, most in rows:
        rules: dict[str, Any] = {"output": _pad(most), "words": _words}
        register(LayerType(f"{name}{axes}d", "torch.nn", settings, **rules))


_register(axes=2)
_register(axes=1)
