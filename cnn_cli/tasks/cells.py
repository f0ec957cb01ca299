"""The cells of a detector: their centers, the objects assigned to them, and the boxes that they predict.

All of it is computed for every object and every cell, whatever the images hold, so that nothing waits for the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cnn_cli.language.detection_scales import Scale

CENTER_RADIUS = 1.5  # strides around the center of an object within which cells are to find it (Tian et al. 2022)
_LARGEST = 8.0  # strides: an object whose edges are further from a cell belongs to the next scale


@dataclass(frozen=True)
class Cells:
    """All P cells of a detector, scale by scale: centers (P, 2) x, y in pixels, strides (P,), and the range (P, 2) of
    the distance to the farthest edge of an object that a cell is to find."""

    centers: Tensor
    strides: Tensor
    limits: Tensor

    def boxes(self, distances: Tensor) -> Tensor:
        """(N, 4, P) distances to the left, upper, right and lower edge, in strides → (N, P, 4) x0, y0, x1, y1."""
        steps = distances.transpose(1, 2) * self.strides[:, None]
        return torch.cat([self.centers - steps[..., :2], self.centers + steps[..., 2:]], -1)


@lru_cache(maxsize=8)
def cells_of(scales: tuple[Scale, ...], device: torch.device) -> Cells:
    """The cells in the order of flattened()."""
    centers, strides, limits = [], [], []
    ends = [_LARGEST * scale.stride for scale in scales[:-1]] + [float("inf")]
    for scale, low, high in zip(scales, [0.0, *ends], ends, strict=False):
        y, x = ((torch.arange(n, dtype=torch.float32) + 0.5) * scale.stride for n in scale.size)
        centers.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(-1, 2))
        strides.append(torch.full((len(centers[-1]),), float(scale.stride)))
        limits.append(torch.tensor([low, high]).expand(len(centers[-1]), 2))
    return Cells(*(torch.cat(parts).to(device) for parts in (centers, strides, limits)))


def flattened(outputs: Mapping[str, Tensor], scales: Sequence[Scale]) -> tuple[Tensor, Tensor]:
    """A detector's outputs → scores (N, K, P) and distances (N, 4, P) of all cells, float32."""
    scores = torch.cat([outputs[scale.scores].flatten(2) for scale in scales], 2)
    return scores.float(), torch.cat([outputs[scale.boxes].flatten(2) for scale in scales], 2).float()


def assign(cells: Cells, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(N, m, 7) boxes → (N, P) int64: the row of the object that each cell is to find, or −1; and (N, P) bool: cells
    that count nowhere, since they lie in a crowd or a difficult object.

    A cell is to find an object if its center lies inside, within CENTER_RADIUS strides of the object's center, and the
    farthest edge within its limits; of several objects the smallest. The cell in which an object has its center is
    always to find it, however small it is.
    """
    x, y = cells.centers.unbind(1)
    x0, y0, x1, y1, label, flag = boxes[..., :6, None].unbind(2)  # (N, m, 1)
    sides = torch.stack([x - x0, y - y0, x1 - x, y1 - y])  # (4, N, m, P)
    inside, farthest = sides.amin(0) > 0, sides.amax(0)
    away = torch.maximum((x - (x0 + x1) / 2).abs(), (y - (y0 + y1) / 2).abs()) / cells.strides
    near = (away <= 0.5) | (inside & (away < CENTER_RADIUS))
    fits = (farthest > cells.limits[:, 0]) & (farthest <= cells.limits[:, 1])
    area = ((x1 - x0) * (y1 - y0)).expand_as(away)
    learned = (label >= 0) & (flag == 0)
    area, row = area.masked_fill(~(near & fits & learned), float("inf")).min(1)
    row = row.masked_fill(area == float("inf"), -1)
    return row, (inside & (label >= 0) & (flag > 0)).any(1) & (row < 0)


def generalized_iou(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """(…, 4), (…, 4) → the IoU of each pair, and the generalized IoU (Rezatofighi et al. 2019), (…) each."""
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    common = _product((high - low).clamp(min=0))
    union = _area(boxes) + _area(others) - common
    around = torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(boxes[..., :2], others[..., :2])
    hull = _product(around)
    iou = common / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def _area(boxes: Tensor) -> Tensor:
    return _product(boxes[..., 2:] - boxes[..., :2])


def _product(sides: Tensor) -> Tensor:
    """(…, 2) → (…). Not torch.prod, whose gradient waits for the device and so cannot be part of a CUDA graph."""
    return sides[..., 0] * sides[..., 1]
