"""A module and a split → loss and confusion matrix, every image counted exactly once."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.data import WHOLE, Layout, Split, batches, views
from cnn_cli.distributed.world import ALONE, World
from cnn_cli.tasks.loss import Loss
from cnn_cli.tasks.metrics import confusion, measures


@dataclass(frozen=True)
class Result:
    """How a network did on a split. `matrix` has a row for each true class and a column for each predicted one."""

    split: str
    loss: float
    matrix: list[list[int]]

    @property
    def n(self) -> int:
        return sum(map(sum, self.matrix))

    @property
    def accuracy(self) -> float:
        return sum(self.matrix[i][i] for i in range(len(self.matrix))) / self.n if self.n else 0.0

    def document(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """What `cnn eval --json` prints, as far as the result knows it."""
        numbers = measures(self.matrix, classes)
        return {
            "split": self.split,
            "n": numbers.pop("n"),
            "loss": self.loss,
            **numbers,
            "confusion_matrix": self.matrix,
        }


@torch.no_grad()
def evaluate(
    network: nn.Module,
    split: Split,
    loss: Loss,
    classes: int,
    batch_size: int,
    device: torch.device,
    after_batch: Callable[[], object] = lambda: None,
    layout: Layout = WHOLE,
    tta: str = "none",
    world: World = ALONE,
) -> Result:
    """Run the network over the split in evaluation mode; `after_batch` may raise to stop.

    tta: the outputs are the mean over views of each image, as data.views() has them. The mean loss weighs every image
    alike, whatever the size of the last batch, and among several processes each image is counted by exactly one, and
    all call `after_batch` equally often. Waits for the device once, at the end.
    """
    network.eval()
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    total = torch.zeros((), dtype=sum_type(device), device=device)
    parts = torch.split(world.shard(torch.arange(len(split), device=split.home)), batch_size)
    together = math.ceil(len(split) // world.size / batch_size)  # batches that every process has
    loaded = batches(split, parts, device, layout if tta == "none" else replace(layout, size=None))
    for i, (x, y) in enumerate(loaded):
        outputs = network(x) if tta == "none" else _mean_over_views(network, x, layout, tta)
        total += loss(outputs, y).to(total.dtype) * len(y)
        matrix += confusion(y, loss.predictions(outputs), classes)
        if i < together:
            after_batch()
    world.sum(matrix, total)
    return Result(split.name, total.item() / max(1, len(split)), matrix.tolist())


def _mean_over_views(network: nn.Module, x: Tensor, layout: Layout, tta: str) -> Tensor:
    """The outputs for views of whole images, each then cut and laid as the network has it."""
    height, width = layout.size or x.shape[-2:]
    form = torch.channels_last if layout.channels_last else torch.contiguous_format
    outputs: list[Tensor] = [
        weight * network(view[..., :height, :width].contiguous(memory_format=form)) for view, weight in views(x, tta)
    ]
    return sum(outputs[1:], outputs[0])


def sum_type(device: torch.device) -> torch.dtype:
    """What sums are kept in: double precision, which Apple's GPUs have not."""
    return torch.float32 if device.type == "mps" else torch.float64
