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
from cnn_cli.training.evaluate import Result, sum_type
from cnn_cli.training.optimizer import Optimizer


@dataclass
class State:
    """What changes while a network trains.

    `step` counts all steps done, `start` those before the epoch under way. The sums are those of that epoch in this
    process; `loss` and `correct` stay on the device, so that no step waits for them, and in their place. `average` is
    the moving average of the network, where there is one. `history` has a row for each epoch that was trained and
    evaluated; `best` is what the weights in best.safetensors reached. `result` is the evaluation after the last epoch,
    while it is at hand.
    """

    network: nn.Module
    optimizer: Optimizer
    device: torch.device
    average: nn.Module | None = None
    step: int = 0
    start: int = 0
    loss: Tensor = field(init=False)
    correct: Tensor = field(init=False)
    seen: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: list[float] | None = None
    result: Result | None = None

    def __post_init__(self) -> None:
        self.loss = torch.zeros((), dtype=sum_type(self.device), device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)

    @property
    def result_network(self) -> nn.Module:
        """What is evaluated and kept."""
        return self.average or self.network

    def begin_epoch(self) -> None:
        self.start = self.step
        self.loss.zero_()
        self.correct.zero_()
        self.seen, self.seconds = 0, 0.0

    def count(self, loss: Tensor, predictions: Tensor, labels: Tensor, counts: bool = True) -> None:
        """Add a step: its mean loss, its predictions. counts: False for images that only stand in for none."""
        self.step += 1
        if not counts:
            return
        self.seen += len(labels)
        self.loss += loss.detach().to(self.loss.dtype) * len(labels)
        self.correct += (predictions == labels).sum()

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
    own = {"loss": state.loss.cpu(), "correct": state.correct.cpu(), "seen": state.seen, "seconds": state.seconds}
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
    state.loss.copy_(own["loss"])
    state.correct.copy_(own["correct"])
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
