"""What a CUDA graph needs of a training step, tested without a GPU: that nothing in it waits for the device.

The profiler lists all operations of a step, those of the gradients included; the ones in WAITING read from the device.
(Fake tensors hide some of them: PyTorch computes other gradients for them, such as that of torch.prod.)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_page_layers import CASES
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cnn_cli.data.augmentation import Augmentation
from cnn_cli.language.registry import find
from cnn_cli.network.builder import build_plan
from cnn_cli.settings import SETTINGS
from cnn_cli.tasks.classification import classification_task
from cnn_cli.tasks.classification import with_objective as classification_objective
from cnn_cli.tasks.detection import detection_task
from cnn_cli.tasks.segmentation import segmentation_task
from cnn_cli.tasks.segmentation import with_objective as segmentation_objective

CPU = torch.device("cpu")
CLASSES = tuple("abcdef")
MOVES = Augmentation(flip="random", shift=2, cutout=8)
DEFAULTS = {name: field.default for name, field in SETTINGS.items()}


WAITING = {f"aten::{name}" for name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")}


def waits(call: Callable[[], Any]) -> set[str]:
    """The operations of a call that would wait for a GPU."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    return {event.name for event in profiled.events() or []} & WAITING


def step(network: str, task: Any, images: Tensor, targets: Tensor) -> None:
    """Augmentation of the targets, forward, loss, backward and the sums of the epoch."""
    totals, draws = task.totals(CPU), torch.zeros(len(images), 9, dtype=torch.int16)
    targets = task.move(targets, draws, MOVES)
    outputs = build_plan(find(network))(images)
    loss = task.objective(outputs, targets)
    loss.backward()
    task.add(totals, loss, outputs, targets)


def test_the_profiler_lists_what_waits() -> None:
    tensor = torch.rand(4, 2, requires_grad=True)
    assert waits(lambda: tensor.prod(-1).sum().backward()) == {"aten::_local_scalar_dense"}
    assert waits(lambda: tensor[tensor > 0.5]) == {"aten::nonzero"}


@pytest.mark.parametrize("chosen", [{}, {"label_smoothing": 0.1}, {"class_weights": "balanced"}])
def test_a_step_of_classification_waits_for_nothing(chosen: dict[str, Any]) -> None:
    labels = torch.arange(20) % 10
    task = classification_task(find("tiny-cnn"), tuple("0123456789"))
    assert not waits(
        lambda: step(
            "tiny-cnn", classification_objective(task, DEFAULTS | chosen, labels), torch.rand(20, 1, 28, 28), labels
        )
    )


@pytest.mark.parametrize("loss", ["cross-entropy", "focal", "dice", "focal+dice"])
def test_a_step_of_segmentation_waits_for_nothing(loss: str) -> None:
    masks = torch.randint(0, 7, (2, 64, 64), dtype=torch.uint8)
    task = segmentation_task(find("unet"), (*CLASSES, "g"))
    assert not waits(
        lambda: step(
            "unet", segmentation_objective(task, DEFAULTS | {"loss": loss}, masks), torch.rand(2, 3, 64, 64), masks
        )
    )


ANCHORS = """
net:
  input: [3, 64, 64]
  detects: {scores: cls, boxes: box, anchors: {sizes: [16, 24], ratios: [0.5, 1, 2]}}
  layers:
    body: {Conv2d: {out_channels: 8, kernel_size: 3, stride: 8, padding: 1}}
    cls: {Conv2d: {out_channels: 36, kernel_size: 1}}
    box: {from: body, Conv2d: {out_channels: 24, kernel_size: 1}}
"""
CENTERNESS = """
net:
  input: [3, 64, 64]
  detects: {scores: cls, boxes: box, centerness: near}
  layers:
    body: {Conv2d: {out_channels: 8, kernel_size: 3, stride: 8, padding: 1}}
    cls: {Conv2d: {out_channels: 6, kernel_size: 1}}
    box: {from: body, Conv2d: {out_channels: 4, kernel_size: 1}}
    near: {from: body, Conv2d: {out_channels: 1, kernel_size: 1}}
"""


@pytest.mark.parametrize("text", ["detector", ANCHORS, CENTERNESS], ids=["detector", "anchors", "centerness"])
def test_a_step_of_detection_waits_for_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(text)
    network = text if text == "detector" else str(tmp_path / "net.yaml")
    boxes = torch.tensor([[[4.0, 4, 20, 20, 1, 0, 0], [30, 8, 60, 50, 3, 0, 0]]]).repeat(2, 1, 1)
    assert not waits(lambda: step(network, detection_task(find(network), CLASSES), torch.rand(2, 3, 64, 64), boxes))


@pytest.mark.parametrize("layers", CASES, ids=lambda text: text.replace("\n", " ")[:60])
def test_a_layer_waits_for_nothing(layers: str, tmp_path: Path) -> None:
    body = "\n".join(f"    {line}" for line in layers.splitlines())
    (tmp_path / "net.yaml").write_text(f"net:\n  input: [4, 9, 8]\n  layers:\n{body}\n")
    module = build_plan(find(str(tmp_path / "net.yaml"))).train()
    assert not waits(lambda: module(torch.rand(2, 4, 9, 8, requires_grad=True)).sum().backward())
