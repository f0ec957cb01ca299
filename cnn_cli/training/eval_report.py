"""Evaluation of a trained network on a data set: `cnn eval`, and the files that it writes."""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork, Metadata, restore
from cnn_cli.checkpoints.run_folder import BEST, LAST
from cnn_cli.data.dataset import Dataset
from cnn_cli.data.loading import load_for_evaluation, match_classes, select_split
from cnn_cli.data.preparation import PreparedData, PreparedSplit, prepare
from cnn_cli.errors import UsageError
from cnn_cli.files import make_folder, write_text
from cnn_cli.progress import progress_bar
from cnn_cli.settings import SETTINGS, requested_settings, values_of
from cnn_cli.tables import Table, counted
from cnn_cli.tasks.base import Measure, Task, TaskResult, document_of
from cnn_cli.tasks.classification import Classification
from cnn_cli.tasks.segmentation import Segmentation
from cnn_cli.tasks.selection import task_for, task_of
from cnn_cli.training import speedups
from cnn_cli.training.evaluation import Inference, evaluate, evaluate_at_original_size, run_over

SPLITS = ("test", "val", "train")


@dataclass(frozen=True)
class Evaluation:
    """A task's result and what was evaluated. `suffix` is that of file names, empty for the run's own test split.

    overfit: whether the validation images are the training images.
    """

    network: str
    data: str
    checkpoint: Path
    result: TaskResult
    suffix: str = ""
    notes: tuple[str, ...] = ()
    overfit: bool = False

    def document(self) -> dict[str, Any]:
        """The document of `cnn eval --json`."""
        return document_of(self.result, self.network, self.data, self.checkpoint)

    def text(self) -> str:
        head = f"{self.network} on {Path(self.data).name}, {self.result.split}: {counted(self.result.n, 'image')}"
        return f"{head}\n{self.result.text()}"

    def table(self) -> Table:
        return self.result.table()


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate. None means: the data of the training; test, else val, else train; the batch size of the
    training, which gives the same loss to the last digit; one worker per CPU.

    original_size: measure masks at their own sizes; tiles: and also predict them at these, in overlapping windows.
    UsageError for a split of another name.
    """

    data: str | None = None
    data_dir: Path | None = None
    split: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    original_size: bool = False
    tiles: bool = False

    def __post_init__(self) -> None:
        if self.split not in (None, *SPLITS):
            raise UsageError(f"--split must be test, val or train, not {self.split!r}")


@dataclass(frozen=True)
class Setup:
    """A trained network on a device, and a data set with a single split; `own` is the name of its training data."""

    network: nn.Module
    task: Task
    dataset: Dataset
    split: str
    inference: Inference
    workers: int | None
    own: str
    measures: tuple[Measure, ...] = ()

    def run(self, split: PreparedSplit) -> Iterator[tuple[Any, Tensor]]:
        """Outputs and targets, batch by batch, which are also added to all measures."""
        for outputs, targets in run_over(self.network, split, self.inference):
            for measure in self.measures:
                measure.add(outputs, targets)
            yield outputs, targets

    def prepare(self, loaded: LoadedNetwork) -> PreparedData:
        """The images resized to the network's input."""
        return prepare(self.dataset, loaded.preprocessing, self.inference.device, self.workers)


def evaluation_setup(loaded: LoadedNetwork, request: EvaluationRequest, device: torch.device) -> Setup:
    """The network, and its own data set or another whose classes have the same names."""
    assert loaded.metadata is not None and loaded.weights is not None
    metadata = loaded.metadata
    options = {"batch_size": request.batch_size, "workers": request.workers, "data": request.data}
    requested = values_of(requested_settings(options, os.environ))
    own = str(metadata.data.get("name", ""))
    if not (requested.get("data") or own):
        raise UsageError("these weights do not record a data set; name one with --data")
    dataset = load_for_evaluation(own, metadata.data, requested.get("data"), request.data_dir, task_of(loaded.plan))
    split_name = request.split or next((s for s in SPLITS if s in dataset.splits), "test")
    if split_name == "val" and "val" not in dataset.splits and metadata.overfit:
        reason = "this run was trained with --overfit, whose validation images are training images"
        raise UsageError(f"{dataset.name} has no val split; {reason}; evaluate --split train")
    chosen = select_split(dataset, split_name)
    classes = metadata.classes or dataset.classes  # a third-party file has none
    task = task_for(loaded.plan, classes, dataset.task)
    chosen, settings = match_classes(chosen, classes), _inference_settings(metadata)
    size = requested.get("batch_size") or int(metadata.data.get("batch_size", 64))
    inference = Inference(size, device, speedups.layout(loaded.plan, settings["fast"]), settings["tta"])
    network = speedups.prepare(restore(loaded).to(device), settings["fast"])
    return Setup(network, task, chosen, split_name, inference, requested.get("workers"), own)


