"""last.pt: where a run stands, to the step. Everything that exact resuming needs, as tensors and plain values."""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.header import PREVIOUS
from cnn_cli.checkpoints.unpickle import unpickle
from cnn_cli.distributed.world import World
from cnn_cli.errors import CnnError
from cnn_cli.files import write_bytes
from cnn_cli.tasks.base import TaskResult
from cnn_cli.training.optimizer import Optimizer


@dataclass
class State:
    """What changes while a network trains.

    `step` counts all steps done, `start` those before the current epoch. `totals` are the task's sums over that epoch
    in this process, and `seen` counts its images; they stay on the device, in place, so that no step waits for them.
    `average` is the moving average of the weights, if there is one. `history` has a row for each epoch that was trained
    and evaluated; `best` is the rank of the weights in best.safetensors. `result` is the evaluation after the last
    epoch, while it is at hand.
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
    history: list[dict[str, Any]] = field(default_factory=list)
    best: list[float] | None = None
    result: TaskResult | None = None

    @property
    def result_network(self) -> nn.Module:
        """What is evaluated and kept."""
        return self.average or self.network

    def begin_epoch(self) -> None:
        self.start = self.step
        for total in self.totals.values():
            total.zero_()
        self.seen, self.seconds = 0, 0.0

    def finite(self) -> bool:
        """Whether every weight is a finite number. Waits for the device."""
        networks = [self.network, *([self.average] if self.average else [])]
        tensors = [t for n in networks for t in n.state_dict().values() if t.is_floating_point()]
        return bool(torch.stack([t.isfinite().all() for t in tensors]).all()) if tensors else True


_KEYS = {"about", "settings", "network", "average", "optimizer", "step", "start", "ranks", "history", "best"}


def save_last(path: Path, state: State, metadata: dict[str, Any], settings: dict[str, list[Any]], world: World) -> None:
    """Write the state, whole or not at all, in the first process; all must call it. That of before is previous.pt.

    settings: {name: [value, source]}. What each process has of its own, random numbers and sums, is kept by its rank.
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
    buffer = BytesIO()  # first into memory: on a full disk torch.save raises what nobody can tell from a bug
    torch.save(document, buffer)
    write_bytes(path, buffer.getvalue(), keep=path.with_name(PREVIOUS))


def restore_last(document: dict[str, Any], state: State, world: World) -> None:
    """Put back all but the weights; the last thing to do before training goes on, since it sets the random numbers."""
    state.optimizer.load_state_dict(document["optimizer"])
    own = document["ranks"][world.rank]
    for name, total in state.totals.items():
        total.copy_(own[name])
    state.seen, state.seconds = own["seen"], own["seconds"]
    state.step, state.start = document["step"], document["start"]
    state.history, state.best = document["history"], document["best"]
    torch.set_rng_state(own["random"]["cpu"])
    if (there := own["random"].get(state.device.type)) is not None and state.device.type != "cpu":
        torch.get_device_module(state.device).set_rng_state(there, state.device)


def read_last(path: Path) -> dict[str, Any]:
    """A last.pt, checked. CnnError for a file that is missing, damaged, something else, or wants to run code."""
    document = unpickle(path)
    if not isinstance(document, dict) or not set(document) >= _KEYS:
        raise CnnError(f"{path} is not a cnn checkpoint: it holds no state of a run; weights of others: --weights")
    return document


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states
