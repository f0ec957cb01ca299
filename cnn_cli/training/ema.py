"""The moving average of a network's weights, which generalizes better than any one of its steps."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move `average` towards `network` after step 1, 2, …: average = d·average + (1 − d)·network.

    d = min(decay, (1 + step) / (10 + step)), so that the random weights of the start are soon forgotten, as in
    TensorFlow's ExponentialMovingAverage. Statistics of BatchNorm are averaged alike; what is no fraction is copied.
    """
    mine: list[Tensor] = []
    theirs: list[Tensor] = []
    for a, b in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if a.is_floating_point():
            mine.append(a)
            theirs.append(b)
        else:
            a.copy_(b)
    torch._foreach_lerp_(mine, theirs, 1 - min(decay, (1 + step) / (10 + step)))
