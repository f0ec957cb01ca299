"""Metrics of segmentation, from counts that are summed over batches and processes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_cli.data.masks import VOID
from cnn_cli.distributed.world import World
from cnn_cli.tables import Column, Table, TableRow, percent, render, side_by_side, wrapped
from cnn_cli.tasks.base import Draw, largest_confusions, sum_type
from cnn_cli.tasks.calibration import Calibration, calibration_of, no_bins, read_calibration
from cnn_cli.tasks.uncertainty import LEVEL, Array, percentiles, resample, show

TOLERANCE = 0.0075  # of the image's diagonal: the largest distance of matching boundaries (Csurka et al. 2013)
_MOST_CONFUSIONS = 10
_WORD = 62  # classes in one int64 of bits


class SegmentationMeasure:
    """Confusion matrices of pixels, the IoU of every image, pixels of boundaries, and a sum of cross-entropies.

    labelled: the network's outputs and the targets → predicted classes, the sum of the losses of valid pixels, and
    their both_bins().
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        labelled: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
        device: torch.device,
        temperature: float | None = None,
    ) -> None:
        self.classes, self.labelled, self.temperature = classes, labelled, temperature
        k, real = len(classes), sum_type(device)
        self.confusion = torch.zeros(k + 1, k, dtype=torch.int64, device=device)
        self.images = torch.zeros(2, dtype=torch.int64, device=device)  # all, and those with a valid pixel
        self.sums = torch.zeros(2, dtype=real, device=device)  # the loss, and the mean IoU of each image
        self.boundaries = torch.zeros(4, k, dtype=torch.int64, device=device)
        self.bins = no_bins(device)
        self.per_image: list[Tensor] = []  # (N, 3, K) pixels: correct, true, predicted

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        predicted, loss, bins = self.labelled(outputs, targets)
        self.bins += bins
        matrices = pixel_confusion(targets, predicted, len(self.classes))
        self.confusion += matrices.sum(0)
        ious, valid = image_ious(matrices[:, :-1])
        self.per_image.append(image_counts(matrices[:, :-1]))
        self.images += torch.stack([torch.ones_like(valid), valid], 1).sum(0)
        self.sums += torch.stack([loss.to(self.sums.dtype), ious.to(self.sums.dtype).sum()])
        self.boundaries += boundary_counts(targets, predicted, len(self.classes))

    def result(self, split: str, world: World) -> "SegmentationResult":
        world.sum(self.confusion, self.images, self.sums, self.boundaries, self.bins)
        matrix, (n, valid), (loss, ious) = self.confusion.tolist(), self.images.tolist(), self.sums.tolist()
        pixels = sum(map(sum, matrix[:-1]))
        f1 = tuple(_boundary_f1(*counts) for counts in zip(*self.boundaries.tolist(), strict=True))
        counts = world.gather(torch.cat(self.per_image).cpu().numpy() if self.per_image else np.zeros((0, 3, 1)))
        return SegmentationResult(
            split,
            loss / max(1, pixels),
            matrix[:-1],
            self.classes,
            n,
            sum(matrix[-1]),
            ious / max(1, valid),
            f1,
            calibration=calibration_of(self.bins, self.temperature),
            per_image=_interleaved(counts) if counts else None,
        )


