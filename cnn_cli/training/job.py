"""A training job: everything that is fixed during training, and the order, batches and augmentation of each epoch."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import Metadata
from cnn_cli.checkpoints.run_folder import LogRow
from cnn_cli.data.augmentation import Augmentation, augment, draw_augmentations
from cnn_cli.data.batches import InputLayout, balanced_order, epoch_order, iterate_batches
from cnn_cli.data.preparation import PreparedData
from cnn_cli.distributed.world import World
from cnn_cli.language.freezing import has_frozen_statistics
from cnn_cli.language.plan import Plan
from cnn_cli.settings import Setting, values_of
from cnn_cli.tasks.base import Task, rank
from cnn_cli.training.evaluation import Inference
from cnn_cli.training.initialization import IMAGES
from cnn_cli.training.state import State


@dataclass(frozen=True)
class Job:
    """Everything that does not change while a network is trained."""

    plan: Plan
    settings: dict[str, Setting]
    data: PreparedData
    task: Task
    metadata: Metadata
    run: Path
    layout: InputLayout
    device: torch.device
    world: World

    def __getitem__(self, name: str) -> Any:
        """The value of a setting; None if it does not apply to this run."""
        return self.settings[name].value if name in self.settings else None

    @property
    def values(self) -> dict[str, Any]:
        return values_of(self.settings)

    @property
    def training_loss_only(self) -> list[str]:
        """Terms that the training loss includes and the loss of evaluation does not."""
        settings = {
            "label_smoothing": "label smoothing",
            "class_weights": "class weights",
            "mixup": "mixup",
            "cutmix": "CutMix",
        }
        other = [self["loss"]] if self["loss"] not in (None, "cross-entropy") else []
        heads = ["auxiliary outputs"] if len(self.plan.outputs or ()) > 1 else []
        return [title for name, title in settings.items() if self[name]] + other + heads

    @property
    def freeze(self) -> tuple[str, ...]:
        """Patterns of the frozen layers and parameters."""
        return tuple(self["freeze"] or ())

    @cached_property
    def images(self) -> int:
        """Images per epoch: all, except a last batch that is too small for BatchNorm."""
        n = len(self.data.splits["train"])
        rest = n % self["batch_size"]
        return n - rest if 0 < rest < 2 * self.world.size and needs_two(self.plan, self.freeze) else n

    @cached_property
    def steps(self) -> int:
        """Steps per epoch."""
        return math.ceil(self.images / int(self["batch_size"]))

    @cached_property
    def total(self) -> int:
        """Total number of steps; the last epoch may be a fraction of one."""
        return max(1, round(float(self["epochs"]) * self.steps))

    def epoch(self, state: State) -> int:
        """The current epoch, from 1; it ends with its evaluation."""
        return math.ceil(state.step / self.steps) if state.step > state.start else state.step // self.steps + 1

    def place(self, state: State) -> tuple[int, int]:
        """The current epoch and how many of its steps are done."""
        epoch = self.epoch(state)
        return epoch, state.step - (epoch - 1) * self.steps

    def done(self, state: State) -> bool:
        """Whether training is complete: all epochs are done, or `patience` of them without improvement."""
        return state.step == state.start and (state.step >= self.total or self.stale(state.history))

    def stale(self, history: Sequence[LogRow]) -> bool:
        """Whether `patience` epochs have passed since the best one."""
        if not self["patience"] or not history:
            return False
        ranks = [rank(row[f"val_{self.task.metric}"], row["val_loss"]) for row in history]
        return len(ranks) - 1 - ranks.index(max(ranks)) >= int(self["patience"])

    @property
    def evaluated(self) -> str:
        """The split that is evaluated after every epoch: val, else test, which is never used to choose the best."""
        return next((name for name in ("val", "test") if name in self.data.splits), "")

    @property
    def inference(self) -> Inference:
        return Inference(self["batch_size"], self.device, self.layout, self["tta"])

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation.from_settings(self.values, self.metadata.preprocessing.mean)

    def sample(self) -> Iterator[Tensor]:
        """Batches of a sample of the training images, evenly spaced, uncropped and in [0, 1]."""
        split = self.data.splits["train"]
        index = torch.arange(0, len(split), max(1, len(split) // IMAGES), device=split.device)[:IMAGES]
        return (x for x, _ in iterate_batches(split, torch.split(index, 500), self.device))

    def order(self, epoch: int) -> Tensor:
        """(images,) the indices of an epoch in their order, on the device that holds the images."""
        split = self.data.splits["train"]
        if self["balanced_sampling"]:
            order = balanced_order(split.targets, self["seed"], epoch)
        else:
            order = epoch_order(len(split), self["seed"], epoch, self["shuffle"])
        return order[: self.images].to(split.device)

    def batches(self, epoch: int, first: int) -> list[tuple[Tensor, float]]:
        """The batches of an epoch from number `first` on: indices, and the weight of their loss (`_shares`)."""
        count = min(self.steps, self.total - (epoch - 1) * self.steps)  # the last epoch may be a fraction of one
        return list(self._shares(torch.split(self.order(epoch), self["batch_size"])[first:count], epoch))

    def draws(self, epoch: int) -> Tensor:
        """The augmentation of each training image in an epoch, as draw_augmentations() returns it."""
        height, width = self.plan.input[1:]
        return draw_augmentations(
            len(self.data.splits["train"]), self["seed"], epoch, self.augmentation, (height, width)
        )

    def augment(self, epoch: int) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None:
        """The function that augments a batch, (images, targets, indices) → images, targets; None without
        augmentation."""
        if not self.augmentation:
            return None
        table = self.draws(epoch).to(self.device)
        return lambda images, targets, index: self.moved(images, targets, table[index])

    def moved(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """A batch of bytes and its targets, augmented by the same draws."""
        return augment(images, draws, self.augmentation), self.task.move(targets, draws, self.augmentation)

    def _shares(self, parts: Sequence[Tensor], epoch: int) -> Iterator[tuple[Tensor, float]]:
        """This process's part of each batch, and the weight of its mean loss in the mean over all processes."""
        if self.world.size == 1:
            yield from ((batch, 1.0) for batch in parts)
            return
        targets = self.data.splits["train"].targets
        draws = self.draws(epoch).to(targets.device) if self.augmentation else None
        for batch in parts:
            batch_targets = targets[batch.to(targets.device)]
            if draws is not None:
                batch_targets = self.task.move(batch_targets, draws[batch.to(targets.device)], self.augmentation)
            weight, total = (self.task.weight(t) for t in (self.world.shard(batch_targets), batch_targets))
            if weight:
                yield self.world.shard(batch), weight * self.world.size / total
            else:  # every process takes every step: this one with an image of weight 0
                weights = [self.task.weight(target) for target in torch.split(batch_targets, 1)]
                yield batch[weights.index(max(weights))].unsqueeze(0), 0.0


def needs_two(plan: Plan, freeze: Sequence[str]) -> bool:
    """Whether some BatchNorm gets one value per channel and image: a single image has no variance."""
    norms = [a for a in plan.layers if "batch statistics" in a.rule.traits and not has_frozen_statistics(a, freeze)]
    return any(math.prod(layer.output_shape[1:]) == 1 for layer in norms)
