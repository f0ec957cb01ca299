"""last.pt: where a run stands, to the step. Everything that exact resuming needs, as tensors and plain values."""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.errors import CnnError
from cnn_cli.files import write_bytes
from cnn_cli.training.evaluate import Result, sum_type
from cnn_cli.training.header import PREVIOUS
from cnn_cli.training.unpickle import unpickle


@dataclass
class State:
    """What changes while a network trains.

    `step` counts all steps done. The sums are those of the epoch under way (`loss` and `correct` stay on the device, so
    that no step waits for them). `history` has a row for each epoch that was trained and evaluated; `best` is what the
    weights in best.safetensors reached. `result` is the evaluation after the last epoch, while it is at hand.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    step: int = 0
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    correct: Tensor = field(default_factory=lambda: torch.zeros(()))
    seen: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: list[float] | None = None
    result: Result | None = None

    def __post_init__(self) -> None:
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.loss = torch.zeros((), dtype=sum_type(self.device), device=self.device)
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.seen, self.seconds = 0, 0.0

    def count(self, loss: Tensor, predictions: Tensor, labels: Tensor) -> None:
        """Add a step: its mean loss, its predictions."""
        self.step += 1
        self.seen += len(labels)
        self.loss += loss.detach().to(self.loss.dtype) * len(labels)
        self.correct += (predictions == labels).sum()

    def finite(self) -> bool:
        """Whether every weight is a finite number. Waits for the device."""
        flags = [t.isfinite().all() for t in self.network.state_dict().values() if t.is_floating_point()]
        return bool(torch.stack(flags).all()) if flags else True


_KEYS = {"about", "settings", "network", "optimizer", "step", "sums", "history", "best", "random"}


def save_last(path: Path, state: State, about: dict[str, Any], settings: dict[str, list[Any]]) -> None:
    """Write the state, whole or not at all; that of before stays as previous.pt.

    `settings` are {name: [value, source]}.
    """
    document = {
        "about": about,
        "settings": settings,
        "network": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "sums": {"loss": state.loss, "correct": state.correct, "seen": state.seen, "seconds": state.seconds},
        "history": state.history,
        "best": state.best,
        "random": _random_states(state.device),
    }
    buffer = BytesIO()  # first into memory: on a full disk torch.save raises what nobody can tell from a bug
    torch.save(document, buffer)
    write_bytes(path, buffer.getvalue(), keep=path.with_name(PREVIOUS))


def restore_last(document: dict[str, Any], state: State) -> None:
    """Put back all but the weights; the last thing to do before training goes on, since it sets the random numbers."""
    state.optimizer.load_state_dict(document["optimizer"])
    sums = document["sums"]
    state.loss, state.correct = (sums[k].to(state.device) for k in ("loss", "correct"))
    state.seen, state.seconds = sums["seen"], sums["seconds"]
    state.step, state.history, state.best = document["step"], document["history"], document["best"]
    torch.set_rng_state(document["random"]["cpu"])
    if (there := document["random"].get(state.device.type)) is not None and state.device.type != "cpu":
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
