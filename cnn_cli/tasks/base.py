"""The interface of tasks. A task is one file of this folder; the rest of the tool knows only this interface.

The training loop, evaluation, resuming, distributed training, seeds and checkpoints ask a task for the loss, the weight
of a target, the sums to accumulate, and the metric that chooses the best epoch.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cnn_cli.data.augmentation import Augmentation
from cnn_cli.distributed.world import World
from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Plan
from cnn_cli.tables import Table

Outputs = Tensor | Mapping[str, Tensor]  # one output, or in training the main and the auxiliary ones by name
Draw = Callable[[Path, str], None]  # draws a picture into a file, under a title


class TaskResult(Protocol):
    """The result of a network on a split."""

    @property
    def metric(self) -> str:
        """The name of the task's metric, the key of `score` in documents."""

    @property
    def split(self) -> str: ...

    @property
    def loss(self) -> float: ...

    @property
    def n(self) -> int:
        """The number of images."""

    @property
    def score(self) -> float:
        """The task's metric; higher is better."""

    def document(self) -> dict[str, Any]:
        """The figures under the stable keys of eval.json."""

    def text(self) -> str: ...

    def table(self) -> Table: ...

    def headline(self) -> str:
        """The figures on one line."""

    def pictures(self) -> dict[str, Draw]:
        """Pictures of the result by the names of their files."""


class Measure(Protocol):
    """Accumulates the sums that a result is computed from over a split, without synchronizing with the device."""

    def add(self, outputs: Any, targets: Tensor) -> None:
        """Add a batch. outputs: the main output, a tensor; of a detector, all of them by name."""

    def result(self, split: str, world: World) -> TaskResult:
        """The result over all processes, each image counted once. Every process must call it."""


class Task(Protocol):
    """A task as training and evaluation use it.

    The epoch with the highest metric on the validation split is the best.
    """

    @property
    def metric(self) -> str:
        """The key of its metric, in [0, 1], in metrics.jsonl (`val_accuracy`) and eval.json."""

    @property
    def criterion(self) -> str:
        """The training loss, in words."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def objective(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """The training loss: a mean over the batch."""

    def weight(self, targets: Tensor) -> float:
        """The denominator of that mean, so that the means of parts of a batch can be combined."""

    def move(self, targets: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
        """The targets of a batch after the augmentation drawn for their images, as augment() takes it."""

    def totals(self, device: torch.device) -> dict[str, Tensor]:
        """The sums over the training images of an epoch, all zero; they are accumulated over batches and processes."""

    def add(self, totals: Mapping[str, Tensor], loss: Tensor, outputs: Outputs, targets: Tensor) -> None:
        """Add a training step in place, without synchronizing with the device. loss: that of objective()."""

    def training_figures(self, totals: Mapping[str, Tensor], seen: int) -> tuple[float, float | None]:
        """The mean loss and the metric, None if unknown, over `seen` training images. Synchronizes with the device."""

    def plain_loss(self, totals: Mapping[str, Tensor], seen: int) -> float | None:
        """The mean training loss as evaluation computes it; None if that is the one of training_figures()."""

    def measure(self, device: torch.device) -> Measure:
        """An empty measure."""


def last_type(plan: Plan, output: str) -> str:
    """The type of the layer that computes an output: the network's, or that of the outermost child of this name."""
    if not output or (plan.last and plan.last.name.split(".")[0] == output):
        return plan.last.type if plan.last else ""
    return next((layer.type for layer in reversed(plan.layers) if layer.name.split(".")[0] == output), "")


def rank(score: float, loss: float | None) -> list[float]:
    """A rank, higher is better: by the metric, and if that is equal by the loss. A loss that is not finite is last."""
    finite = loss is not None and abs(loss) < float("inf")
    return [float(finite), score, -loss if finite and loss is not None else 0.0]


def log_of(probabilities: Tensor) -> Tensor:
    """The logarithm of probabilities, of which 0 is replaced by the smallest normal number to keep losses finite."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def class_weight_values(chosen: tuple[float, ...], classes: int, device: torch.device) -> Tensor:
    """(classes,) float32: the given weights. UsageError for another number of them, or if all are 0."""
    if len(chosen) != classes:
        raise UsageError(f"class_weights has {len(chosen)} values, but there are {classes} classes; give one per class")
    if not any(chosen):
        raise UsageError("class_weights are all 0; at least one must be above 0")
    return torch.tensor(chosen, dtype=torch.float32, device=device)


def largest_confusions(matrix: Sequence[Sequence[int]], most: int) -> list[tuple[int, int, int]]:
    """(count, true class, predicted class) of the largest cells off the diagonal of a confusion matrix."""
    cells = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
    return sorted(cells, key=lambda cell: (-cell[0], cell[1:]))[:most]


def sum_type(device: torch.device) -> torch.dtype:
    """The type of sums: double precision, except on Apple's GPUs, which do not have it."""
    return torch.float32 if device.type == "mps" else torch.float64


def document_of(result: TaskResult, network: str, data: str, checkpoint: Path) -> dict[str, Any]:
    """The document of `cnn eval --json` and eval.json."""
    return {"network": network, "data": data, **result.document(), "checkpoint": str(checkpoint.resolve())}
