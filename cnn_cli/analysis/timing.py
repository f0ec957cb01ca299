"""`cnn summary --time`: the forward and backward time of each layer, measured on the device.

Every layer runs alone on inputs of its sizes; its time is the median of several runs after a warm-up. What layers gain
or lose by running one after the other (caches, overlap) shows in the time of the whole network, next to their sum.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.analysis.memory import training
from cnn_cli.device import describe, free_memory
from cnn_cli.errors import CnnError
from cnn_cli.language.plan import Plan
from cnn_cli.network.builder import build_plan
from cnn_cli.network.modules import Again

WARM_UP, RUNS, SECONDS = 3, 15, 0.5  # runs before, runs at most, and when to stop (after three)
MOST = 0.8  # of the free memory


@dataclass(frozen=True)
class Timing:
    """Milliseconds (forward, backward) by row and of the whole network, and how they were measured."""

    rows: dict[str, tuple[float, float]]
    network: tuple[float, float]
    batch: int
    device: str

    def folded(self, depth: int | None) -> "Timing":
        """Sums over the rows that `--depth` folds into one."""
        if depth is None:
            return self
        sums: dict[str, tuple[float, float]] = {}
        for name, (forward, backward) in self.rows.items():
            group = ".".join(name.split(".")[:depth])
            before = sums.get(group, (0.0, 0.0))
            sums[group] = (before[0] + forward, before[1] + backward)
        return replace(self, rows=sums)

    def text(self) -> str:
        forward, backward = self.network
        return (
            f"Time: batch of {self.batch} on {self.device}, each layer run alone, median of up to {RUNS} runs; "
            f"the whole network: {forward:.3g} ms forward, {backward:.3g} ms backward."
        )


def measure_times(plan: Plan, device: torch.device, batch: int = 1) -> Timing:
    """Time every layer of a newly built network on `device`; CnnError if that has too little memory."""
    need = training(plan, batch, "sgd").total
    if need > MOST * free_memory(device):
        raise CnnError(
            f"timing {plan.network} needs about {need / 1e9:.1f} GB on {device}; choose a smaller --batch-size"
        )
    torch.manual_seed(0)
    network = build_plan(plan).to(device).train()
    images = torch.rand(batch, *plan.input, device=device)
    inputs = _inputs(network, images)
    rows = {}
    for layer in plan.layers:
        if layer.name in inputs:
            rows[layer.name] = _timed(network.get_submodule(layer.name), inputs.pop(layer.name), device)
    return Timing(rows, _timed(network, [images], device), batch, describe(device))


def _inputs(network: nn.Module, images: Tensor) -> dict[str, list[Tensor]]:
    """The inputs of each module, by its name."""
    arguments: dict[str, list[Tensor]] = {}

    def record(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: arguments.__setitem__(name, [i.detach() for i in inputs])

    with ExitStack() as hooks, torch.no_grad():
        for name, module in network.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(record(name)))
        network(images)
    return arguments


def _timed(module: nn.Module, inputs: list[Tensor], device: torch.device) -> tuple[float, float]:
    """Median milliseconds of a forward and of a backward pass."""
    leaves = [i.requires_grad_(i.is_floating_point()) for i in (t.detach() for t in inputs)]
    wanted = [*leaves, *(module.shared if isinstance(module, Again) else module).parameters()]
    forward, backward = [], []
    end = time.perf_counter() + SECONDS
    for run in range(WARM_UP + RUNS):
        if run >= WARM_UP + 3 and time.perf_counter() > end:
            break
        start = _now(device)
        output = module(*leaves)
        middle = _now(device)
        results = list(output.values()) if isinstance(output, dict) else output
        results = [results] if isinstance(results, Tensor) else list(results)
        torch.autograd.grad(results, wanted, [torch.ones_like(r) for r in results], allow_unused=True)
        forward.append(middle - start)
        backward.append(_now(device) - middle)
    return 1000 * median(forward[WARM_UP:]), 1000 * median(backward[WARM_UP:])


def _now(device: torch.device) -> float:
    """The time in seconds when the device has finished all work so far."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
