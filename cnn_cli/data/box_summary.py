"""Statistics of the boxes of a data set: counts, sizes, and images without boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnn_cli.data.boxes import CROWD, DIFFICULT, are_boxes, box_rows, class_counts
from cnn_cli.data.dataset import Dataset
from cnn_cli.tables import TableRow, percent

_SIDES = (32, 96)  # of squares in pixels: COCO's borders between small, medium and large boxes


@dataclass(frozen=True)
class BoxFigures:
    """Boxes and images without boxes per split. sizes: (width, height) in pixels of the smallest box, the median of
    both, and the largest box; areas: the numbers of small, medium and large boxes as COCO counts them."""

    boxes: dict[str, int]
    empty: dict[str, int]
    most: int
    sizes: tuple[tuple[int, int], ...]
    areas: tuple[int, int, int]
    difficult: int
    crowds: int

    def document(self) -> dict[str, Any]:
        return {
            "boxes": self.boxes,
            "images_without_boxes": self.empty,
            "most_boxes": self.most,
            "box_sizes": dict(zip(("smallest", "median", "largest"), map(list, self.sizes), strict=False)),
            "box_areas": dict(zip(("small", "medium", "large"), self.areas, strict=True)),
            "difficult": self.difficult,
            "crowds": self.crowds,
        }

    def lines(self) -> list[str]:
        total = sum(self.boxes.values())
        lines = [f"boxes: {_per_split(self.boxes)}; at most {self.most} in an image"]
        if total:
            smallest, median, largest = (f"{width}x{height}" for width, height in self.sizes)
            small, medium, large = (percent(n / total) for n in self.areas)
            lines.append(f"box sizes: from {smallest} to {largest} pixels, median {median}")
            lines.append(f"{small} small (below 32x32 pixels), {medium} medium, {large} large (at least 96x96)")
        if any(self.empty.values()):
            lines.append(f"images without boxes: {_per_split(self.empty)}")
        if self.difficult or self.crowds:
            lines.append(f"{self.difficult:,} difficult, {self.crowds:,} crowds: ignored in training and evaluation")
        return lines


def box_figures(dataset: Dataset) -> BoxFigures:
    rows = {name: box_rows(split.targets) for name, split in dataset.splits.items() if are_boxes(split.targets)}
    kept = {name: boxes[..., 4] >= 0 for name, boxes in rows.items()}
    flat = torch.cat([rows[name][kept[name]] for name in rows])  # (boxes, 7)
    width, height = flat[:, 2] - flat[:, 0], flat[:, 3] - flat[:, 1]
    area = width * height
    order = area.argsort()
    sizes = [(width[i], height[i]) for i in order[[0, -1]]] if len(order) else []
    medians = [(width.median(), height.median())] if len(order) else []
    low, high = (int((area < side**2).sum()) for side in _SIDES)
    return BoxFigures(
        {name: int(k.sum()) for name, k in kept.items()},
        {name: int((~k.any(1)).sum()) for name, k in kept.items()},
        max((int(k.sum(1).max()) for k in kept.values() if len(k)), default=0),
        tuple((_whole(w), _whole(h)) for w, h in [*sizes[:1], *medians, *sizes[1:]]),
        (low, high - low, len(area) - high),
        *(int((flat[:, 5] == flag).sum()) for flag in (DIFFICULT, CROWD)),
    )


def boxes_per_class(dataset: Dataset) -> list[TableRow]:
    """For each class its images, its boxes, and its boxes in each split."""
    k = len(dataset.classes)
    counts = {n: class_counts(s.targets, k) for n, s in dataset.splits.items() if are_boxes(s.targets)}
    return [
        {"class": name, "images": _total(counts, i, True), "boxes": _total(counts, i)}
        | {f"{split}_boxes": int(count[:, i].sum()) for split, count in counts.items()}
        for i, name in enumerate(dataset.classes)
    ]


def _total(counts: dict[str, Tensor], i: int, images: bool = False) -> int:
    columns: Sequence[Tensor] = [count[:, i] for count in counts.values()]
    return sum(int((column > 0).sum() if images else column.sum()) for column in columns)


def _whole(value: Tensor) -> int:
    return round(value.item())


def _per_split(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} in {name}" for name, n in counts.items())
