"""The window of a fully convolutional network: the pixels that a cell of its map depends on, and the step between
cells."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from cnn_cli.analysis.receptive_field import Side, sights
from cnn_cli.language.plan import Layer, Plan
from cnn_cli.language.registry import draft_document
from cnn_cli.layers import LayerType
from cnn_cli.layers.taps import EVERYTHING

_AT_EACH_POSITION = ("Linear", "LayerNorm", "RMSNorm", "Softmax", "LogSoftmax", "Softmin")  # if over the last axis

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, edges


@dataclass(frozen=True)
class Window:
    """Sizes are (rows, columns) in pixels; `start` is the first pixel of the window of cell (0, 0).

    `field` is the receptive field; the window is the part of it inside the classifier's input. `padded`: the layers
    that pad; `global_layers`: those that depend on the whole image, however large it is.
    """

    input: tuple[int, int]
    step: tuple[int, int]
    field: tuple[int, int]
    start: tuple[int, int]
    size: tuple[int, int]
    padded: tuple[str, ...]
    global_layers: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether a cell has exactly the score of its window."""
        return not self.padded and not self.global_layers

    def box(self, row: int, column: int) -> Box:
        """The window of a cell."""
        y, x = row * self.step[0] + self.start[0], column * self.step[1] + self.start[1]
        return x, y, x + self.size[1], y + self.size[0]

    def count(self, height: int, width: int) -> tuple[int, int]:
        """How many windows of the classifier's input fit an image, (rows, columns)."""
        (h, w), (down, across) = self.input, self.step
        return (height - h) // down + 1, (width - w) // across + 1

    def document(self) -> dict[str, Any]:
        return {"step": self.step, "window": self.size, "receptive_field": self.field, "start": self.start}


def window(plan: Plan) -> Window:
    """The window of a fully convolutional network whose plan is for the classifier's input."""
    channels, height, width = plan.input
    larger = draft_document(plan.document(), plan.spec.origin, (channels, 2 * height, 2 * width)).checked()
    everywhere = tuple(layer.name for layer in larger.layers if _sees_everything(layer))
    local = [_local(layer) if layer.name in everywhere else layer for layer in larger.layers]
    sides = sights(replace(larger, layers=tuple(local)))[larger.ends[0]].sides
    down, across = (_axis(side, n) for side, n in zip(sides, (height, width), strict=True))
    return Window(
        (height, width),
        (down[0], across[0]),
        (down[1], across[1]),
        (down[2], across[2]),
        (down[3], across[3]),
        tuple(layer.name for layer in plan.layers if _pads(layer)),
        everywhere,
    )


def _axis(side: Side, size: int) -> tuple[int, int, int, int]:
    """Step, receptive field, and start and length of the window of cell 0, in an input of `size`."""
    spans = [span for span in side.spans if span]
    step = Fraction(side.step or size, len(side.spans))
    first, last = spans[0][0], max(span[1] - side_step * step for side_step, span in enumerate(spans))
    start, end = max(first, 0), min(int(last) + 1, size)
    return int(step), max(b - a + 1 for a, b in spans), start, end - start


def _sees_everything(layer: Layer) -> bool:
    """Whether a value depends on all of an image, however large it is."""
    taps = layer.taps
    over = any(axis > 0 and read is EVERYTHING for axis, read in taps.items())
    return over and len(layer.output_shape) == 3 and layer.type not in _AT_EACH_POSITION


def _local(layer: Layer) -> Layer:
    return replace(layer, rule=replace(layer.rule, taps=LayerType.taps))


def _pads(layer: Layer) -> bool:
    """Whether a layer reads beyond the border of its input."""
    padding = layer.settings.get("padding")
    numbers = padding if isinstance(padding, tuple | list) else (padding,)
    return any(n not in (None, 0, "valid") for n in numbers) or layer.settings.get("ceil_mode") is True
