"""Detect objects: bounding boxes in pixels of the images, as drawings and as JSON, CSV or YOLO files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.boxes import are_boxes, box_rows, original_corners
from cnn_cli.data.preprocessing import preprocess
from cnn_cli.data.targets import Targets
from cnn_cli.errors import UsageError
from cnn_cli.files import write_text
from cnn_cli.interpret.image_stream import MOST_ROWS, ImageToPredict, stream_images, write_sheet, written_facts
from cnn_cli.interpret.inputs import ImageSelection
from cnn_cli.interpret.pictured import CPU, Target, restored
from cnn_cli.interpret.scores import check_finite, class_names
from cnn_cli.pictures import image
from cnn_cli.pictures.box_drawing import DrawnBox, enlargement, with_boxes
from cnn_cli.pictures.grid import Cell, captioned_grid, picture
from cnn_cli.pictures.page import Panel
from cnn_cli.tables import Column, Table, counted, render
from cnn_cli.tasks.detection import Detection, detection_task

LEAST_SCORE = 0.4


@dataclass(frozen=True)
class Box:
    """A detected object: its class, its score, and x0, y0, x1, y1 in pixels of the image."""

    name: str
    label: int
    score: float
    corners: tuple[float, float, float, float]

    def document(self) -> dict[str, Any]:
        return {"class": self.name, "score": self.score, "box": [round(v, 2) for v in self.corners]}

    @property
    def drawn(self) -> DrawnBox:
        return DrawnBox(self.corners, self.label, f"{self.name} {self.score:.2f}")


@dataclass(frozen=True)
class BoxPrediction:
    """The objects of an image of (height, width), highest score first, and the files written for it."""

    image: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    drawing: Path
    labels: Path

    def document(self) -> dict[str, Any]:
        files = {"drawing": str(self.drawing), "labels": str(self.labels)}
        return {"image": self.image, "size": list(self.size), **files, "boxes": [box.document() for box in self.boxes]}

    def yolo(self) -> str:
        """YOLO's text format, a line per object: class, center, width and height as fractions, and score."""
        height, width = self.size
        lines = []
        for box in self.boxes:
            x0, y0, x1, y1 = box.corners
            values = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height, box.score)
            lines.append(" ".join([str(box.label), *(f"{v:.6f}" for v in values)]) + "\n")
        return "".join(lines)

    @property
    def summary(self) -> str:
        """`3 circle, 1 ring`, the most frequent class first."""
        counts = Counter(box.name for box in self.boxes)
        return ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing"


@dataclass(frozen=True)
class BoxPredictions:
    """Predictions for several images, and the sheet with the first of them."""

    loaded: LoadedNetwork
    images: tuple[BoxPrediction, ...]
    least_score: float
    sheet: Path
    skipped: tuple[str, ...] = ()  # errors of unreadable images in folders

    def document(self) -> dict[str, Any]:
        facts = written_facts(self.loaded, "detection", self.sheet, self.skipped)
        return facts | {"least_score": self.least_score, "images": [shot.document() for shot in self.images]}

    def text(self) -> str:
        columns = (
            Column("image", "image", wraps=True),
            Column("objects", "objects", wraps=True),
            Column("drawing", "drawing", wraps=True),
        )
        rows = [{"image": s.image, "objects": s.summary, "drawing": s.drawing.name} for s in self.images]
        return f"{render(Table(columns, rows))}\n\n{self.sheet}"

    def table(self) -> Table:
        """A row per object, for CSV and Markdown."""
        keys = ("image", "class", "score", "x0", "y0", "x1", "y1")
        rows = [
            {"image": shot.image, "class": box.name, "score": round(box.score, 4)}
            | {key: round(value, 2) for key, value in zip(keys[3:], box.corners, strict=True)}
            for shot in self.images
            for box in shot.boxes
        ]
        return Table(tuple(Column(key, key, number=key not in ("image", "class")) for key in keys), rows)


