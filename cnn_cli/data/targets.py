"""The targets of the images of a split: classes, masks or boxes."""

import torch
from torch import Tensor

from cnn_cli.data.boxes import BoxFiles, are_boxes, box_rows, class_counts, renumbered_boxes
from cnn_cli.data.masks import VOID, MaskFiles, are_masks, pixel_counts, renumbered

Targets = Tensor | MaskFiles | BoxFiles


def classes_in(targets: Targets) -> list[int]:
    """The classes that occur, in order."""
    if are_masks(targets):
        return [i for i, n in enumerate(pixel_counts(targets)[:, :VOID].sum(0).tolist()) if n]
    labels = box_rows(targets)[..., 4] if are_boxes(targets) else targets
    assert isinstance(labels, Tensor)
    return sorted({int(k) for k in torch.unique(labels).tolist()} - {-1})


def with_classes(targets: Targets, numbers: list[int]) -> Targets:
    """The targets with class k as numbers[k]; those that do not occur may be −1."""
    table = torch.tensor(numbers)
    if are_masks(targets):
        padded = torch.full((256,), VOID)
        padded[: len(table)] = torch.where(table < 0, VOID, table)
        return renumbered(targets, padded)
    if are_boxes(targets):
        return renumbered_boxes(targets, table)
    assert isinstance(targets, Tensor)
    return table[targets]


def strata(targets: Tensor | MaskFiles | BoxFiles) -> Tensor:
    """(n,) int64: the stratum of each image in a stratified split, which is the rarest class in its mask or boxes.

    Images without boxes are a stratum of their own.
    """
    if are_masks(targets):
        present = pixel_counts(targets)[:, :VOID] > 0
    else:
        assert are_boxes(targets)
        present = class_counts(targets, max([0, *classes_in(targets)]) + 1) > 0
        present = torch.cat([present, ~present.any(1, keepdim=True)], 1)
    rank = present.sum(0).float()
    return torch.where(present, rank, torch.inf).argmin(1)


def identity(targets: Targets) -> bytes:
    """Bytes that change with the targets."""
    if isinstance(targets, MaskFiles):
        return b"".join(targets.digests) + bytes(targets.classes)
    if isinstance(targets, BoxFiles):
        return targets.boxes.numpy().tobytes() + targets.sizes.numpy().tobytes()
    return targets.numpy().tobytes()
