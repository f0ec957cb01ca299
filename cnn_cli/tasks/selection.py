"""Which task a network is trained for: it follows from the data and from the network's output."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cnn_cli.language.plan import Plan
from cnn_cli.tasks import classification
from cnn_cli.tasks.base import Task, TaskResult


def task_for(plan: Plan, classes: tuple[str, ...]) -> Task:
    """The task for data with these classes. UsageError where the network's output does not suit it.

    Images with a class each make classification, the only task so far.
    """
    return classification.classification_task(plan, classes)


def training_task(plan: Plan, classes: tuple[str, ...], settings: Mapping[str, Any], targets: Tensor) -> Task:
    """The task with what the settings say of its objective. targets: those of the training images."""
    return classification.with_objective(classification.classification_task(plan, classes), settings, targets)


def read_result(document: Mapping[str, Any]) -> TaskResult:
    """A result from eval.json."""
    return classification.read_result(document)
