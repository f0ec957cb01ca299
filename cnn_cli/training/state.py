"""The state of a run: everything that an exact resume at any step needs, as tensors and plain values."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.run_folder import LogRow
from cnn_cli.checkpoints.run_state import write_state
from cnn_cli.distributed.world import World
from cnn_cli.tasks.base import TaskResult
from cnn_cli.training.optimizer import Optimizer


@dataclass
class State:
    """Everything that changes while a network is trained.

    `step` counts all steps done, `start` those before the current epoch. `totals` are the task's sums over that epoch
    in this process, on the device, so that no step synchronizes with it, and `seen` counts its images. `average` is the
    moving average of the weights, if there is one. `history` has a row for each epoch that was trained and evaluated;
    `best` is the rank of the weights in best.safetensors. `result` is the evaluation after the last epoch, if it was in
    this process.
    """

    network: nn.Module
    optimizer: Optimizer
    device: torch.device
    totals: dict[str, Tensor]
    average: nn.Module | None = None
    step: int = 0
    start: int = 0
    seen: int = 0
    seconds: float = 0.0
    history: list[LogRow] = field(default_factory=list)
    best: list[float] | None = None
    result: TaskResult | None = None

    @property
    def result_network(self) -> nn.Module:
        """The network that is evaluated and saved as the best: the average, if there is one."""
        return self.average or self.network

    def begin_epoch(self) -> None:
        self.start = self.step
        for total in self.totals.values():
            total.zero_()
        self.seen, self.seconds = 0, 0.0

    def finite(self) -> bool:
        """Whether every weight is a finite number. Synchronizes with the device."""
        networks = [self.network, *([self.average] if self.average else [])]
        tensors = [t for n in networks for t in n.state_dict().values() if t.is_floating_point()]
        return bool(torch.stack([t.isfinite().all() for t in tensors]).all()) if tensors else True


def save_state(
    path: Path, state: State, metadata: dict[str, Any], settings: dict[str, list[Any]], world: World
) -> None:
    """Write last.pt in the main process; all must call it. Random numbers and totals are kept per rank.

    settings: {name: [value, source]}.
    """
    totals = {name: total.cpu() for name, total in state.totals.items()}
    own = totals | {"seen": state.seen, "seconds": state.seconds}
    ranks = world.gather(own | {"random": _random_states(state.device)})
    if not world.is_main:
        return
    document = {
        "about": metadata,
        "settings": settings,
        "network": state.network.state_dict(),
        "average": state.average.state_dict() if state.average else None,
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "start": state.start,
        "ranks": ranks,
        "history": state.history,
        "best": state.best,
    }
    write_state(path, document)


def restore_state(document: dict[str, Any], state: State, world: World) -> None:
    """Restore all but the weights. The last step before training resumes, as it sets random number generators."""
    state.optimizer.load_state_dict(document["optimizer"])
    own = document["ranks"][world.rank]
    for name, total in state.totals.items():
        total.copy_(own.get(name, torch.tensor(torch.nan)))  # earlier versions did not sum it
    state.seen, state.seconds = own["seen"], own["seconds"]
    state.step, state.start = document["step"], document["start"]
    state.history, state.best = document["history"], document["best"]
    torch.set_rng_state(own["random"]["cpu"])
    if state.device.type != "cpu" and state.device.type in own["random"]:
        torch.get_device_module(state.device).set_rng_state(own["random"][state.device.type], state.device)


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states