@dataclass(frozen=True)
class SegmentationResult:
    """`matrix` counts pixels: a row for each true class, a column for each predicted one. `boundary_f1` per class.

    original_size: of masks at their original sizes, rather than that of the network's input. per_image: (n, 3, K)
    correct, true and predicted pixels, for intervals; a result that is read from a file has `read_intervals` instead.
    """

    split: str
    loss: float
    matrix: list[list[int]]
    classes: tuple[str, ...]
    n: int
    void_pixels: int
    mean_image_miou: float
    boundary_f1: tuple[float | None, ...]
    original_size: bool = False
    calibration: Calibration | None = None
    per_image: Array | None = field(default=None, repr=False, compare=False)
    read_intervals: Mapping[str, Any] | None = field(default=None, compare=False)

    metric = "miou"

    @property
    def score(self) -> float:
        return mean_iou(self.matrix)

    def document(self) -> dict[str, Any]:
        """IoU and Dice of a class that is neither in the masks nor predicted are null, and means leave them out."""
        rows, pixels = self.class_figures(), sum(map(sum, self.matrix))
        return {
            "task": "segmentation",
            "split": self.split,
            "n": self.n,
            "loss": self.loss,
            "accuracy": sum(self.matrix[i][i] for i in range(len(self.matrix))) / max(1, pixels),
            "miou": self.score,
            "mean_image_miou": self.mean_image_miou,
            "mean_accuracy": _mean([row["recall"] for row in rows]),
            "dice": _mean([row["dice"] for row in rows]),
            "boundary_f1": _mean([row["boundary_f1"] for row in rows]),
            "pixels": pixels,
            "void_pixels": self.void_pixels,
            "original_size": self.original_size,
            "absent_classes": [row["class"] for row in rows if not row["pixels"]],
            "per_class": rows,
            "confusion_matrix": self.matrix,
            "classes": list(self.classes),
            **({"intervals": self.intervals} if self.intervals else {}),
            **(self.calibration.document() if self.calibration else {}),
        }

    @cached_property
    def intervals(self) -> Mapping[str, Any]:
        """95% intervals of mIoU and pixel accuracy, by the bootstrap over images."""
        if self.per_image is None or not len(self.per_image):
            return self.read_intervals or {}
        n, _, k = self.per_image.shape
        sums = resample(self.per_image.reshape(n, 3 * k)).reshape(-1, 3, k)
        accuracy = sums[:, 0].sum(1) / np.maximum(sums[:, 1].sum(1), 1)
        return {"level": LEVEL, "miou": list(percentiles(mean_ious(sums))), "accuracy": list(percentiles(accuracy))}

    def class_figures(self) -> list[TableRow]:
        predicted = [sum(column) for column in zip(*self.matrix, strict=True)]
        rows = []
        for i, name in enumerate(self.classes):
            true, hits = sum(self.matrix[i]), self.matrix[i][i]
            rows.append(
                {
                    "class": name,
                    "pixels": true,
                    "iou": _share(hits, true + predicted[i] - hits),
                    "dice": _share(2 * hits, true + predicted[i]),
                    "precision": _share(hits, predicted[i]),
                    "recall": _share(hits, true),
                    "boundary_f1": self.boundary_f1[i],
                }
            )
        return rows

    def headline(self) -> str:
        """`mIoU 78.10%  per image 74.00%  Dice 87.10%  pixel accuracy 93.20%  loss 0.2531`."""
        d = self.document()
        figures = {"mIoU": "miou", "per image": "mean_image_miou", "Dice": "dice", "pixel accuracy": "accuracy"}
        parts = [f"{title} {percent(d[key], 2)}" for title, key in figures.items()]
        return side_by_side([*parts, f"loss {d['loss']:.4f}"])

    def text(self) -> str:
        d, parts = self.document(), [self.headline(), "", render(self.table())]
        if self.intervals:
            parts[1:1] = [f"95% interval of the mIoU: {show(self.intervals['miou'])}"]
        if self.calibration:
            parts.insert(1 + bool(self.intervals), wrapped(f"{self.calibration.text()}, over pixels"))
        if self.original_size:
            parts += ["", "evaluated at the original mask sizes"]
        if absent := d["absent_classes"]:
            parts += ["", f"not in these masks: {', '.join(absent)}"]
        if self.void_pixels:
            share = percent(self.void_pixels / (d["pixels"] + self.void_pixels))
            parts += ["", f"void: {self.void_pixels:,} pixels ({share}), not counted"]
        if confusions := self._confusions():
            parts += ["", "most frequent confusions", render(confusions)]
        return "\n".join(parts)

    def table(self) -> Table:
        titles = {"iou": "IoU", "dice": "Dice", "boundary_f1": "boundary F1"}
        columns = (
            Column("class", "class", wraps=True),
            Column("pixels", "pixels", number=True),
            *(
                Column(key, titles.get(key, key), number=True, show="{:.3f}".format)
                for key in ("iou", "dice", "precision", "recall", "boundary_f1")
            ),
        )
        return Table(columns, self.class_figures())

    def _confusions(self) -> Table | None:
        """The most frequent confusions of classes, in pixels."""
        names = self.classes
        cells = [
            {"true": names[i], "predicted": names[j], "pixels": n, "share": n / sum(self.matrix[i])}
            for n, i, j in largest_confusions(self.matrix, _MOST_CONFUSIONS)
        ]
        columns = (
            Column("true", "true", wraps=True),
            Column("predicted", "predicted", wraps=True),
            Column("pixels", "pixels", number=True),
            Column("share", "of the true class", number=True, show=percent),
        )
        return Table(columns, cells) if cells else None

    def pictures(self) -> dict[str, Draw]:
        drawn: dict[str, Draw] = {"confusion_matrix": self._draw}
        return drawn | ({"reliability": partial(self.calibration.draw, counted="pixels")} if self.calibration else {})

    def _draw(self, path: Path, title: str) -> None:
        from cnn_cli.pictures import plots

        plots.confusion_picture(self.matrix, self.classes, path, f"{title}: mIoU {percent(self.score)}", shares=True)


