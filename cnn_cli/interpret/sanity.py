"""Sanity checks of saliency maps: the same map of a network with random weights; deletion and insertion of pixels.

A map that hardly changes with random weights depends on the image rather than on what was learned (Adebayo et al.,
"Sanity Checks for Saliency Maps", 2018). With a good map the probability drops early when the most important pixels are
deleted, and rises early when they are inserted (Petsiuk, Das, Saenko, "RISE", 2018), compared to a random order.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.preprocessing import add_normalization
from cnn_cli.interpret.scores import Scores
from cnn_cli.network.builder import build_plan
from cnn_cli.pictures.image import Array

PARTS = 25  # steps of deletion and insertion
ORDERS = 8  # random orders in the baseline


@dataclass(frozen=True)
class Areas:
    """Areas under the curve of the class probability while pixels are deleted or inserted, from 0 to 1.

    Good maps have a small `deletion` and a large `insertion`, compared to random orders.
    """

    deletion: float
    insertion: float
    deletion_random: float
    insertion_random: float


def randomized(loaded: LoadedNetwork, seed: int = 0) -> Scores:
    """The same network, initialized from `seed`; the global generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = add_normalization(build_plan(loaded.plan), loaded.preprocessing)
    return Scores(network.eval(), loaded.plan).eval()


def rank_correlation(a: Array, b: Array) -> float | None:
    """Spearman's correlation of the absolute values of two maps; None if one of them is constant."""
    from scipy.stats import spearmanr

    first, second = (np.abs(m).ravel() for m in (a, b))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def areas(scores: nn.Module, pixels: Tensor, label: int, map: Tensor, seed: int = 0) -> Areas:
    """Deletion and insertion by the map (H, W) of an image (C, H, W) for class `label`, and by random orders.

    A deleted pixel has the mean color of the image.
    """
    generator = torch.Generator().manual_seed(seed)
    count = map.numel()
    orders = [map.cpu().flatten().argsort(descending=True, stable=True)]
    orders += [torch.randperm(count, generator=generator) for _ in range(ORDERS)]
    results = torch.tensor([_areas(scores, pixels, label, order) for order in orders])  # (1 + ORDERS, 2)
    own, chance = results[0].tolist(), results[1:].mean(0).tolist()
    return Areas(own[0], own[1], chance[0], chance[1])


@torch.no_grad()
def _areas(scores: nn.Module, pixels: Tensor, label: int, order: Tensor) -> tuple[float, float]:
    count = len(order)
    place = torch.empty(count, dtype=torch.long)
    place[order] = torch.arange(count)
    removed = torch.linspace(0, count, PARTS + 1).round().view(-1, 1)
    mask = (place < removed).view(-1, 1, *pixels.shape[-2:]).to(pixels.device)  # (PARTS + 1, 1, H, W)
    background = pixels.mean((1, 2), keepdim=True)
    areas = []
    for images in (torch.where(mask, background, pixels), torch.where(mask, pixels, background)):
        curve = torch.cat([scores(part) for part in torch.split(images, 16)]).softmax(1)[:, label]
        areas.append(float(torch.trapezoid(curve)) / PARTS)
    return areas[0], areas[1]
