"""Operations on several inputs, and the bare tensors that they may take."""

from math import prod
from typing import Any

from cnn_cli.layers.base import (
    JOINS,
    MASK,
    NOTHING,
    LayerType,
    Saved,
    Setting,
    Settings,
    Shape,
    ShapeError,
    Tensor,
    Uneven,
    register,
    sizes,
)
from cnn_cli.layers.formulas import Formula
from cnn_cli.values import Choice, Integer, ListOf, Number, OneOf


def _common(s: Settings, shapes: tuple[Shape, ...]) -> Shape:
    """The broadcast shape, as in PyTorch; images have one rank, parameters no more axes."""
    images = [shape for shape, bare in zip(shapes, s["bare"], strict=True) if not bare]
    if not images:
        raise ShapeError("needs the output of at least one layer", "add one, or write a single Parameter")
    rank = max(len(shape) for shape in images)
    if any(len(shape) != rank for shape in images) or any(len(shape) > rank for shape in shapes):
        raise ShapeError("needs shapes with the same number of axes", mend(shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    out = tuple(max(axis) for axis in zip(*padded, strict=True))
    if any(n not in (1, m) for shape in padded for n, m in zip(shape, out, strict=True)):
        fix = "write a shape with equal sizes, or 1" if any(s["bare"]) else mend(shapes)
        raise Uneven("needs equal shapes, or sizes of 1 to broadcast", fix)
    return out


def _broadcast(s: Settings, shapes: tuple[Shape, ...], o: Shape) -> list[str]:
    return [f"{sizes(shape)} is broadcast to {sizes(o)}" for shape in dict.fromkeys(shapes) if shape != o]


def mend(shapes: tuple[Shape, ...]) -> str:
    """What to write if the shapes of a shortcut and its main path differ."""
    first, second = shapes[0], next((shape for shape in shapes if shape != shapes[0]), shapes[0])
    if len(first) != len(second):
        few, many = sorted((first, second), key=len)
        if few != many[:1]:
            return "put the join before Flatten, or flatten both"
        unflatten = f"{{Unflatten: {{dim: 1, unflattened_size: {[*few, *(1 for _ in many[1:])]}}}}}"
        return f"add {unflatten} after {sizes(few)}, so that it broadcasts"
    if len(first) == 1:
        return f"add a Linear with out_features {max(first[0], second[0])} to the smaller branch"
    if all(n == m or 1 in (n, m) for n, m in zip(first[1:], second[1:], strict=True)):
        conv = f"{{Conv2d: {{out_channels: {max(first[0], second[0])}, kernel_size: 1}}}}"
        return f"add {conv} to the branch with fewer channels"
    large, small = sorted((first, second), key=lambda shape: prod(shape[1:]), reverse=True)
    stride = -(-large[1] // small[1])
    if 1 < stride <= 8 and all(-(-n // stride) == m for n, m in zip(large[1:], small[1:], strict=True)):
        conv = f"{{Conv2d: {{out_channels: {small[0]}, kernel_size: 1, stride: {stride}}}}}"
        return f"add {conv} to the branch of {sizes(large)}"
    channels = "" if first[0] == second[0] else ", and add a Conv2d with kernel_size 1 for equal channels"
    return _sides(large, small) + channels


def _sides(large: Shape, small: Shape) -> str:
    """How to make height and width of two branches equal."""
    missing = {n - m for n, m in zip(large[1:], small[1:], strict=True)}
    if len(missing) == 1 and 0 < min(missing) <= 16 and min(missing) % 2 == 0:
        return f"increase the padding in the branch of {sizes(small)} by {min(missing) // 2}"
    return "choose paddings and strides that give equal height and width"


def _stacked(s: Settings, shapes: tuple[Shape, ...]) -> Formula:
    """The channels of a Concat."""
    if any(s["bare"]):
        raise ShapeError("concatenates outputs of layers, not parameters", "use Add or Multiply")
    if len({shape[1:] for shape in shapes}) > 1:
        other = next(shape for shape in shapes if shape[1:] != shapes[0][1:])
        if len(other) != len(shapes[0]):
            raise ShapeError("needs inputs of equal height and width", mend(shapes))
        small, large = sorted((shapes[0], other), key=lambda shape: prod(shape[1:]))
        raise Uneven("needs inputs of equal height and width", _sides(large, small))
    channels = {f"c{n}": shape[0] for n, shape in enumerate(shapes, start=1)}
    return Formula(lambda *c: sum(c[1:], c[0]), channels, "channels")


_MODULES, _SEVERAL = "cnn_cli.network.modules", frozenset({"join"})


def _operands(s: Settings, shapes: tuple[Shape, ...]) -> list[str]:
    """The operands as in a formula: a, b, … for the inputs, and the number among them."""
    letters = iter("abcdefgh")
    return [next(letters, "…") if n is None else str(n) for n in s["numbers"] or (None,) * len(shapes)]


def _kept(operands: int) -> Saved:
    """What an operation saves that combines two operands at a time: the inputs, and the intermediate results."""
    between = max(operands - 2, 0)
    return Saved(values=lambda s, i, o: between * prod(o))


def _multiplied(s: Settings) -> Saved:
    inputs = len(s["bare"])
    return _kept(inputs) if inputs > 1 else NOTHING


def _divided(s: Settings) -> Saved:
    if len(s["bare"]) > 1:
        return _multiplied(s)
    return MASK if s["numbers"][0] is not None else NOTHING  # 1/x keeps its result


def _compared(s: Settings) -> Saved:
    return _kept(len(s["numbers"] or s["bare"]))


def _not_by_zero(s: Settings) -> None:
    if 0 in s["numbers"][1:]:
        raise ValueError("divides by 0; write another number")


def _arithmetic(name: str, text: str, symbol: str, *, numbers: bool = True, **rules: Any) -> None:
    """A join that computes value by value; one of the operands may be a number where `numbers` is set."""

    def explain(s: Settings, shapes: tuple[Shape, ...], o: Shape) -> str:
        operands = _operands(s, shapes)
        if s["numbers"]:
            formula = f"{symbol}({', '.join(operands)})" if symbol.isalpha() else symbol.join(operands)
            return f"{text.format('its operands')}, value by value: {formula}."
        return f"{text.format('its inputs')}, value by value."

    traits = _SEVERAL | ({"takes a number"} if numbers else set())
    rules = {"saved": NOTHING} | rules
    register(LayerType(name, _MODULES, {}, _common, explain, sizes=_broadcast, traits=traits, **rules), JOINS)


_arithmetic("Add", "The sum of {}", " + ")
_arithmetic("Subtract", "The first of {} minus the others", " − ")
_arithmetic("Multiply", "The product of {}", " · ", saved=_multiplied)
_arithmetic("Divide", "The first of {} divided by the others", " / ", saved=_divided, check=_not_by_zero)
_arithmetic("Maximum", "The largest of {}", "max", saved=_compared)
_arithmetic("Minimum", "The smallest of {}", "min", saved=_compared)
_arithmetic("Mean", "The mean of {}", "mean", numbers=False)
register(
    LayerType(
        "Concat",
        _MODULES,
        {},
        lambda s, shapes: (_stacked(s, shapes).value, *shapes[0][1:]),
        "Concatenates its inputs along the channels.",
        sizes=lambda s, i, o: [_stacked(s, i)],
        saved=NOTHING,
        traits=_SEVERAL,
    ),
    JOINS,
)
register(
    LayerType(
        "Parameter",
        "torch.nn",
        {
            "shape": Setting(ListOf(Integer(1))),
            "init": Setting(OneOf((Number(), Choice(("zeros", "ones", "normal")))), "zeros"),
        },
        lambda s, shape: tuple(s["shape"]),
        "A learned tensor, the same for every image.",
        tensors=lambda s: (Tensor("", s["shape"]),),
        saved=NOTHING,
    ),
    JOINS,
)
