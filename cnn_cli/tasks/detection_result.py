"""Metrics of detection: average precision, computed from the detections of all images together."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_cli.distributed.world import World
from cnn_cli.tables import Column, Table, counted, percent, render, side_by_side, wrapped
from cnn_cli.tasks.average_precision import (
    RECALLS,
    SIZES,
    Array,
    Detections,
    Matches,
    Objects,
    compute_average_precision,
)
from cnn_cli.tasks.base import Draw, Outputs, TaskResult
from cnn_cli.tasks.detection_errors import ERROR_TITLES, NOTHING_CORRECT, DetectionErrors, classify_errors
from cnn_cli.tasks.precision_resampling import precision_intervals
from cnn_cli.tasks.suppression import ImageDetections
from cnn_cli.tasks.uncertainty import show

_TITLES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}


class DetectionMeasure:
    """Keeps the detections and the objects of each image; the losses add up.

    measured: the network's outputs and the targets → the detections of each image, and (N,) its summed loss and the
    divisor of that.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        measured: Callable[[Outputs, Tensor], tuple[list[ImageDetections], Tensor, Tensor]],
    ) -> None:
        self.classes, self.measured = classes, measured
        self.detections: list[Array] = []  # (n, 7) of each image: x0, y0, x1, y1, class, score, area before resizing
        self.true: list[Array] = []  # (m, 7) of each image, as boxes are
        self.losses = np.zeros(2)

    def add(self, outputs: Outputs, targets: Tensor) -> None:
        detections, losses, objects = self.measured(outputs, targets)
        self.losses += [losses.double().sum().item(), objects.sum().item()]
        for image, rows in zip(detections, targets.cpu().double(), strict=True):
            area = (image.boxes[:, 2:] - image.boxes[:, :2]).double().prod(1) * rows[0, 6]
            columns = [image.boxes.double(), image.labels[:, None], image.scores[:, None].double(), area[:, None]]
            self.detections.append(torch.cat(columns, 1).numpy())
            self.true.append(rows[rows[:, 4] >= 0].numpy())

    def result(self, split: str, world: World) -> TaskResult:
        gathered = world.gather((self.detections, self.true, self.losses))
        own = self._result(split, gathered) if gathered else None
        result = world.broadcast_object(own and replace(own, matches=None))
        assert result is not None
        return own or result

    def _result(self, split: str, parts: "list[tuple[list[Array], list[Array], Array]]") -> "DetectionResult":
        """parts: of each process, which has every size-th image."""
        boxes, true = [part[0] for part in parts], [part[1] for part in parts]
        detections, objects = assemble(_in_order(boxes), _in_order(true))
        loss, weight = np.sum([part[2] for part in parts], 0)
        precision = compute_average_precision(detections, objects, len(self.classes))
        rows = tuple(
            ClassFigures(
                name,
                int(precision.counts[0, k]),
                precision.mean(label=k),
                precision.mean(threshold=0.5, label=k),
                precision.mean(threshold=0.75, label=k),
                _curve(precision.precision[0, 0, k]),
            )
            for k, name in enumerate(self.classes)
        )
        return DetectionResult(
            split=split,
            loss=float(loss / max(1.0, weight)),
            n=sum(map(len, boxes)),
            ap=precision.mean(),
            ap50=precision.mean(threshold=0.5),
            ap75=precision.mean(threshold=0.75),
            by_size={size: precision.mean(size) for size in list(SIZES)[1:]},
            ignored=int((objects.flags > 0).sum()),
            detections=len(detections.scores),
            per_class=rows,
            errors=classify_errors(detections, objects, precision.hits).count(),
            matches=precision.matches,
        )


def assemble(detections: list[Array], true: list[Array]) -> tuple[Detections, Objects]:
    """Of each image (n, 7) detections and (m, 7) boxes, as DetectionMeasure has them."""
    (boxes, images), (true_boxes, true_images) = _numbered(detections), _numbered(true)
    objects = Objects(
        images=true_images,
        boxes=true_boxes[:, :4],
        labels=true_boxes[:, 4].astype(np.int64),
        flags=true_boxes[:, 5].astype(np.int64),
        areas=(true_boxes[:, 2:4] - true_boxes[:, :2]).prod(1) * true_boxes[:, 6],
    )
    labels = boxes[:, 4].astype(np.int64)
    return Detections(images, boxes[:, :4], labels, scores=boxes[:, 5], areas=boxes[:, 6]), objects


def _in_order(parts: list[list[Array]]) -> list[Array]:
    """The images of all processes, of which each has every size-th."""
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def _numbered(rows: list[Array]) -> tuple[Array, Array]:
    """The rows of all images, and the number of the image of each."""
    return np.concatenate([np.zeros((0, 7)), *rows]), np.arange(len(rows)).repeat([len(one) for one in rows])


def _curve(precision: Array) -> tuple[float, ...] | None:
    return None if np.isnan(precision).any() else tuple(round(p, 6) for p in precision.tolist())


@dataclass(frozen=True)
class ClassFigures:
    """The metrics of a class. All but the number of objects are None for a class without objects.

    precision: at each of the 101 recalls, at an IoU of 0.5.
    """

    name: str
    objects: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    precision: tuple[float, ...] | None

    def document(self) -> dict[str, Any]:
        figures = {"objects": self.objects, "ap": self.ap, "ap50": self.ap50, "ap75": self.ap75}
        return {"class": self.name, **figures, "precision": self.precision and list(self.precision)}