def read_result(document: Mapping[str, Any]) -> SegmentationResult:
    """A result from eval.json."""
    return SegmentationResult(
        document["split"],
        math.inf if document["loss"] is None else document["loss"],
        document["confusion_matrix"],
        tuple(document["classes"]),
        document["n"],
        document["void_pixels"],
        document["mean_image_miou"],
        tuple(row["boundary_f1"] for row in document["per_class"]),
        document.get("original_size", False),
        calibration=read_calibration(document),
        read_intervals=document.get("intervals"),
    )


def mean_iou(matrix: Sequence[Sequence[int]]) -> float:
    """The mean over the classes of hits / (true + predicted − hits); classes without any pixel are not counted."""
    predicted = [sum(column) for column in zip(*matrix, strict=True)]
    return _mean([_share(row[i], sum(row) + predicted[i] - row[i]) for i, row in enumerate(matrix)])


def mean_ious(counts: Array) -> Array:
    """(…, 3, K) correct, true and predicted pixels → (…) as mean_iou()."""
    hits, true, predicted = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    union = true + predicted - hits
    occurs = union > 0
    ious: Array = np.where(occurs, hits / np.maximum(union, 1), 0).sum(-1) / np.maximum(occurs.sum(-1), 1)
    return ious


def image_counts(matrices: Tensor) -> Tensor:
    """(N, K, K) → (N, 3, K): the correct, true and predicted pixels of each class."""
    return torch.stack([matrices.diagonal(dim1=1, dim2=2), matrices.sum(2), matrices.sum(1)], 1)


def _interleaved(parts: Sequence[Array]) -> Array:
    """The images of all processes in order: process r of p has images r, r + p, r + 2p, …"""
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for i, part in enumerate(parts):
        whole[i :: len(parts)] = part
    return whole


