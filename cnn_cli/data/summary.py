"""What a data set holds, as training would read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_cli.data.dataset import Dataset, Split
from cnn_cli.data.masks import VOID, are_masks, pixel_counts
from cnn_cli.data.preparation import sample_shapes
from cnn_cli.tables import Column, Table, percent, render


@dataclass(frozen=True)
class DataSummary:
    """Images per split, their sizes, and per class its images and, in masks, the share of its pixels."""

    dataset: Dataset

    def document(self) -> dict[str, Any]:
        void = self._pixels()[VOID] if self._has_masks() else None
        return {
            "data": self.dataset.name,
            "task": self.dataset.task,
            "layout": self.dataset.layout or None,
            "splits": {name: len(split) for name, split in self.dataset.splits.items()},
            "size": self._size(),
            "void_pixels": void,
            "classes": self.class_figures(),
            "notes": list(self.dataset.notes),
        }

    def text(self) -> str:
        d = self.document()
        splits = ", ".join(f"{n:,} in {name}" for name, n in d["splits"].items())
        rows = [
            f"{Path(self.dataset.name).name}: {d['task']}" + (f", read as {d['layout']}" if d["layout"] else ""),
            f"images: {splits}; {d['size']}",
            *d["notes"],
        ]
        if d["void_pixels"]:
            rows.append(f"void: {percent(d['void_pixels'] / sum(self._pixels()))} of the pixels")
        return "\n".join([*rows, "", render(self.table())])

    def table(self) -> Table:
        columns = [Column("class", "class", wraps=True), Column("images", "images", number=True)]
        if self._has_masks():
            columns += [
                Column("pixels", "pixels", number=True),
                Column("share", "of the pixels", number=True, show=lambda share: percent(share, 2)),
            ]
        return Table(tuple(columns), self.class_figures())

    def class_figures(self) -> list[dict[str, Any]]:
        splits = list(self.dataset.splits.values())
        if not self._has_masks():
            labels = torch.cat([split.targets for split in splits if isinstance(split.targets, Tensor)])
            counts = labels.bincount(minlength=len(self.dataset.classes)).tolist()
            return [{"class": c, "images": n} for c, n in zip(self.dataset.classes, counts, strict=True)]
        images = sum((pixel_counts(split.targets) > 0).sum(0) for split in splits)
        assert isinstance(images, Tensor)
        pixels = self._pixels()
        valid = max(1, sum(pixels[:VOID]))
        return [
            {"class": name, "images": int(images[i]), "pixels": pixels[i], "share": pixels[i] / valid}
            for i, name in enumerate(self.dataset.classes)
        ]

    def _has_masks(self) -> bool:
        return any(are_masks(split.targets) for split in self.dataset.splits.values())

    def _pixels(self) -> list[int]:
        totals = [pixel_counts(split.targets).sum(0) for split in self.dataset.splits.values()]
        return [int(n) for n in torch.stack(totals).sum(0)]

    def _size(self) -> str:
        shapes = {shape for split in self.dataset.splits.values() for shape in _shapes(split)}
        channels = max(c for c, _, _ in shapes)
        sizes = sorted({(h, w) for _, h, w in shapes})
        if len(sizes) == 1:
            return f"{channels}x{sizes[0][0]}x{sizes[0][1]}"
        (low, high) = sizes[0], sizes[-1]
        return f"{channels} channel{'s' * (channels > 1)}, from {low[0]}x{low[1]} to {high[0]}x{high[1]}"


def _shapes(split: Split) -> list[tuple[int, int, int]]:
    return sample_shapes(split.images)
