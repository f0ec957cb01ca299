"""The scales of a detector: maps of scores and of boxes, whose cells lie evenly on the image."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from cnn_cli.language.context import Context, Output
from cnn_cli.language.plan import Plan
from cnn_cli.language.spec import DETECTOR, scales
from cnn_cli.layers import Shape, sizes


@dataclass(frozen=True)
class Scale:
    """The outputs `scores`, K×h×w, and `boxes`, 4×h×w: a cell of these h×w for every `stride` pixels."""

    scores: str
    boxes: str
    classes: int
    size: tuple[int, int]
    stride: int


def infer_scales(plan: Plan) -> tuple[Scale, ...]:
    """The scales of a detector without mistakes, in the order of the spec; none where the network is not a detector."""
    found = []
    for scores, boxes in plan.detects:
        classes, height, width = plan.shapes[scores]
        step = stride(plan.input, (height, width))
        assert step, "a detector whose cells do not lie evenly on the image is a mistake"
        found.append(Scale(scores, boxes, classes, (height, width), step))
    return tuple(found)


def stride(image: Shape, size: tuple[int, int]) -> int:
    """The pixels from one of h×w cells to the next; 0 where the cells do not lie evenly on the image.

    A padded convolution has a last cell that lies partly outside, an unpadded one leaves out a rest. Where several
    numbers fit, it is a power of two, else one that divides the image.
    """
    sides = list(zip(image[1:], size, strict=True))
    fitting = [
        step
        for step in range(1, max(image[1:]) + 1)
        if all(count in (ceil(side / step), side // step) for side, count in sides)
    ]
    return min(fitting, key=lambda step: (step & (step - 1) > 0, image[1] % step > 0, step), default=0)


def check_scales(context: Context, outputs: Mapping[str, Output]) -> None:
    """Note the mistakes of a detector's outputs: their shapes, and cells that do not lie on the image."""
    pairs = scales(context.spec.node.value["detects"])
    classes: tuple[str, int] | None = None
    for pair, names in zip(pairs, context.spec.detects, strict=True):
        shapes = [outputs[name].shape for name in names]
        messages = [
            _mistake(context, name, shape, key) for name, shape, key in zip(names, shapes, DETECTOR, strict=True)
        ]
        for key, message in zip(DETECTOR, messages, strict=True):
            if message:
                context.problem(pair.value[key], "detects", message)
        scores, boxes = shapes
        if any(messages) or scores is None or boxes is None:
            continue
        if scores[1:] != boxes[1:]:
            both = f"{names[0]!r} is {sizes(scores)} and {names[1]!r} is {sizes(boxes)}"
            context.problem(pair, "detects", f"scores and boxes need the same height and width, but {both}")
        classes = classes or (names[0], scores[0])
        if scores[0] != classes[1]:
            both = f"{classes[0]!r} has {classes[1]} channels and {names[0]!r} {scores[0]}"
            context.problem(pair.value["scores"], "detects", f"all scales need the same classes, but {both}")


def _mistake(context: Context, name: str, shape: Shape | None, key: str) -> str:
    """What is wrong with an output of a detector; empty where nothing is, or nothing is known of it."""
    if shape is None:
        return ""
    if len(shape) != 3:
        form = "scores for each class and cell, KxHxW" if key == "scores" else "4 distances for each cell, 4xHxW"
        return f"{name!r} is {sizes(shape)}, but {key} are {form}; let it be the output of a Conv2d"
    if key == "boxes" and shape[0] != 4:
        form = "distances to the left, upper, right and lower edge"
        return f"{name!r} has {shape[0]} channels, but boxes have 4, {form}; write out_channels: 4"
    image = context.root.input
    if len(image) != 3:
        return f"a detector takes images, but the input is {sizes(image)}; write [channels, height, width]"
    if not stride(image, (shape[1], shape[2])):
        fix = "the stride must be the same whole number in both directions; pad the convolutions"
        return f"the {sizes(shape[1:])} cells of {name!r} do not lie evenly on {sizes(image[1:])} pixels: {fix}"
    return ""