@dataclass(frozen=True)
class DetectionResult:
    """COCO's metrics. `ignored`: the number of crowds and difficult objects; `detections`: that of all detections.

    matches: for intervals; a result that is read from a file has `read_intervals` instead.
    """

    split: str
    loss: float
    n: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    by_size: Mapping[str, float | None]
    ignored: int
    detections: int
    per_class: tuple[ClassFigures, ...]
    errors: DetectionErrors
    matches: Matches | None = field(default=None, repr=False, compare=False)
    read_intervals: Mapping[str, Any] | None = field(default=None, compare=False)

    metric = "ap"

    @property
    def score(self) -> float:
        return self.ap or 0.0

    @property
    def objects(self) -> int:
        return sum(row.objects for row in self.per_class)

    def document(self) -> dict[str, Any]:
        """Metrics of classes or sizes without objects are null, and means leave them out."""
        return {
            "task": "detection",
            "split": self.split,
            "n": self.n,
            "loss": self.loss,
            "ap": self.ap,
            "ap50": self.ap50,
            "ap75": self.ap75,
            **{f"ap_{size}": value for size, value in self.by_size.items()},
            "objects": self.objects,
            "ignored_objects": self.ignored,
            "detections": self.detections,
            "errors": self.errors.document(),
            "per_class": [row.document() for row in self.per_class],
            "classes": [row.name for row in self.per_class],
            **({"intervals": self.intervals} if self.intervals else {}),
        }

    @cached_property
    def intervals(self) -> Mapping[str, Any]:
        """95% intervals of AP, AP50 and AP75, by the bootstrap over images."""
        return self.read_intervals or {} if self.matches is None else precision_intervals(self.matches, self.n)

    def headline(self) -> str:
        """`AP 56.1%   AP50 87.4%   AP75 60.2%   loss 0.7163`."""
        parts = [f"{title} {percent(getattr(self, key) or 0.0, 2)}" for key, title in _TITLES.items()]
        return side_by_side([*parts, f"loss {self.loss:.4f}"])

    def text(self) -> str:
        parts = [self.headline(), "", render(self.table()), "", self._sizes()]
        if self.intervals:
            ends = [f"{title} {show(self.intervals[key])}" for key, title in _TITLES.items()]
            parts[1:1] = [wrapped(f"95% intervals: {', '.join(ends)}")]
        if self.ignored:
            parts += ["", f"{self.ignored:,} difficult objects and crowds ignored"]
        return "\n".join([*parts, "", *self._errors()])

    def table(self) -> Table:
        columns = (
            Column("class", "class", wraps=True),
            Column("objects", "objects", number=True),
            *(Column(key, title, number=True, show="{:.3f}".format) for key, title in _TITLES.items()),
        )
        return Table(columns, [{k: v for k, v in row.document().items() if v is not None} for row in self.per_class])

    def _sizes(self) -> str:
        limits = {"small": "below 32x32 pixels", "medium": "up to 96x96", "large": "above"}
        parts = [f"{size} ({limits[size]}) {_share(value)}" for size, value in self.by_size.items()]
        return wrapped(f"AP by size: {', '.join(parts)}")

    def _errors(self) -> list[str]:
        errors = self.errors
        counts = {name: getattr(errors, name) for name in ERROR_TITLES}
        if not errors.hits:
            return [wrapped(f"{NOTHING_CORRECT}; {errors.missed:,} of {counted(self.objects, 'object')} missed")]
        detections = sum(counts.values()) - errors.missed + errors.hits
        correct = f"{errors.hits:,} of {counted(detections, 'detection')} correct"
        head = f"at a score threshold of {errors.score:.2f} (best F1): {correct}"
        kinds = sorted(counts, key=lambda name: -counts[name])
        width = max(len(title) for title, _ in ERROR_TITLES.values())
        digits = max(len(f"{n:,}") for n in counts.values())
        return [
            wrapped(head),
            *(
                f"  {ERROR_TITLES[name][0]:<{width}}  {counts[name]:>{digits},}  {ERROR_TITLES[name][1]}"
                for name in kinds
            ),
        ]

    def pictures(self) -> dict[str, Draw]:
        return {"precision_recall": self._draw}

    def _draw(self, path: Path, title: str) -> None:
        from cnn_cli.pictures import plots

        curves = {
            row.name: (row.precision, row.ap50) for row in self.per_class if row.precision and row.ap50 is not None
        }
        plots.precision_recall_picture(RECALLS.tolist(), curves, path, f"{title}: AP50 {_share(self.ap50)}")


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def read_result(document: Mapping[str, Any]) -> DetectionResult:
    """A result from eval.json."""
    rows = tuple(
        ClassFigures(
            row["class"],
            row["objects"],
            row["ap"],
            row["ap50"],
            row["ap75"],
            row["precision"] and tuple(row["precision"]),
        )
        for row in document["per_class"]
    )
    return DetectionResult(
        split=document["split"],
        loss=math.inf if document["loss"] is None else document["loss"],
        n=document["n"],
        ap=document["ap"],
        ap50=document["ap50"],
        ap75=document["ap75"],
        by_size={size: document[f"ap_{size}"] for size in list(SIZES)[1:]},
        ignored=document["ignored_objects"],
        detections=document["detections"],
        per_class=rows,
        errors=DetectionErrors(**document["errors"]),
        read_intervals=document.get("intervals"),
    )
