"""What a data set holds, as training would read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_cli.data.boxes import are_boxes, class_counts
from cnn_cli.data.dataset import DETECTION, SEGMENTATION, Dataset, Split
from cnn_cli.data.masks import VOID, are_masks, pixel_counts
from cnn_cli.data.preparation import sample_shapes
from cnn_cli.tables import Column, Table, percent, render


@dataclass(frozen=True)
class DataSummary:
    """Images per split, their sizes, and per class its images and, in masks, the share of its pixels."""

    dataset: Dataset

    def document(self) -> dict[str, Any]:
        void = self._pixels()[VOID] if self.dataset.task == SEGMENTATION else None
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
        if self.dataset.task == DETECTION:
            columns.append(Column("boxes", "boxes", number=True))
            if len(self.dataset.splits) > 1:
                columns += [Column(f"{name}_boxes", f"in {name}", number=True) for name in self.dataset.splits]
        if self.dataset.task == SEGMENTATION:
            columns += [
                Column("pixels", "pixels", number=True),
                Column("share", "of the pixels", number=True, show=lambda share: percent(share, 2)),
            ]
        return Table(tuple(columns), self.class_figures())

    def class_figures(self) -> list[dict[str, Any]]:
        if self.dataset.task == SEGMENTATION:
            return self._mask_figures()
        if self.dataset.task == DETECTION:
            return self._box_figures()
        labels = torch.cat(
            [split.targets for split in self.dataset.splits.values() if isinstance(split.targets, Tensor)]
        )
        counts = labels.bincount(minlength=len(self.dataset.classes)).tolist()
        return [{"class": c, "images": n} for c, n in zip(self.dataset.classes, counts, strict=True)]

    def _mask_figures(self) -> list[dict[str, Any]]:
        images = torch.cat([pixel_counts(t) > 0 for s in self._splits() if are_masks(t := s.targets)]).sum(0)
        pixels = self._pixels()
        valid = max(1, sum(pixels[:VOID]))
        return [
            {"class": name, "images": int(images[i]), "pixels": pixels[i], "share": pixels[i] / valid}
            for i, name in enumerate(self.dataset.classes)
        ]

    def _box_figures(self) -> list[dict[str, Any]]:
        counts = self._box_counts()
        return [
            {
                "class": name,
                "images": sum(int((c[:, i] > 0).sum()) for c in counts.values()),
                "boxes": sum(int(c[:, i].sum()) for c in counts.values()),
                **{f"{split}_boxes": int(c[:, i].sum()) for split, c in counts.items()},
            }
            for i, name in enumerate(self.dataset.classes)
        ]

    def _box_counts(self) -> dict[str, Tensor]:
        """(n, classes) of each split."""
        k = len(self.dataset.classes)
        return {n: class_counts(t, k) for n, s in self.dataset.splits.items() if are_boxes(t := s.targets)}

    def _pixels(self) -> list[int]:
        counts = [pixel_counts(t) for s in self._splits() if are_masks(t := s.targets)]
        return [int(n) for n in torch.cat(counts).sum(0)]

    def _splits(self) -> list[Split]:
        return list(self.dataset.splits.values())

    def _size(self) -> str:
        shapes = {shape for split in self._splits() for shape in sample_shapes(split.images)}
        channels = max(c for c, _, _ in shapes)
        sizes = sorted({(h, w) for _, h, w in shapes})
        if len(sizes) == 1:
            return f"{channels}x{sizes[0][0]}x{sizes[0][1]}"
        (low, high) = sizes[0], sizes[-1]
        return f"{channels} channel{'s' * (channels > 1)}, from {low[0]}x{low[1]} to {high[0]}x{high[1]}"
