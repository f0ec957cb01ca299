"""Moving averages of a network's weights over the steps of training."""

import torch
from torch import Tensor, nn

_LOOK_EVERY = 5  # steps


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move `average` towards `network` after step 1, 2, …: average = d·average + (1 − d)·network.

    d = min(decay, (1 + step) / (10 + step)), so that the initial weights soon have no influence, as in TensorFlow's
    ExponentialMovingAverage. BatchNorm statistics are averaged too; integers are copied.
    """
    mine, theirs = _fractions(average, network)
    torch._foreach_lerp_(mine, theirs, 1 - min(decay, (1 + step) / (10 + step)))


@torch.no_grad()
def look_ahead(slow: nn.Module, network: nn.Module, decay: float, step: int, total: int) -> None:
    """After every fifth step of 1, …, total: slow = d·slow + (1 − d)·network, and the network continues from there.

    d = decay⁵ · (step/total)³: no average at first, a long one at the end. Lookahead (Zhang et al., arXiv:1907.08610)
    as in cifar10-airbench (Jordan, arXiv:2404.00498). BatchNorm statistics are averaged too.
    """
    if step % _LOOK_EVERY:
        return
    mine, theirs = _fractions(slow, network)
    torch._foreach_lerp_(mine, theirs, 1 - decay**_LOOK_EVERY * (step / total) ** 3)
    torch._foreach_copy_(theirs, mine)


def _fractions(average: nn.Module, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The floating-point tensors of both; integers are copied into `average`."""
    mine: list[Tensor] = []
    theirs: list[Tensor] = []
    for a, b in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if a.is_floating_point():
            mine.append(a)
            theirs.append(b)
        else:
            a.copy_(b)
    return mine, theirs
