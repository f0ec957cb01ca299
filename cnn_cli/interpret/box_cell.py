"""The cell that predicts a box: its place on the image and on the layers' feature maps."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_cli.analysis.receptive_field import producer, sights
from cnn_cli.interpret.box_scores import BoxScores, ChosenBox, place_of
from cnn_cli.language.detection_scales import Scale, stride
from cnn_cli.language.plan import Plan
from cnn_cli.pictures import image
from cnn_cli.pictures.box_drawing import DrawnBox, with_boxes

_FIELD = "#e6007e"
Corners = tuple[float, ...]


@dataclass(frozen=True)
class BoxCell:
    """A detected box and the cell that predicts it: `row` and `column` on one scale of the network."""

    plan: Plan
    box: ChosenBox
    scale: Scale
    row: int
    column: int

    @property
    def square(self) -> Corners:
        """x0, y0, x1, y1 of the cell in pixels of the network's input."""
        x, y = self.scale.origin(self.row, self.column)
        half = self.scale.stride / 2
        return tuple(v + side for side in (-half, half) for v in (x, y))

    @property
    def field(self) -> Corners:
        """The receptive field of the cell's scores: x0, y0, x1, y1 in pixels of the input."""
        rows = {layer.name for layer in self.plan.layers}
        end = self.plan.ends[list(self.plan.named_outputs).index(self.scale.scores)]
        return self.field_at(producer(end, rows), self.row, self.column)

    def field_at(self, layer: str, row: int, column: int) -> Corners:
        """x0, y0, x1, y1 of the input pixels that a layer's output at (row, column) depends on."""
        spans = [side.at(o) for side, o in zip(sights(self.plan)[layer].sides, (row, column), strict=True)]
        (top, bottom), (left, right) = [
            (max(span[0], 0), min(span[1] + 1, size)) if span else (0, 0)
            for span, size in zip(spans, self.plan.input[1:], strict=True)
        ]
        return (left, top, right, bottom)

    def position(self, size: tuple[int, ...]) -> tuple[int, int]:
        """(row, column) in a map of h×w values whose place covers the cell's center."""
        if tuple(size) == self.scale.size:
            return self.row, self.column
        x0, y0, x1, y1 = self.square
        image, step = self.plan.input[1:], stride(self.plan.input, (size[0], size[1]))
        centers = ((y0 + y1) / 2, (x0 + x1) / 2)
        row, column = (
            min(int(center / step) if step else int(center * n / side), n - 1)
            for center, n, side in zip(centers, size, image, strict=True)
        )
        return row, column

    def document(self) -> dict[str, Any]:
        cell = {"scores": self.scale.scores, "row": self.row, "column": self.column}
        return self.box.document() | {
            "cell": cell | {"corners": list(self.square), "receptive_field": list(self.field)}
        }

    def document_at(self, layer: str, values: image.Array) -> dict[str, Any]:
        """The position in a layer's maps (C, h, w) that covers the cell's center, and their values there."""
        row, column = self.position(values.shape[1:])
        at = [round(float(v), 6) for v in self.values_at(values)]
        return {"cell": [row, column], "receptive_field": list(self.field_at(layer, row, column)), "values_at_cell": at}

    def values_at(self, values: image.Array) -> image.Array:
        """Maps (C, h, w) → (C,), their values at the cell."""
        row, column = self.position(values.shape[1:])
        at: image.Array = values[:, row, column]
        return at

    def strongest(self, values: image.Array) -> tuple[int, ...]:
        """The channels by absolute value at the cell, largest first."""
        return tuple(np.argsort(-np.abs(self.values_at(values)), kind="stable").tolist())

    def on_image(self, shown: image.Array) -> image.Array:
        """A picture (h, w, 3) of the input with the receptive field, the cell and the box."""
        boxes = [
            DrawnBox(self._scaled(self.field, shown), self.box.label, ink=_FIELD),
            DrawnBox(self._scaled(self.box.corners, shown), self.box.label, str(self.box)),
        ]
        return _framed(with_boxes(shown, boxes, line=2), self._scaled(self.square, shown))

    def on_map(self, shown: image.Array, zoom: float, size: tuple[int, ...]) -> image.Array:
        """A picture of a map of h×w values, `zoom` px each, with the box and the position of the cell."""
        row, column = self.position(size)
        box = DrawnBox(self._scaled(self.box.corners, shown), self.box.label)
        corners = (column * zoom, row * zoom, (column + 1) * zoom, (row + 1) * zoom)
        return _framed(with_boxes(shown, [box]), corners)

    def _scaled(self, corners: Corners, shown: image.Array) -> Corners:
        """Corners in pixels of the input → in pixels of a picture of it."""
        y, x = (n / side for n, side in zip(shown.shape[:2], self.plan.input[1:], strict=True))
        x0, y0, x1, y1 = corners
        return (x0 * x, y0 * y, x1 * x, y1 * y)

    def lines(self) -> list[str]:
        """The lines that describe the cell and the frames in the picture."""
        height, width = self.scale.size
        (x0, y0, x1, y1), (x2, y2, x3, y3) = self.square, self.field
        return [
            f"box {self.box.number}, {self.box}: cell in row {self.row}, column {self.column} of {height}x{width} "
            f"({self.scale.scores}), pixels {x0:g} to {x1:g} x {y0:g} to {y1:g} "
            "of the network's input",
            f"black: the cell; pink: its receptive field, {y3 - y2}x{x3 - x2}; below each map its value at the cell",
        ]


def cell_of(scores: BoxScores, box: ChosenBox) -> BoxCell:
    """The cell that predicts a box."""
    return BoxCell(scores.plan, box, *place_of(scores, box.cell))


def _framed(shown: image.Array, corners: Corners) -> image.Array:
    """A copy with a black frame around a cell, within a white one."""
    framed = shown.copy()
    x0, y0, x1, y1 = (round(v) for v in corners)
    for ink, width in (("#ffffff", 3), ("#000000", 2)):
        image.frame(framed, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)), ink, width)
    return framed
