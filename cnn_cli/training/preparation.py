"""From settings and data to a job and its initial state, with all checks that are possible before training."""

import copy
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from cnn_cli.analysis.memory import COPIES
from cnn_cli.checkpoints import transfer
from cnn_cli.checkpoints.checkpoint import Metadata
from cnn_cli.data.dataset import Dataset
from cnn_cli.data.loading import split_dataset
from cnn_cli.data.preparation import prepare
from cnn_cli.data.preprocessing import add_normalization
from cnn_cli.data.unreadable import hint_at_skipping
from cnn_cli.device import free_memory, keep_freed_memory, pick
from cnn_cli.distributed.world import World
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.language.freezing import disable_gradients, trainable_params
from cnn_cli.language.plan import Plan
from cnn_cli.network.builder import build_plan
from cnn_cli.settings import Setting, values_of
from cnn_cli.tables import counted
from cnn_cli.tasks.selection import task_for, training_task
from cnn_cli.training import speedups
from cnn_cli.training.initialization import initialize
from cnn_cli.training.job import Job, needs_two
from cnn_cli.training.optimizer import make_optimizer
from cnn_cli.training.shared_folder import SharedFolder
from cnn_cli.training.state import State


def choose_device(name: str, deterministic: bool, world: World, threads: int | None = None) -> torch.device:
    """The device of this process, with this number of CPU threads."""
    if threads is not None and threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")
    if threads:
        torch.set_num_threads(threads)
    if deterministic:  # before anything runs on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    device = pick(name)
    if world.size > 1 and device.type == "cuda":
        if ":" in name:
            raise UsageError(
                f"--device {name} is for a single process; with --device cuda, each process takes its own GPU"
            )
        device = torch.device("cuda", world.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


def settle(settings: dict[str, Setting], device: torch.device) -> dict[str, Setting]:
    """The settings with `auto` replaced by its value for this device, so that the run shows it and resumes with it."""
    precision = settings["precision"]._replace(value=speedups.chosen_precision(settings["precision"].value, device))
    fast = settings["fast"]._replace(value=speedups.chosen(settings["fast"].value, device))
    return settings | {"precision": precision, "fast": fast}


def make_job(
    plan: Plan,
    settings: dict[str, Setting],
    metadata: Metadata,
    dataset: Dataset,
    device: torch.device,
    folder: SharedFolder,
) -> Job:
    """Prepare the data, choose the task, and check everything that would otherwise fail at the first step."""
    values, world = values_of(settings), folder.world
    if device.type == "cpu" and "keep-memory" in values["fast"]:
        keep_freed_memory()
    task_for(plan, dataset.classes, dataset.task)
    _check_memory(plan, values, device, math.ceil(min(values["batch_size"], _count(dataset)) / world.size))
    _check_augmentation(plan, values)
    with hint_at_skipping():
        data = prepare(_split(dataset, settings), metadata.preprocessing, device, values["workers"])
    task = training_task(plan, dataset.classes, dataset.task, values, data.splits["train"].targets)
    job = Job(plan, settings, data, task, metadata, folder.path, speedups.layout(plan, values["fast"]), device, world)
    least = 2 * world.size
    if needs_two(plan, values["freeze"]) and min(values["batch_size"], len(job.data.splits["train"])) < least:
        each = "batch" if world.size == 1 else "process"
        raise UsageError(
            f"BatchNorm in this network gets one value per channel and image, so it needs two images per {each}: "
            f"use --batch-size {least} or more"
        )
    return job


def initial_state(job: Job, moved: transfer.Transfer | None = None, resumed: bool = False) -> State:
    """Random weights: the first use of the random number generator after seeding, so that they can be reproduced.

    The setting `init` replaces some of them, and `moved` those that come from another source. resumed: all will be
    replaced, so that none needs to be initialized.
    """
    torch.manual_seed(job["seed"])
    network = add_normalization(build_plan(job.plan), job.metadata.preprocessing).to(job.device)
    if job["init"] and not resumed:
        initialize(network, job["init"], job.sample)
    if moved:
        transfer.copy_into(network, moved)
    network = speedups.prepare(network, job["fast"])
    disable_gradients(network, job.freeze)
    last = job.plan.last.name if job.plan.last else ""
    averaged = job["ema"] is not None or job["lookahead"] is not None
    average = copy.deepcopy(network) if averaged else None
    if job.world.rank:  # dropout differs between processes, the weights do not
        torch.manual_seed(job["seed"] + 7919 * job.world.rank)
    optimizer = make_optimizer(network, job.values, last)
    return State(network, optimizer, job.device, job.task.totals(job.device), average)


def _split(dataset: Dataset, settings: Mapping[str, Setting]) -> Dataset:
    """The data with train, val and test splits, as the settings say."""
    fraction = settings["val_fraction"]
    if "val" in dataset.splits and fraction.value and fraction.source not in ("spec", "recipe"):
        raise UsageError(f"{dataset.name} has its own val split; leave out --val-fraction")
    dataset = split_dataset(dataset, fraction.value, settings["seed"].value)
    overfit = settings.get("overfit")  # runs of earlier versions have none
    if overfit and overfit.value and "train" in dataset.splits:
        dataset = _same_images(dataset, overfit.value)
    if "train" not in dataset.splits:
        raise UsageError(f"{dataset.name} has no train split")
    if settings["patience"].value and "val" not in dataset.splits:
        raise UsageError("patience needs a validation split, but the data has none; add --val-fraction 0.1")
    return dataset


def _same_images(dataset: Dataset, count: int) -> Dataset:
    """The data with `count` training images, evenly spaced, as both train and val split."""
    train = dataset.splits["train"]
    count = min(count, len(train))
    few = train.subset(torch.arange(count) * len(train) // count)
    note = f"overfit: trained and evaluated on the same {counted(count, 'image')}"
    return replace(dataset, splits={"train": few, "val": few}, notes=(*dataset.notes, note))


def _check_augmentation(plan: Plan, values: Mapping[str, Any]) -> None:
    side = min(plan.input[1:])
    for name in ("shift", "cutout"):
        if values[name] >= side:
            raise UsageError(f"{name} {values[name]} is too large for images of {side} pixels; choose a smaller value")


def _check_memory(plan: Plan, values: Mapping[str, Any], device: torch.device, batch: int) -> None:
    """CnnError if weights, gradients, the optimizer's state, and one layer's input and output exceed the memory."""
    learning = sum(trainable_params(layer, values["freeze"]) for layer in plan.layers)
    copies = (
        1 + COPIES[values["optimizer"]] - (values["optimizer"] == "sgd" and not values["momentum"])
    )  # with gradient
    averaged = values["ema"] is not None or values.get("lookahead") is not None
    fixed = 4 * (plan.params + learning * copies + plan.params * averaged)
    size = 2 if values["precision"] == "bf16" else 4  # bytes of an activation
    image = size * max((_values(la.input_shape) + _values(la.output_shape) for la in plan.layers), default=0)
    free = free_memory(device)
    if fixed + image * batch <= free:
        return
    fits = (free - fixed) // image // 2 if image else 0
    fix = f"try --batch-size {fits}" if fits >= 1 else "choose a smaller network or input"
    need, have = f"{(fixed + image * batch) / 1e9:,.1f} GB", f"{free / 1e9:.1f} GB"
    raise CnnError(f"training {plan.network} at batch size {batch} needs over {need}, but only {have} are free; {fix}")


def _count(dataset: Dataset) -> int:
    return sum(len(split) for split in dataset.splits.values())


def _values(shape: tuple[int, ...]) -> int:
    return math.prod(shape) if shape else 0
