"""Optimizers and learning-rate schedules, by name. A learning rate is a pure function of the step: nothing to save."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def make_optimizer(network: nn.Module, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """PyTorch's own class over what is not frozen, with PyTorch's own defaults for what is not a setting."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    lr, decay = settings["lr"], settings["weight_decay"]
    if settings["optimizer"] == "sgd":
        momentum, nesterov = settings["momentum"], settings["nesterov"]
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    if settings["optimizer"] == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
    return torch.optim.Adam(parameters, lr=lr, weight_decay=decay)


def learning_rate(step: int, total: int, steps: int, settings: Mapping[str, Any]) -> float:
    """The learning rate of step 0, 1, …, total−1, of which `steps` make an epoch.

    cosine: from lr towards 0 in half a cosine over the whole run (PyTorch's CosineAnnealingLR with T_max=total, in its
    closed form). onecycle: PyTorch's OneCycleLR with its defaults, momentum apart: from lr/25 up to lr within 30 % of
    the run, then down to lr/250,000. step: multiplied by gamma after every step_size epochs (PyTorch's StepLR).
    """
    lr: float = settings["lr"]
    match settings["schedule"]:
        case "cosine":
            return lr * (1 + math.cos(math.pi * step / total)) / 2
        case "onecycle":
            return _one_cycle(step, total, lr)
        case "step":
            for _ in range(int(step // (settings["step_size"] * steps))):
                lr *= settings["gamma"]
    return lr


def _one_cycle(step: int, total: int, highest: float) -> float:
    peak, last = 0.3 * total - 1, total - 1
    start, lowest = highest / 25, highest / 25 / 1e4
    if step <= peak:
        return _between(start, highest, step / peak)
    return _between(highest, lowest, (step - peak) / (last - peak))


def _between(start: float, end: float, part: float) -> float:
    """Half a cosine from start (part 0) to end (part 1)."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))
