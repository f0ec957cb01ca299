"""Masks: the class of each pixel, as bytes; 255 is void, which counts neither in losses nor in metrics."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnn_cli.data.decoding import decode_mask

VOID = 255
MAX_CLASSES = 255


@dataclass(frozen=True)
class MaskFiles:
    """Mask files and how their pixels become classes: `codes` (values, or colors as 0xRRGGBB), ascending, and the
    class of each, or VOID. `counts` (n, 256) int64 are pixels per class and file; `digest` tells other files apart."""

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


Targets = Tensor | MaskFiles


def are_masks(targets: Targets) -> bool:
    """Whether targets are masks, as files or (n, h, w), rather than labels, (n,)."""
    return isinstance(targets, MaskFiles) or targets.dim() == 3


def pixel_counts(masks: Targets) -> Tensor:
    """(n, 256) int64: the pixels of each class, and of VOID, in every mask."""
    if isinstance(masks, MaskFiles):
        return masks.counts
    if not len(masks):
        return torch.zeros(0, 256, dtype=torch.int64)
    return torch.stack([mask.flatten().bincount(minlength=256) for mask in masks.cpu()])


def renumbered(masks: Targets, numbers: Tensor) -> Targets:
    """The masks with class k as numbers[k]; (256,) int64. Void stays void."""
    if isinstance(masks, MaskFiles):
        counts = torch.zeros_like(masks.counts).index_add_(1, numbers, masks.counts)
        return replace(masks, classes=tuple(int(numbers[k]) for k in masks.classes), counts=counts)
    return numbers.to(torch.uint8)[masks.int()]


def rarest_classes(masks: Targets) -> Tensor:
    """(n,) int64: of the classes in each mask the one that the fewest masks have; by these a split is stratified."""
    present = pixel_counts(masks)[:, :VOID] > 0
    rank = present.sum(0).float()
    return torch.where(present, rank, torch.inf).argmin(1)


def identity(targets: Targets) -> bytes:
    """Bytes that change with the targets."""
    if isinstance(targets, MaskFiles):
        return b"".join(targets.digests) + bytes(targets.classes)
    return targets.numpy().tobytes()
