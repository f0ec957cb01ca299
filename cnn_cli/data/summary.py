"""The contents of a data set, as training would read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_cli.data.annotations import BoxError
from cnn_cli.data.box_summary import box_figures, boxes_per_class
from cnn_cli.data.dataset import CLASSIFICATION, DETECTION, SEGMENTATION, Dataset, Split
from cnn_cli.data.masks import VOID, are_masks, pixel_counts
from cnn_cli.data.preparation import sample_shapes
from cnn_cli.tables import Column, Table, TableRow, counted, percent, render


@dataclass(frozen=True)
class BoxErrorReport:
    """The annotation errors of a data set, which prevent training on it."""

    data: str
    errors: tuple[BoxError, ...]

    def document(self) -> dict[str, Any]:
        return {"data": self.data, "faults": self._rows()}

    def text(self) -> str:
        images = len({error.image for error in self.errors if error.image})
        count = counted(len(self.errors), "annotation error")
        skip = f"; --skip-unreadable skips {counted(images, 'image')}" if images else ""
        return "\n".join([*map(str, self.errors), "", f"{count}{skip}"])

    def table(self) -> Table:
        columns = (Column("image", "image", wraps=True), Column("fault", "annotation error", wraps=True))
        return Table(columns, self._rows())

    def _rows(self) -> list[TableRow]:
        return [{"image": str(error.image) if error.image else None, "fault": error.text} for error in self.errors]


@dataclass(frozen=True)
class DataSummary:
    """Images per split, their sizes, and per class its images, its boxes, or the share of its pixels in masks."""

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
            **(box_figures(self.dataset).document() if self.dataset.task == DETECTION else {}),
            "classes": self.class_figures(),
            "notes": list(self.dataset.notes),
        }

    def text(self) -> str:
        d = self.document()
        splits = ", ".join(f"{n:,}{f' in {name}' * (name != 'all')}" for name, n in d["splits"].items())
        rows = [
            f"{Path(self.dataset.name).name}: {d['task']}" + (f", read as {d['layout']}" if d["layout"] else ""),
            f"images: {splits}; {d['size']}",
            *(box_figures(self.dataset).lines() if self.dataset.task == DETECTION else []),
            *d["notes"],
        ]
        if "all" in self.dataset.splits:
            part = "each class" if self.dataset.task == CLASSIFICATION else "the images"
            rows.append(f"no splits: training holds out a fifth of {part} for testing")
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

    def class_figures(self) -> list[TableRow]:
        if self.dataset.task == SEGMENTATION:
            return self._mask_figures()
        if self.dataset.task == DETECTION:
            return boxes_per_class(self.dataset)
        labels = torch.cat(
            [split.targets for split in self.dataset.splits.values() if isinstance(split.targets, Tensor)]
        )
        counts = labels.bincount(minlength=len(self.dataset.classes)).tolist()
        return [{"class": c, "images": n} for c, n in zip(self.dataset.classes, counts, strict=True)]

    def _mask_figures(self) -> list[TableRow]:
        images = torch.cat([pixel_counts(t) > 0 for s in self._splits() if are_masks(t := s.targets)]).sum(0)
        pixels = self._pixels()
        valid = max(1, sum(pixels[:VOID]))
        return [
            {"class": name, "images": int(images[i]), "pixels": pixels[i], "share": pixels[i] / valid}
            for i, name in enumerate(self.dataset.classes)
        ]

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
        return f"{counted(channels, 'channel')}, from {low[0]}x{low[1]} to {high[0]}x{high[1]}"
