"""Scores for every pixel of an image of any size, by a network of one input size.

The image is resized as in training and the scores are resized back to its own size; if resizing would crop, or with
`tiles`, a sliding window with overlap is used instead, and the scores of all windows are averaged.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_cli.data.preprocessing import Preprocessing, preprocess
from cnn_cli.tasks.segmentation import Segmentation, fitted

_OVERLAP = 0.25  # of a window's side
_BATCH = 8


@torch.no_grad()
def scores_of_pixels(
    network: Callable[[Tensor], Tensor],
    task: Segmentation,
    preprocessing: Preprocessing,
    pixels: Tensor,
    tiles: bool,
    device: torch.device,
) -> Tensor:
    """(c, h, w) bytes → (K, h, w) scores on the CPU. tiles: at the image's own resolution, instead of resized."""
    _, height, width = preprocessing.input
    h, w = pixels.shape[-2:]

    def run(batch: Tensor) -> Tensor:
        x = batch.to(device).float().div_(255)
        return task.scores(network(x), torch.Size((height, width))).cpu()

    if tiles or preprocessing.resize == "crop":
        scaled = pixels.unsqueeze(0)
        if not tiles:
            scale = max(height / h, width / w)
            size = max(height, round(h * scale)), max(width, round(w * scale))
            scaled = F.interpolate(scaled, size=size, mode="bilinear", antialias=True)
        scores = _windowed(run, preprocess(scaled, _unchanged(preprocessing, scaled)), height, width)
    else:
        scores = run(preprocess(pixels.unsqueeze(0), preprocessing))
        if preprocessing.resize == "pad":
            scores = _without_padding(scores, h, w)
    return fitted(scores, torch.Size((h, w)))[0]


def _unchanged(preprocessing: Preprocessing, images: Tensor) -> Preprocessing:
    """A preprocessing that only converts the channels."""
    return Preprocessing((preprocessing.input[0], images.shape[-2], images.shape[-1]))


def _without_padding(scores: Tensor, h: int, w: int) -> Tensor:
    """The part of the maps that shows the image, without the padding around it."""
    height, width = scores.shape[-2:]
    scale = min(height / h, width / w)
    rows, columns = max(1, round(h * scale)), max(1, round(w * scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    return scores[..., top : top + rows, left : left + columns]


def _windowed(run: Callable[[Tensor], Tensor], images: Tensor, height: int, width: int) -> Tensor:
    """(1, C, h, w) bytes → (1, K, h, w): the mean over the windows of (height, width) that contain a pixel."""
    h, w = images.shape[-2:]
    padded = F.pad(images, (0, max(0, width - w), 0, max(0, height - h)))
    places = [(y, x) for y in _starts(padded.shape[-2], height) for x in _starts(padded.shape[-1], width)]
    total, count = torch.zeros(0), torch.zeros(1, 1, *padded.shape[-2:])
    for first in range(0, len(places), _BATCH):
        part = places[first : first + _BATCH]
        scores = run(torch.cat([padded[..., y : y + height, x : x + width] for y, x in part]))
        if not len(total):
            total = torch.zeros(1, scores.shape[1], *padded.shape[-2:])
        for (y, x), own in zip(part, scores, strict=True):
            total[0, :, y : y + height, x : x + width] += own
            count[..., y : y + height, x : x + width] += 1
    return (total / count)[..., :h, :w]


def _starts(size: int, side: int) -> list[int]:
    """The starts of windows along an axis: evenly spaced, with at least the overlap."""
    steps = math.ceil((size - side) / max(1, side * (1 - _OVERLAP)))
    return [round(i * (size - side) / max(1, steps)) for i in range(steps + 1)]
