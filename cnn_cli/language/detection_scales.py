"""The scales of a detector: maps of scores and of boxes, whose cells lie evenly on the image."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from cnn_cli.language.context import Context, Output
from cnn_cli.language.plan import Plan
from cnn_cli.language.spec import ScaleSpec, scales
from cnn_cli.layers import Shape, sizes


@dataclass(frozen=True)
class Scale:
    """The outputs `scores`, K×h×w, and `boxes`, 4×h×w: a cell of these h×w for every `stride` pixels.

    `centerness`: the output that scores how close a cell is to the center of its object, or empty. `corner`: if the
    origin of a cell is its upper left corner, the pixels between rows and between columns. `anchors`: half the width
    and height of the boxes around each origin that `boxes` are relative to; scores and boxes have channels for each.
    """

    scores: str
    boxes: str
    classes: int
    size: tuple[int, int]
    stride: int
    centerness: str = ""
    corner: tuple[int, int] | None = None
    anchors: tuple[tuple[float, float], ...] = ()

    @property
    def predictions(self) -> int:
        """The number of boxes of all cells."""
        return self.size[0] * self.size[1] * max(1, len(self.anchors))

    def origin(self, row: int, column: int) -> tuple[float, float]:
        """x, y in pixels of the point from which the boxes of a cell are measured."""
        if self.corner:
            return column * self.corner[1], row * self.corner[0]
        return (column + 0.5) * self.stride, (row + 0.5) * self.stride

    def document(self) -> dict[str, Any]:
        """Plain data, without what a scale lacks; anchors by their width and height."""
        facts = asdict(self) | {"anchors": [(2 * width, 2 * height) for width, height in self.anchors]}
        return {key: value for key, value in facts.items() if value}


def infer_scales(plan: Plan) -> tuple[Scale, ...]:
    """The scales of a detector without mistakes, in the order of the spec; none if the network is not a detector."""
    scales = []
    for spec in plan.detects:
        scores, boxes = spec.outputs["scores"], spec.outputs["boxes"]
        channels, height, width = plan.shapes[scores]
        step = stride(plan.input, (height, width))
        assert step, "a detector whose cells do not lie evenly on the image is a mistake"
        corner = (plan.input[1] // height, plan.input[2] // width) if spec.corner else None
        classes, centerness = channels // max(1, len(spec.anchors)), spec.outputs.get("centerness", "")
        scales.append(Scale(scores, boxes, classes, (height, width), step, centerness, corner, spec.anchors))
    return tuple(scales)


def stride(image: Shape, size: tuple[int, int]) -> int:
    """The pixels from one of h×w cells to the next; 0 if the cells do not lie evenly on the image.

    The last cell of a padded convolution lies partly outside of the image, and an unpadded one leaves out the last
    pixels. If several numbers fit, powers of two come first, then those of padded convolutions, then divisors of the
    height.
    """
    sides = list(zip(image[1:], size, strict=True))
    most = min(side // (count - 1) + 1 if count > 1 else 2 * max(image[1:]) for side, count in sides)
    fitting = [
        step for step in range(1, most + 1) if all(count in (ceil(side / step), side // step) for side, count in sides)
    ]

    def preference(step: int) -> tuple[bool, bool, bool, int]:
        padded = all(count == ceil(side / step) for side, count in sides)
        return step & (step - 1) > 0, not padded, image[1] % step > 0, step

    return min(fitting, key=preference, default=0)


def check_scales(context: Context, outputs: Mapping[str, Output]) -> None:
    """Note the mistakes of a detector's outputs: their shapes, and cells that do not lie on the image."""
    pairs = scales(context.spec.node.value["detects"])
    classes: tuple[str, int] | None = None
    for pair, scale in zip(pairs, context.spec.detects, strict=True):
        shapes = {key: outputs[name].shape for key, name in scale.outputs.items()}
        messages = {key: _mistake(context, scale, key, shape) for key, shape in shapes.items()}
        for key, message in messages.items():
            if message:
                context.problem(pair.value[key], "detects", message)
        if any(messages.values()) or None in shapes.values():
            continue
        name, scores = scale.outputs["scores"], shapes["scores"] or ()
        for key, shape in shapes.items():
            if shape and shape[1:] != scores[1:]:
                both = f"{name!r} is {sizes(scores)} and {scale.outputs[key]!r} is {sizes(shape)}"
                context.problem(pair, "detects", f"scores and {key} need the same height and width, but {both}")
        classes = classes or (name, scores[0])
        if scores[0] != classes[1]:
            both = f"{classes[0]!r} has {classes[1]} channels and {name!r} {scores[0]}"
            context.problem(pair.value["scores"], "detects", f"all scales need the same classes, but {both}")
        if len(scale.anchors) != len(context.spec.detects[0].anchors):
            context.problem(pair, "detects", "all scales need the same number of anchors")
        if ("centerness" in scale.outputs) != ("centerness" in context.spec.detects[0].outputs):
            context.problem(pair, "detects", "centerness is for all scales or none; name it for each, or remove it")


_CHANNELS = {
    "scores": "scores for each class and cell, KxHxW",
    "boxes": "4 distances for each cell, 4xHxW",
    "centerness": "one value for each cell, 1xHxW",
}


def _mistake(context: Context, scale: ScaleSpec, key: str, shape: Shape | None) -> str:
    """What is wrong with an output of a detector; empty if nothing is, or if its shape is unknown."""
    name, count = scale.outputs[key], max(1, len(scale.anchors))
    if shape is None:
        return ""
    if len(shape) != 3:
        are = "is" if key == "centerness" else "are"
        return f"{name!r} is {sizes(shape)}, but {key} {are} {_CHANNELS[key]}; let it be the output of a Conv2d"
    if key == "boxes" and shape[0] != 4 * count:
        form = f"{count} times 4 offsets" if count > 1 else "4, distances to the left, upper, right and lower edge"
        return f"{name!r} has {shape[0]} channels, but boxes have {form}; write out_channels: {4 * count}"
    if key == "centerness" and shape[0] != 1:
        return f"{name!r} has {shape[0]} channels, but centerness has 1; write out_channels: 1"
    if key == "scores" and shape[0] % count:
        fix = f"write out_channels: ${{{count} * classes}}"
        return f"{name!r} has {shape[0]} channels, but scores need one per class for each of {count} anchors; {fix}"
    image = context.root.input
    if len(image) != 3:
        return f"a detector takes images, but the input is {sizes(image)}; write [channels, height, width]"
    if not stride(image, (shape[1], shape[2])):
        fix = "the stride must be the same integer in both directions; pad the convolutions"
        return f"the {sizes(shape[1:])} cells of {name!r} do not lie evenly on {sizes(image[1:])} pixels: {fix}"
    return ""
