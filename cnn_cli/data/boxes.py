"""Boxes: float32 (n, m, 7), in each image up to m rows x0, y0, x1, y1, class, flag, scale.

The corners are edges in pixels: a box around the whole image is 0, 0, W, H. Rows of class −1 are padding and come after
the boxes. A flag other than 0 marks a box that is ignored in the loss and the metrics: DIFFICULT, or CROWD, a box
around many objects. Every row of an image, padding included, has its scale: the area of a pixel in pixels of the
original image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from cnn_cli.data.annotations import CROWD as CROWD
from cnn_cli.data.annotations import DIFFICULT as DIFFICULT
from cnn_cli.data.annotations import Row as Row
from cnn_cli.data.preprocessing import Placement, Preprocessing, placement

COLUMNS = 7
PADDING = -1
LEAST_VISIBLE = 0.25  # of a box's area; an object of which less is visible is dropped


@dataclass(frozen=True)
class BoxFiles:
    """The boxes (n, m, 7) of n image files, in pixels of the image turned upright, and `sizes`, (n, 2) int64 h, w."""

    boxes: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> "BoxFiles":
        return BoxFiles(self.boxes[index], self.sizes[index])


def are_boxes(targets: object) -> "TypeGuard[Tensor | BoxFiles]":
    """Whether targets are boxes rather than labels or masks."""
    return isinstance(targets, BoxFiles) or (
        isinstance(targets, Tensor) and targets.dim() == 3 and targets.is_floating_point()
    )


def box_table(rows: Sequence[Sequence[Row]]) -> Tensor:
    """The rows of each of n images as (n, m, 7), m ≥ 1, with scale 1."""
    most = max(1, max(map(len, rows), default=0))
    padding = (0.0, 0.0, 0.0, 0.0, PADDING, 0)
    padded = [[*image, *[padding] * (most - len(image))] for image in rows]
    table = torch.ones(len(rows), most, COLUMNS)
    table[..., :-1] = torch.tensor(padded, dtype=torch.float32).view(len(rows), most, COLUMNS - 1)
    return table


def box_rows(targets: Tensor | BoxFiles) -> Tensor:
    """(n, m, 7): the boxes, of files in pixels of each file."""
    return targets.boxes if isinstance(targets, BoxFiles) else targets


def class_counts(targets: Tensor | BoxFiles, classes: int) -> Tensor:
    """(n, classes) int64: the boxes of each class in every image, crowds and difficult ones included."""
    labels = box_rows(targets)[..., 4].long().cpu()
    return torch.stack([(labels == k).sum(1) for k in range(classes)], 1)


def renumbered_boxes(targets: Tensor | BoxFiles, numbers: Tensor) -> Tensor | BoxFiles:
    """The boxes with class k as numbers[k], (K,) int64."""
    boxes = box_rows(targets).clone()
    labels = boxes[..., 4].long()
    boxes[..., 4] = torch.where(labels >= 0, numbers[labels.clamp(min=0)], labels).to(boxes.dtype)
    return BoxFiles(boxes, targets.sizes) if isinstance(targets, BoxFiles) else boxes


def fit_boxes(boxes: Tensor, sizes: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(n, m, 7) in images of `sizes` (n, 2), h and w → (n, m, 7) in the images as preprocess() makes them.

    Boxes are clipped; those of which less than LEAST_VISIBLE is left become padding.
    """
    different, number = torch.unique(sizes, dim=0, return_inverse=True)
    moves = [_scale_and_shift(placement((h, w), preprocessing)) for h, w in different.tolist()]
    scale, shift = torch.tensor(moves, dtype=torch.float64).view(-1, 2, 2)[number].to(boxes.dtype).unbind(1)
    moved = move_corners(boxes, scale, shift, preprocessing.input[1:])
    return without_hidden(moved, visible_area(moved), _area(boxes[..., :4]) * scale.prod(1, keepdim=True))


def original_corners(corners: Tensor, size: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    """(n, 4) in an image as preprocess() makes it → (n, 4) in pixels of the original image of (h, w), clipped to it."""
    scale, shift = torch.tensor(_scale_and_shift(placement(size, preprocessing)), dtype=torch.float64)
    moved = (corners.double() - shift.repeat(2)) / scale.repeat(2)
    height, width = size
    return torch.minimum(moved.clamp(min=0), torch.tensor([width, height, width, height], dtype=torch.float64))


def _scale_and_shift(place: Placement) -> tuple[tuple[float, float], tuple[float, float]]:
    """((x, y), (x, y)): a position p of the image is at p · scale + shift."""
    top, left, height, width = place.cut
    x, y = place.size[1] / width, place.size[0] / height
    return (x, y), (-left * x - place.origin[1], -top * y - place.origin[0])


def move_corners(boxes: Tensor, scale: Tensor, shift: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes with corners p · scale + shift, clipped to an image of (H, W). scale, shift: (n, 2) for x and y."""
    corners = boxes[..., :4].reshape(*boxes.shape[:-1], 2, 2) * scale[:, None, None] + shift[:, None, None]
    limits = [corners[..., i].clamp(0, size[1 - i]) for i in (0, 1)]
    corners = torch.stack(limits, -1)
    ordered = torch.cat([corners.amin(-2), corners.amax(-2)], -1)  # a negative scale swaps them
    area = boxes[..., 6:] / scale.prod(1).abs()[:, None, None]
    return torch.cat([ordered, boxes[..., 4:6], area], -1)


def visible_area(boxes: Tensor, hidden: Tensor | None = None) -> Tensor:
    """(n, m): the area of each box outside of its image's rectangle `hidden`, (n, 4) x0, y0, x1, y1."""
    area = _area(boxes[..., :4])
    if hidden is None:
        return area
    low = torch.maximum(boxes[..., :2], hidden[:, None, :2])
    return area - _area(torch.cat([low, torch.minimum(boxes[..., 2:4], hidden[:, None, 2:])], -1))


def without_hidden(boxes: Tensor, visible: Tensor, whole: Tensor) -> Tensor:
    """The boxes without those of which too little is visible; both areas are (n, m)."""
    keep = (boxes[..., 4] >= 0) & (visible >= LEAST_VISIBLE * whole) & (visible > 0)
    kept = torch.cat([boxes[..., :4] * keep[..., None], boxes[..., 4:6], boxes[..., 6:]], -1)
    kept[..., 4].masked_fill_(~keep, PADDING)
    kept[..., 5].masked_fill_(~keep, 0)
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    return kept.gather(1, order[..., None].expand_as(kept))


def _area(corners: Tensor) -> Tensor:
    return (corners[..., 2] - corners[..., 0]).clamp(min=0) * (corners[..., 3] - corners[..., 1]).clamp(min=0)