def pixel_confusion(targets: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """(N, H, W), (N, H, W) → (N, K + 1, K) int64 pixels of each image: true classes, and void last, by predicted ones.

    Never synchronizes with the device.
    """
    rows = targets.long().clamp_max(classes)
    cells = rows * classes + predicted
    cells += torch.arange(len(cells), device=cells.device).view(-1, 1, 1) * (classes + 1) * classes
    return _counted(cells, len(cells) * (classes + 1) * classes).view(-1, classes + 1, classes)


def image_ious(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K, K) → (N,) the mean IoU of each image over the classes that it has or that are predicted, and whether it
    has a valid pixel, (N,) int64."""
    hits = matrices.diagonal(dim1=1, dim2=2)
    union = matrices.sum(1) + matrices.sum(2) - hits
    counted = (union > 0).sum(1)
    ious = (hits / union.clamp_min(1)).sum(1) / counted.clamp_min(1)
    return ious, (counted > 0).long()


def boundary_counts(targets: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """(4, K) int64 pixels per class over a batch (N, H, W): on the predicted boundary, of these near the true one; on
    the true boundary, of these near the predicted one.

    A boundary pixel of a class touches a valid pixel of another one, at a side. Near is within TOLERANCE of the
    diagonal, at least 1 pixel, along both axes.
    """
    reach = max(1, round(TOLERANCE * math.hypot(*targets.shape[-2:])))
    true = targets.long()
    predicted = torch.where(true == VOID, VOID, predicted)
    edges = [torch.where(_on_boundary(labels), labels, VOID) for labels in (predicted, true)]
    counts = []
    for own, other in (edges, edges[::-1]):
        near = torch.where(_is_near(own, other, classes, reach), own, VOID)
        counts += [_counted(labels, 256)[:classes] for labels in (own, near)]
    return torch.stack(counts)


def _on_boundary(labels: Tensor) -> Tensor:
    valid, edge = labels != VOID, torch.zeros_like(labels, dtype=torch.bool)
    for dim in (1, 2):
        size = labels.shape[dim]
        first, second = labels.narrow(dim, 0, size - 1), labels.narrow(dim, 1, size - 1)
        differ = (first != second) & valid.narrow(dim, 0, size - 1) & valid.narrow(dim, 1, size - 1)
        edge.narrow(dim, 0, size - 1).logical_or_(differ)
        edge.narrow(dim, 1, size - 1).logical_or_(differ)
    return edge


def _is_near(own: Tensor, other: Tensor, classes: int, reach: int) -> Tensor:
    """(N, H, W) bool: whether a boundary pixel of `other` of the same class is within reach. Uses a bit per class."""
    result = torch.zeros_like(own, dtype=torch.bool)
    for first in range(0, classes, _WORD):
        inside = (other >= first) & (other < min(classes, first + _WORD))
        bits = torch.where(inside, torch.ones_like(other) << (other - first).clamp(0, _WORD), 0)
        for dim in (1, 2):
            bits = _spread(bits, dim, reach)
        mine = (own >= first) & (own < min(classes, first + _WORD))
        result |= mine & ((bits >> (own - first).clamp(0, _WORD)) & 1 > 0)
    return result


def _spread(bits: Tensor, dim: int, reach: int) -> Tensor:
    """The union of the bits within `reach` along an axis."""
    result, size = bits.clone(), bits.shape[dim]
    for step in range(1, min(reach, size - 1) + 1):
        ahead, behind = bits.narrow(dim, step, size - step), bits.narrow(dim, 0, size - step)
        result.narrow(dim, 0, size - step).bitwise_or_(ahead)
        result.narrow(dim, step, size - step).bitwise_or_(behind)
    return result


def _counted(values: Tensor, size: int) -> Tensor:
    """(size,) int64: how often each of the numbers 0 … size − 1 occurs. bincount would synchronize with a GPU."""
    counts = torch.zeros(size, dtype=torch.int64, device=values.device)
    flat = values.flatten()
    return counts.index_add_(0, flat, torch.ones_like(flat))


def _boundary_f1(predicted: int, predicted_near: int, true: int, true_near: int) -> float | None:
    """The F1 score of precision and recall of boundary pixels; None for a class without a boundary."""
    if not predicted + true:
        return None
    precision, recall = predicted_near / max(1, predicted), true_near / max(1, true)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float:
    counted = [value for value in values if value is not None]
    return sum(counted) / len(counted) if counted else 0.0
