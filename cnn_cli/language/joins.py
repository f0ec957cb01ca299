"""The language's own layers beside the table: several inputs, several outputs, or a bare tensor."""

from typing import Any

from cnn_cli.layers.base import LayerType, Setting, Settings, Shape, ShapeError, Tensor, Uneven, sizes
from cnn_cli.values import Choice, Integer, ListOf, Number, OneOf, product


def _common(s: Settings, shapes: tuple[Shape, ...]) -> Shape:
    """Shapes in which a 1 stretches, as in PyTorch's broadcasting; images have one rank, parameters no more axes."""
    images = [shape for shape, bare in zip(shapes, s["bare"], strict=True) if not bare]
    if not images:
        raise ShapeError("joins parameters with the output of a layer", "name one, or write one Parameter")
    rank = max(len(shape) for shape in images)
    if any(len(shape) != rank for shape in images) or any(len(shape) > rank for shape in shapes):
        raise ShapeError("joins shapes with as many axes", "put the join before Flatten, or flatten both")
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    out = tuple(max(axis) for axis in zip(*padded, strict=True))
    if any(n not in (1, m) for shape in padded for n, m in zip(shape, out, strict=True)):
        fix = "give the parameter these sizes, or 1" if any(s["bare"]) else mend(shapes)
        raise Uneven("joins sizes that are equal, or 1", fix)
    return out


def _add(s: Settings, shapes: tuple[Shape, ...]) -> Shape:
    images = {shape for shape, bare in zip(shapes, s["bare"], strict=True) if not bare}
    if len(images) > 1:
        raise Uneven("adds equal shapes", mend(shapes))
    return _common(s, shapes)


def mend(shapes: tuple[Shape, ...]) -> str:
    """What to write when a shortcut and its main path differ."""
    first, second = shapes[0], next((shape for shape in shapes if shape != shapes[0]), shapes[0])
    if len(first) != len(second):
        return "put the join before Flatten, or flatten both"
    if len(first) == 1:
        return f"a Linear on one way gives it the {max(first[0], second[0])} values of the other"
    if first[1:] == second[1:]:
        return f"a Conv2d of kernel_size 1 on one way gives it the {max(first[0], second[0])} channels of the other"
    large, small = sorted((first, second), key=lambda shape: product(shape[1:]), reverse=True)
    stride = -(-large[1] // small[1])
    if 1 < stride <= 8 and all(-(-n // stride) == m for n, m in zip(large[1:], small[1:], strict=True)):
        conv = f"{{Conv2d: {{out_channels: {small[0]}, kernel_size: 1, stride: {stride}}}}}"
        return f"{conv} on the way of {sizes(large)} makes them equal"
    channels = "" if first[0] == second[0] else ", and a Conv2d of kernel_size 1 on one of them equal channels"
    return _sides(large, small) + channels


def _sides(large: Shape, small: Shape) -> str:
    """What gives two ways equal height and width."""
    missing = {n - m for n, m in zip(large[1:], small[1:], strict=True)}
    if len(missing) == 1 and 0 < min(missing) <= 16 and min(missing) % 2 == 0:
        return f"a padding larger by {min(missing) // 2} on the way of {sizes(small)} gives equal sides"
    return "paddings and strides on the ways must give equal height and width"


def _concat(s: Settings, shapes: tuple[Shape, ...]) -> Shape:
    if any(s["bare"]):
        raise ShapeError("stacks outputs of layers, not parameters", "use Add or Multiply")
    if len({shape[1:] for shape in shapes}) > 1:
        other = next(shape for shape in shapes if shape[1:] != shapes[0][1:])
        if len(other) != len(shapes[0]):
            raise ShapeError("stacks channels of equal height and width", mend(shapes))
        small, large = sorted((shapes[0], other), key=lambda shape: product(shape[1:]))
        raise Uneven("stacks channels of equal height and width", _sides(large, small))
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _chunk(s: Settings, shape: Shape) -> Shape:
    if shape[0] % s["chunks"]:
        need = f"the channels must be a multiple of {s['chunks']}"
        raise ShapeError(need, f"write a number that divides {shape[0]}")
    return (shape[0] // s["chunks"], *shape[1:])


def _add_words(s: Settings, i: Any, o: Shape) -> list[str]:
    return ["value by value"]


JOIN_TYPES = {
    "Add": LayerType("Add", "", {}, output=_add, words=_add_words, joins=True),  # type: ignore[arg-type]
    "Multiply": LayerType("Multiply", "", {}, output=_common, words=_add_words, joins=True),  # type: ignore[arg-type]
    "Concat": LayerType("Concat", "", {}, output=_concat, joins=True),  # type: ignore[arg-type]
    "Chunk": LayerType("Chunk", "", {"chunks": Setting(Integer(1, 1024))}, output=_chunk),
    "Parameter": LayerType(
        "Parameter",
        "",
        {
            "shape": Setting(ListOf(Integer(1))),
            "init": Setting(OneOf((Number(), Choice(("zeros", "ones", "normal")))), "zeros"),
        },
        output=lambda s, shape: tuple(s["shape"]),
        tensors=lambda s: (Tensor("", s["shape"]),),
        count=lambda s: f"{'·'.join(str(n) for n in s['shape'])} = {product(s['shape']):,}",
    ),
}