def predict_boxes(
    loaded: LoadedNetwork,
    selection: ImageSelection,
    target: Target,
    least_score: float = LEAST_SCORE,
    device: torch.device = CPU,
) -> BoxPredictions:
    """Detect and write, image by image: `NAME-boxes.png` and `NAME.txt` (YOLO), then the sheet.

    target: the folder; by default `predictions/` in the run folder. UsageError as in `stream_images`. Unreadable images
    in folders are skipped; CnnError for one that is named itself.
    """
    if not 0 <= least_score <= 1:
        raise UsageError(f"--min-score must be from 0 to 1, not {least_score:g}")
    task = detection_task(loaded.plan, class_names(loaded))
    network, skipped = restored(loaded).to(device), list[str]()
    results, rows = [], list[list[Cell]]()
    for shot in stream_images(loaded, selection, target, ("-boxes.png", ".txt"), _true_boxes, skipped):
        boxes = detect(network, task, loaded, shot.pixels, least_score, device)
        drawing, labels = shot.files
        size = (shot.pixels.shape[-2], shot.pixels.shape[-1])
        results.append(BoxPrediction(shot.name, size, boxes, drawing, labels))
        drawn = _drawn(shot.pixels, [box.drawn for box in reversed(boxes)])
        image.save(Image.fromarray(drawn), drawing)
        write_text(labels, results[-1].yolo())
        if len(rows) < MOST_ROWS:
            rows.append(_row(loaded, shot, results[-1]))
    panel, shown = _grid(rows)
    sheet = write_sheet(loaded, target, [panel], "detected objects", shown, len(results))
    return BoxPredictions(loaded, tuple(results), least_score, sheet, tuple(skipped))


@torch.no_grad()
def detect(
    network: nn.Module,
    task: Detection,
    loaded: LoadedNetwork,
    pixels: Tensor,
    least_score: float,
    device: torch.device = CPU,
) -> tuple[Box, ...]:
    """The objects of an image (c, h, w) uint8 of any size; CnnError if the outputs are not finite."""
    fitted = preprocess(pixels.unsqueeze(0), loaded.preprocessing)
    outputs = network(fitted.to(device).float().div_(255))
    check_finite(*outputs.values())
    (detections,) = task.detections(outputs, device)
    corners = original_corners(detections.boxes, (pixels.shape[-2], pixels.shape[-1]), loaded.preprocessing)
    return tuple(
        Box(task.classes[label], label, score, (box[0], box[1], box[2], box[3]))
        for label, score, box in zip(
            detections.labels.tolist(), detections.scores.tolist(), corners.tolist(), strict=True
        )
        if score >= least_score
    )


def _true_boxes(targets: Targets, i: int) -> Tensor | None:
    return box_rows(targets)[i] if are_boxes(targets) else None


def _drawn(pixels: Tensor, boxes: Sequence[DrawnBox]) -> image.Array:
    return with_boxes(picture(pixels.float() / 255), boxes, enlargement(pixels.shape[-2], pixels.shape[-1]))


def _row(loaded: LoadedNetwork, shot: ImageToPredict, result: BoxPrediction) -> list[Cell]:
    """The true boxes, if known, and the detected ones, at the size of the network's input."""
    _, height, width = loaded.preprocessing.input
    scale = min(height / result.size[0], width / result.size[1])
    cells = []
    if shot.true is not None:
        names = class_names(loaded)
        true = [DrawnBox(row[:4], int(row[4]), names[int(row[4])]) for row in shot.true.tolist() if row[4] >= 0]
        cells.append(Cell(_placed(shot.pixels, true, (height, width), scale), (counted(len(true), "true box"),)))
    drawn = [box.drawn for box in reversed(result.boxes)]
    caption = result.summary if cells else f"{Path(shot.name).name}: {result.summary}"
    return [*cells, Cell(_placed(shot.pixels, drawn, (height, width), scale), (caption,))]


def _placed(pixels: Tensor, boxes: Sequence[DrawnBox], size: tuple[int, int], scale: float) -> image.Array:
    """The image with its boxes, scaled to fit (height, width) and centered; enlarged if that is small."""
    zoom = enlargement(*size)
    h, w = (max(1, min(round(n * scale), most)) for n, most in zip(pixels.shape[-2:], size, strict=True))
    resized = nn.functional.interpolate(pixels.unsqueeze(0), size=(h, w), mode="bilinear", antialias=True)[0]
    small = [DrawnBox([v * scale for v in box.corners], box.label, box.words) for box in boxes]
    drawn = with_boxes(picture(resized.float() / 255), small, zoom)
    canvas = np.full((size[0] * zoom, size[1] * zoom, 3), 255, np.uint8)
    y, x = ((most - n) // 2 for n, most in zip(drawn.shape[:2], canvas.shape[:2], strict=True))
    canvas[y : y + drawn.shape[0], x : x + drawn.shape[1]] = drawn
    return canvas


def _grid(rows: list[list[Cell]]) -> tuple[Panel, int]:
    """The images in columns, next to their true boxes if known; and how many are shown."""
    across = 2 if len(rows[0]) == 2 else 3
    lines = [[cell for row in rows[i : i + across] for cell in row] for i in range(0, len(rows), across)]
    panel, shown = captioned_grid(lines)
    return panel, min(len(rows), shown * across)
