"""Evaluation: a network and a split → the task's result, every image counted exactly once."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from cnn_cli.data.augmentation import tta_views
from cnn_cli.data.batches import DEFAULT_LAYOUT, InputLayout, iterate_batches
from cnn_cli.data.dataset import Split
from cnn_cli.data.decoding import decode_image
from cnn_cli.data.masks import MaskFiles
from cnn_cli.data.preparation import PreparedSplit
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.distributed.world import ALONE, World
from cnn_cli.tasks.base import Task, TaskResult
from cnn_cli.tasks.dense_scores import scores_of_pixels
from cnn_cli.tasks.segmentation import Segmentation
from cnn_cli.tasks.segmentation_result import SegmentationResult


@dataclass(frozen=True)
class Inference:
    """Batch size, device and memory layout of evaluation. tta: average over views of each image, as tta_views()."""

    batch_size: int
    device: torch.device
    layout: InputLayout = DEFAULT_LAYOUT
    tta: str = "none"


@torch.no_grad()
def evaluate(
    network: nn.Module,
    split: PreparedSplit,
    task: Task,
    inference: Inference,
    after_batch: Callable[[], object] = lambda: None,
    world: World = ALONE,
) -> TaskResult:
    """Run the network over the split in evaluation mode; `after_batch` may raise to stop.

    Each process evaluates its shard of the images, and all call `after_batch` equally often. Synchronizes with the
    device once, at the end.
    """
    measure = task.measure(inference.device)
    in_common = math.ceil(len(split) // world.size / inference.batch_size)  # batches that every process has
    for i, (outputs, targets) in enumerate(run_over(network, split, inference, world)):
        measure.add(outputs, targets)
        if i < in_common:
            after_batch()
    return measure.result(split.name, world)


@torch.no_grad()
def run_over(
    network: nn.Module, split: PreparedSplit, inference: Inference, world: World = ALONE
) -> Iterator[tuple[Tensor, Tensor]]:
    """The outputs of the network in evaluation mode and the targets, batch by batch, in the order of the split."""
    network.eval()
    layout, averaged = inference.layout, inference.tta != "none"
    parts = torch.split(world.shard(torch.arange(len(split), device=split.device)), inference.batch_size)
    loaded = iterate_batches(split, parts, inference.device, replace(layout, size=None) if averaged else layout)
    for x, targets in loaded:
        yield _mean_over_views(network, x, inference) if averaged else network(x), targets


@torch.no_grad()
def evaluate_at_original_size(
    network: nn.Module,
    split: Split,
    task: Segmentation,
    preprocessing: Preprocessing,
    inference: Inference,
    tiles: bool,
    after_image: Callable[[], object] = lambda: None,
) -> SegmentationResult:
    """Measure masks at their own sizes, image by image; `tiles` as in scores_of_pixels(). The split is called ""."""
    network.eval()
    measure, targets = task.measure_of_scores(), split.targets
    assert isinstance(targets, MaskFiles | Tensor)
    run = partial(_mean_over_views, network, inference=inference)
    for i in range(len(split)):
        image = split.images[i]
        pixels = image if isinstance(image, Tensor) else decode_image(image, preprocessing.input[0])
        mask = targets.read(i) if isinstance(targets, MaskFiles) else targets[i]
        scores = scores_of_pixels(run, task, preprocessing, pixels, tiles, inference.device)
        measure.add(scores.unsqueeze(0), mask.unsqueeze(0))
        after_image()
    return measure.result("", ALONE)


def _mean_over_views(network: nn.Module, x: Tensor, inference: Inference) -> Tensor:
    """The mean output over views of whole images, which are then cropped and laid out as the network needs them."""
    height, width = inference.layout.size or x.shape[-2:]
    memory_format = torch.channels_last if inference.layout.channels_last else torch.contiguous_format
    outputs: list[Tensor] = [
        view.weight * view.restore(network(view.pixels[..., :height, :width].contiguous(memory_format=memory_format)))
        for view in tta_views(x, inference.tta)
    ]
    return sum(outputs[1:], outputs[0])
