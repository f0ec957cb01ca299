"""Non-maximum suppression: from the scores and boxes of all cells to the detections of an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 100  # detections of an image
_CANDIDATES = 1000  # of each scale before suppression, those with the highest scores
_LEAST_SCORE = 0.01
OVERLAP = 0.6  # the IoU of two detections of a class above which the one with the lower score is removed


@dataclass(frozen=True)
class ImageDetections:
    """The detections of an image, the highest score first: boxes (n, 4), labels (n,) int64, scores (n,), and the cells
    (n,) int64 that predicted them; on the CPU."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    cells: Tensor


def detections_of(
    scores: Tensor, boxes: Tensor, size: tuple[int, int], counts: Sequence[int], overlap: float = OVERLAP
) -> list[ImageDetections]:
    """(N, K, P) probabilities and (N, P, 4) boxes → the detections of each image, clipped to (H, W) pixels.

    counts: the number of cells of each scale, P in total.
    """
    height, width = size
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    return [_of_image(*image, counts, overlap) for image in zip(scores, boxes, strict=True)]


def _of_image(scores: Tensor, boxes: Tensor, counts: Sequence[int], overlap: float) -> ImageDetections:
    from torchvision.ops import batched_nms  # takes seconds to load, and only detectors need it

    parts, first = [], 0
    for part in torch.split(scores, list(counts), 1):
        best, place = part.flatten().topk(min(_CANDIDATES, part.numel()))
        parts.append((best, place // part.shape[1], place % part.shape[1] + first))
        first += part.shape[1]
    score, label, cell = (torch.cat(values) for values in zip(*parts, strict=True))
    box = boxes[cell]
    kept = ((score > _LEAST_SCORE) & (box[:, 2:] > box[:, :2]).all(1)).nonzero().flatten()
    score, label, box, cell = score[kept], label[kept], box[kept], cell[kept]
    best = batched_nms(box, score, label, overlap)[:MOST]
    return ImageDetections(box[best].cpu(), label[best].cpu(), score[best].cpu(), cell[best].cpu())
