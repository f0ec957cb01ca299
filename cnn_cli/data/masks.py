"""Masks: the class of each pixel, as bytes; 255 is void, which counts neither in losses nor in metrics."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from cnn_cli.data.decoding import decode_mask
from cnn_cli.data.mask_classes import MAX_CLASSES as MAX_CLASSES
from cnn_cli.data.mask_classes import VOID as VOID


@dataclass(frozen=True)
class MaskFiles:
    """Mask files and how their pixels become classes: `codes` (values, or colors as 0xRRGGBB), ascending, and the
    class of each, or VOID. `counts` (n, 256) int64 are pixels per class and file; `digests` identify the files."""

    files: tuple[Path, ...]
    codes: tuple[int, ...]
    classes: tuple[int, ...]
    colors: bool
    counts: Tensor
    digests: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Tensor) -> "MaskFiles":
        numbers = index.tolist()
        files, digests = (tuple(values[i] for i in numbers) for values in (self.files, self.digests))
        return replace(self, files=files, digests=digests, counts=self.counts[index])

    def read(self, number: int) -> Tensor:
        """One mask at its own size, (h, w) uint8."""
        codes = decode_mask(self.files[number], self.colors)
        table = np.array(self.classes, np.uint8)
        return torch.from_numpy(table[np.searchsorted(np.array(self.codes), codes)])


def are_masks(targets: object) -> TypeGuard[Tensor | MaskFiles]:
    """Whether targets are masks, as files or (n, h, w) bytes, rather than labels or boxes."""
    return isinstance(targets, MaskFiles) or (
        isinstance(targets, Tensor) and targets.dim() == 3 and not targets.is_floating_point()
    )


def pixel_counts(masks: Tensor | MaskFiles) -> Tensor:
    """(n, 256) int64: the pixels of each class, and of VOID, in every mask."""
    if isinstance(masks, MaskFiles):
        return masks.counts
    if not len(masks):
        return torch.zeros(0, 256, dtype=torch.int64)
    return torch.stack([mask.flatten().bincount(minlength=256) for mask in masks.cpu()])


def renumbered(masks: Tensor | MaskFiles, numbers: Tensor) -> Tensor | MaskFiles:
    """The masks with class k as numbers[k]; (256,) int64. Void stays void."""
    if isinstance(masks, MaskFiles):
        counts = torch.zeros_like(masks.counts).index_add_(1, numbers, masks.counts)
        return replace(masks, classes=tuple(int(numbers[k]) for k in masks.classes), counts=counts)
    return numbers.to(torch.uint8)[masks.int()]