def evaluate_network(loaded: LoadedNetwork, request: EvaluationRequest, device: torch.device) -> Evaluation:
    """Evaluate on the network's own data set, or on another whose classes have the same names."""
    setup = evaluation_setup(loaded, request, device)
    task, dataset, inference = setup.task, setup.dataset, setup.inference
    assert loaded.metadata is not None and loaded.weights is not None
    task = calibrated(task, loaded)
    if request.original_size or request.tiles:
        result = _at_original_size(setup.network, dataset, task, loaded, inference, request.tiles)
        notes = dataset.notes
    else:
        data = setup.prepare(loaded)
        split, notes = data.splits[setup.split], data.notes
        bar = _bar(math.ceil(len(split) / inference.batch_size))
        result = evaluate(setup.network, split, task, inference, lambda: next(bar, None))
        bar.close()
    if loaded.weights.name == LAST and not loaded.weights.with_name(BEST).is_file():
        notes += ("no epoch of this run is complete: these are the weights of an unfinished one",)
    suffix = _suffix(dataset.name, setup.split, setup.own)
    suffix += "-tiles" if request.tiles else "-original-size" if request.original_size else ""
    return Evaluation(loaded.plan.network, dataset.name, loaded.weights, result, suffix, notes)


def calibrated(task: Task, loaded: LoadedNetwork) -> Task:
    """The task with the temperature of the checkpoint, if it has one."""
    if isinstance(task, Classification | Segmentation) and loaded.metadata:
        return replace(task, temperature=loaded.metadata.temperature)
    return task


def _at_original_size(
    network: nn.Module, dataset: Dataset, task: Task, loaded: LoadedNetwork, inference: Inference, tiles: bool
) -> TaskResult:
    """The result on the only split of the data set. UsageError for other tasks than segmentation."""
    if not isinstance(task, Segmentation):
        raise UsageError(f"--{'tiles' if tiles else 'original-size'} is for segmentation; leave it out")
    ((name, split),) = dataset.splits.items()
    bar = _bar(len(split))
    result = evaluate_at_original_size(
        network, split, task, loaded.preprocessing, inference, tiles, lambda: next(bar, None)
    )
    bar.close()
    return replace(result, split=name, original_size=True)


def _bar(steps: int) -> Any:
    return progress_bar(range(steps), steps, "evaluating")


def write_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """Write eval.json, or `eval-….json` → its path."""
    make_folder(folder)
    document, path = evaluation.document(), folder / f"eval{evaluation.suffix}.json"
    finite = document | {"loss": document["loss"] if abs(document["loss"]) < float("inf") else None}
    write_text(path, json.dumps(finite, indent=2) + "\n")
    return path


def draw_evaluation(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Draw the task's pictures beside eval.json, with the same ending → their paths."""
    paths = []
    split = "the training images (--overfit)" if evaluation.overfit else evaluation.result.split
    title = f"{evaluation.network} on {Path(evaluation.data).name}, {split}"
    for name, draw in evaluation.result.pictures().items():
        paths.append(folder / f"{name}{evaluation.suffix}.png")
        draw(paths[-1], title)
    return paths


def _inference_settings(metadata: Metadata) -> dict[str, Any]:
    """The settings of evaluation in the run that trained the weights, so that metrics are equal to the last digit.

    Invalid values, which a third-party file may have, are ignored.
    """
    values: dict[str, Any] = {"fast": (), "tta": "none"}
    settings: Any = metadata.facts.get("settings")
    for name in values:
        with suppress(ValueError, TypeError, KeyError):
            values[name] = SETTINGS[name].kind.read(settings[name])
    return values


def _suffix(data: str, split_name: str, own: str) -> str:
    """Empty for the run's own test split; else the data and split, so that results do not overwrite each other."""
    if data == own:
        return "" if split_name == "test" else f"-{split_name}"
    return f"-{re.sub(r'[^A-Za-z0-9._-]', '_', Path(data).name)[:80]}-{split_name}"
