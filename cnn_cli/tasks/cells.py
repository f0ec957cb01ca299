"""The cells of a detector: their origins, the objects assigned to them, and the boxes that they predict.

Everything is computed for all pairs of objects and cells, so that nothing synchronizes with the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log

import torch
from torch import Tensor

from cnn_cli.language.detection_scales import Scale

CENTER_RADIUS = 1.5  # in strides: cells this close to the center of an object are positive (Tian et al. 2022)
_LARGEST = 8.0  # in strides: an object whose edges are further from a cell belongs to the next scale
_MATCH, _NO_MATCH = 0.5, 0.4  # the IoU from which an anchor is positive, and below which it is negative
_MOST_GROWTH = log(1000 / 16)  # limit on the log of the scale from an anchor to its box, as in torchvision


@dataclass(frozen=True)
class Cells:
    """All P cells of a detector, scale by scale: centers (P, 2) x, y in pixels, strides (P,), and the range (P, 2) of
    the distance to the farthest edge of the objects that a cell can be assigned to.

    With `anchors` (P, 4) x0, y0, x1, y1, each anchor of a cell is a cell of its own.
    """

    centers: Tensor
    strides: Tensor
    limits: Tensor
    anchors: Tensor | None = None

    def boxes(self, values: Tensor) -> Tensor:
        """(N, 4, P) distances to the left, upper, right and lower edge, in strides → (N, P, 4) x0, y0, x1, y1.

        With anchors: offsets x, y of the center relative to the size of the anchor, and the logarithms of the scale
        factors of its width and height.
        """
        values = values.transpose(1, 2)
        if self.anchors is None:
            steps = values * self.strides[:, None]
            return torch.cat([self.centers - steps[..., :2], self.centers + steps[..., 2:]], -1)
        size = self.anchors[:, 2:] - self.anchors[:, :2]
        center = values[..., :2] * size + (self.anchors[:, :2] + size / 2)
        half = values[..., 2:].clamp(max=_MOST_GROWTH).exp() * size / 2
        return torch.cat([center - half, center + half], -1)


@lru_cache(maxsize=8)
def cells_of(scales: tuple[Scale, ...], device: torch.device) -> Cells:
    """The cells in the order of flattened()."""
    centers, strides, limits, anchors = [], [], [], []
    ends = [_LARGEST * scale.stride for scale in scales[:-1]] + [float("inf")]
    for scale, low, high in zip(scales, [0.0, *ends], ends, strict=False):
        (x, y), (right, below) = scale.origin(0, 0), scale.origin(1, 1)
        height, width = scale.size
        across, down = (torch.arange(n, dtype=torch.float32) for n in (width, height))
        grid = torch.meshgrid(across * (right - x) + x, down * (below - y) + y, indexing="xy")
        center = torch.stack(grid, -1).view(-1, 2).repeat_interleave(max(1, len(scale.anchors)), 0)
        half = torch.tensor(scale.anchors or [(0.0, 0.0)]).repeat(width * height, 1)
        anchors.append(torch.cat([center - half, center + half], 1))
        centers.append(center)
        strides.append(torch.full((len(center),), float(scale.stride)))
        limits.append(torch.tensor([low, high]).expand(len(center), 2))
    parts = (torch.cat(parts).to(device) for parts in (centers, strides, limits, anchors))
    cells = Cells(*parts)
    return cells if scales[0].anchors else replace(cells, anchors=None)


def flattened(outputs: Mapping[str, Tensor], scales: Sequence[Scale]) -> tuple[Tensor, Tensor]:
    """A detector's outputs → scores (N, K, P) and boxes (N, 4, P) of all cells, float32."""
    scores = torch.cat([_of_anchors(outputs[scale.scores], scale) for scale in scales], 2)
    return scores.float(), torch.cat([_of_anchors(outputs[scale.boxes], scale) for scale in scales], 2).float()


def _of_anchors(values: Tensor, scale: Scale) -> Tensor:
    """(N, A·C, h, w) → (N, C, h·w·A), the anchors of a cell one after the other."""
    if not scale.anchors:
        return values.flatten(2)
    batch, count = len(values), len(scale.anchors)
    return values.reshape(batch, count, -1, scale.size[0] * scale.size[1]).permute(0, 2, 3, 1).flatten(2)


def assign(cells: Cells, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(N, m, 7) boxes → (N, P) int64: the row of the object that is assigned to each cell, or −1; and (N, P) bool:
    cells that are ignored, since they lie in a crowd or a difficult object.

    An object is assigned to a cell whose center lies inside of it and within CENTER_RADIUS strides of its center, if
    its farthest edge is within the limits of the cell; of several objects, the smallest. It is always assigned to the
    cell that contains its center, however small it is.
    """
    x, y = cells.centers.unbind(1)
    x0, y0, x1, y1, label, flag = boxes[..., :6, None].unbind(2)  # (N, m, 1)
    sides = torch.stack([x - x0, y - y0, x1 - x, y1 - y])  # (4, N, m, P)
    inside, farthest = sides.amin(0) > 0, sides.amax(0)
    learned = (label >= 0) & (flag == 0)
    ignored = (inside & (label >= 0) & (flag > 0)).any(1)
    if cells.anchors is not None:
        row, between = _match(cells.anchors, boxes[..., :4], learned)
        return row, (ignored | between) & (row < 0)
    away = torch.maximum((x - (x0 + x1) / 2).abs(), (y - (y0 + y1) / 2).abs()) / cells.strides
    near = (away <= 0.5) | (inside & (away < CENTER_RADIUS))
    fits = (farthest > cells.limits[:, 0]) & (farthest <= cells.limits[:, 1])
    area = ((x1 - x0) * (y1 - y0)).expand_as(away)
    area, row = area.masked_fill(~(near & fits & learned), float("inf")).min(1)
    row = row.masked_fill(area == float("inf"), -1)
    return row, ignored & (row < 0)


def _match(anchors: Tensor, boxes: Tensor, learned: Tensor) -> tuple[Tensor, Tensor]:
    """As in RetinaNet, (N, P) each: the object of each anchor, which is the one with the largest IoU if that is at
    least _MATCH, or the largest of any anchor with some object; and which anchors are neither positive nor negative.

    boxes (N, m, 4); learned (N, m, 1): which of them are assigned at all.
    """
    iou = generalized_iou(anchors, boxes.unsqueeze(2))[0].masked_fill(~learned, 0)  # (N, m, P)
    best, row = iou.max(1)
    most = iou.amax(2, keepdim=True)
    matched = (best >= _MATCH) | ((iou == most) & (most > 0)).any(1)
    return row.masked_fill(~matched, -1), ~matched & (best >= _NO_MATCH)


def centerness(cells: Cells, boxes: Tensor) -> Tensor:
    """(N, P, 4) → (N, P): 1 for a cell at the center of its box, 0 at the edge (Tian et al. 2019)."""
    before, after = (cells.centers - boxes[..., :2]).clamp(min=0), (boxes[..., 2:] - cells.centers).clamp(min=0)
    ratio = torch.minimum(before, after) / torch.maximum(before, after).clamp(min=1e-6)
    return ratio.prod(-1).sqrt()


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
    """(…, 2) → (…). Not torch.prod, whose gradient synchronizes with the device, which a CUDA graph does not allow."""
    return sides[..., 0] * sides[..., 1]
