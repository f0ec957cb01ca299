"""The choice of the task, from the data and the network's output."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cnn_cli.data.dataset import CLASSIFICATION, DETECTION, SEGMENTATION
from cnn_cli.errors import UsageError
from cnn_cli.language.plan import Plan
from cnn_cli.tasks import (
    classification,
    classification_result,
    detection,
    detection_result,
    segmentation,
    segmentation_result,
)
from cnn_cli.tasks.base import Task, TaskResult


def task_for(plan: Plan, classes: tuple[str, ...], name: str = CLASSIFICATION) -> Task:
    """The task `name` of the data set, for these classes. UsageError if the network's output does not fit it."""
    if name == DETECTION:
        return detection.detection_task(plan, classes)
    _check_single(plan)
    if name == SEGMENTATION:
        return segmentation.segmentation_task(plan, classes)
    return classification.classification_task(plan, classes)


def task_of(plan: Plan) -> str:
    """The name of the task that a network is made for: scores and boxes, a map of scores, or one score per class."""
    if plan.detects:
        return DETECTION
    return SEGMENTATION if len(plan.output) == 3 else CLASSIFICATION


def training_task(
    plan: Plan, classes: tuple[str, ...], name: str, settings: Mapping[str, Any], targets: Tensor
) -> Task:
    """The task with the settings of its loss. targets: those of the training images."""
    if name == DETECTION:
        return detection.with_objective(detection.detection_task(plan, classes), settings)
    _check_single(plan)
    if name == SEGMENTATION:
        return segmentation.with_objective(segmentation.segmentation_task(plan, classes), settings, targets)
    return classification.with_objective(classification.classification_task(plan, classes), settings, targets)


def _check_single(plan: Plan) -> None:
    """UsageError for a network with several outputs, since the targets of each are undefined."""
    if plan.detects:
        raise UsageError(
            f"{plan.network} is a detector, but the data has no boxes; name a VOC, COCO or YOLO folder, shapes or "
            "digit-scenes"
        )
    if plan.named_outputs:
        names = list(plan.named_outputs)
        fix = f"name one, or write weights in the loss for auxiliary outputs: `outputs: {{{names[0]}: 1.0, …}}`"
        raise UsageError(f"{plan.network} has several outputs ({', '.join(names)}), but training needs one; {fix}")


def read_result(document: Mapping[str, Any]) -> TaskResult:
    """A result from eval.json."""
    if document.get("task") == DETECTION:
        return detection_result.read_result(document)
    if document.get("task") == SEGMENTATION:
        return segmentation_result.read_result(document)
    return classification_result.read_result(document)
