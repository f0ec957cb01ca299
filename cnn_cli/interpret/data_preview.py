"""Preview of a data set: images resized to the network's input and augmented as in a training epoch."""

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cnn_cli.data.augmentation import Augmentation, augment, augment_boxes, augment_masks, draw_augmentations
from cnn_cli.data.boxes import are_boxes, class_counts
from cnn_cli.data.dataset import DETECTION, SEGMENTATION, Dataset, Split
from cnn_cli.data.loading import load_dataset, resolve_data_dir, select_split, split_dataset
from cnn_cli.data.masks import VOID, are_masks, pixel_counts
from cnn_cli.data.preparation import prepare, sample_shapes
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.errors import UsageError, enumerated, listed
from cnn_cli.interpret.pictured import CPU
from cnn_cli.language.plan import Plan
from cnn_cli.pictures import image
from cnn_cli.pictures.box_drawing import DrawnBox
from cnn_cli.pictures.grid import picture
from cnn_cli.pictures.sample_sheet import Sample, compose_sheet
from cnn_cli.settings import Setting, resolve, values_of
from cnn_cli.tables import counted, wrapped
from cnn_cli.tasks.selection import task_of
from cnn_cli.training.initial_weights import find_initial_weights, prepared
from cnn_cli.training.request import Request, chosen_annotations, complete, resolve_settings

_EMPTY = "no objects"
_MIXES = {"mixup": "mixup", "cutmix": "CutMix"}
_LONGEST = 224  # px of images of different sizes, if no network determines the size


@dataclass(frozen=True)
class PreviewRequest:
    """network: as for training; None: the images at the size `input` or their own. count: images per class."""

    data: str
    settings: dict[str, Any]
    network: Request | None = None
    data_dir: Path | None = None
    task: str | None = None
    split: str = "train"
    count: int = 4
    epoch: int = 1
    input: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Preview:
    """The images of a preview: their names by class, their number, and their preprocessing and augmentation."""

    path: Path
    body: tuple[int, int, int, int]
    data: str
    network: str | None
    task: str
    split: str
    shown: dict[str, tuple[str, ...]]
    count: int
    preparation: str
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "network": self.network,
            "task": self.task,
            "split": self.split,
            "picture": str(self.path),
            "body": list(self.body),
            "images": self.preparation,
            "classes": [{"class": name, "images": list(images)} for name, images in self.shown.items()],
            "notes": list(self.notes),
        }

    def text(self) -> str:
        classes = len(self.shown.keys() - {_EMPTY})
        facts = f"{counted(self.count, 'image')} of {counted(classes, 'class')}; {self.preparation}"
        return f"{self.path}\n{wrapped(facts)}"


@dataclass(frozen=True)
class _View:
    """Settings and preprocessing of the images; plan: of the network, if one is named."""

    values: dict[str, Any]
    plan: Plan | None
    preprocessing: Preprocessing
    augmentation: Augmentation


def preview_data(request: PreviewRequest, path: Path) -> Preview:
    """Draw the sheet. UsageError for an unsuitable split or network; CnnError for invalid data."""
    settings, plan = _settings(request)
    dataset = _dataset(request, settings, plan)
    split = dataset.splits[request.split]
    view = _view(request, settings, plan, split)
    chosen = _chosen(dataset, split, request.count, view.values["seed"])
    samples = _samples(request, view, dataset, sorted({i for numbers in chosen.values() for i in numbers}))
    layout = _layout(chosen)
    columns = [(name, [samples[i] for i in numbers]) for name, numbers in layout]
    title = f"{Path(dataset.name).name}, {request.split} split" + (f", as {plan.network} sees it" if plan else "")
    preparation = f"{view.preprocessing}; {_described(view.augmentation, request.epoch)}"
    void = any(s.labels is not None and (s.labels == VOID).any() for s in samples.values())
    sheet, count = compose_sheet(columns, dataset.classes, void, title, [preparation])
    image.save(sheet.image, path)
    drawn = {i for _, numbers in layout[:count] for i in numbers}
    kept = {name: [i for i in numbers if i in drawn] for name, numbers in chosen.items()}
    shown = {name: tuple(samples[i].name for i in numbers) for name, numbers in kept.items() if numbers}
    hidden = [name or column[0].name for name, column in columns[count:]]
    left = [f"not shown, for lack of space: {listed(hidden)}"] if hidden else []
    facts = (dataset.name, plan.network if plan else None, dataset.task, request.split)
    mixed = [title for name, title in _MIXES.items() if view.values[name] and request.split == "train"]
    if mixed:
        left.append(f"{enumerated(mixed)} not shown: images are mixed in pairs during training")
    return Preview(path, sheet.body, *facts, shown, len(drawn), preparation, (*dataset.notes, *left))


def _settings(request: PreviewRequest) -> tuple[dict[str, Setting], Plan | None]:
    """The settings of a training run with these options."""
    if request.network is None:
        return resolve(request.settings, os.environ, {}), None
    training = complete(request.network)
    plan = training.plan()
    return resolve_settings(training, plan), plan


def _dataset(request: PreviewRequest, settings: dict[str, Setting], plan: Plan | None) -> Dataset:
    """The data set, split as for training; UsageError if the network is for another task."""
    values = values_of(settings)
    task = task_of(plan) if plan else request.task
    folder = resolve_data_dir(request.data_dir)
    dataset = load_dataset(request.data, folder, values["skip_unreadable"], task, chosen_annotations(settings))
    if plan and task != dataset.task:
        raise UsageError(f"{plan.network} is for {task}, but {dataset.name} is a data set for {dataset.task}")
    fraction = 0 if "val" in dataset.splits else values["val_fraction"]
    dataset = split_dataset(dataset, fraction, values["seed"])
    return replace(select_split(dataset, request.split), notes=dataset.notes)


def _view(request: PreviewRequest, settings: dict[str, Setting], plan: Plan | None, split: Split) -> _View:
    if plan:
        settings, preprocessing = prepared(settings, plan, find_initial_weights(settings, plan))
    else:
        resize, normalize = (settings[name].value for name in ("resize", "normalize"))
        preprocessing = Preprocessing.from_settings(_size(request, split), resize, normalize)
    values = values_of(settings)
    is_training = request.split == "train"
    augmentation = Augmentation.from_settings(values, preprocessing.mean) if is_training else Augmentation()
    return _View(values, plan, preprocessing, augmentation)


def _size(request: PreviewRequest, split: Split) -> tuple[int, int, int]:
    """The requested (C, H, W); else that of the images, reduced if they are large, and square if their sizes differ."""
    if request.input and len(request.input) == 3:
        channels, height, width = request.input
        return channels, height, width
    shapes = sample_shapes(split.images)
    sizes = {shape[1:] for shape in shapes}
    height, width = sizes.pop() if len(sizes) == 1 else (_LONGEST, _LONGEST)
    scale = min(1.0, _LONGEST / max(height, width))
    return max(shape[0] for shape in shapes), max(1, round(height * scale)), max(1, round(width * scale))


def _chosen(dataset: Dataset, split: Split, count: int, seed: int) -> dict[str, list[int]]:
    """The indices of at least `count` images of each class that occurs, or of all, and of some without boxes.

    An image with several classes counts for each of them.
    """
    present = _present(split, len(dataset.classes))
    names = [*dataset.classes, *[_EMPTY] * are_boxes(split.targets)]
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)).tolist()
    taken: dict[int, None] = {}
    for k in present.sum(0).argsort().tolist():  # rarest classes first: their images also show common ones
        members = [i for i in order if present[i, k]]
        missing = max(0, count - sum(i in taken for i in members))
        taken |= dict.fromkeys([i for i in members if i not in taken][:missing])
    chosen = {name: [i for i in taken if present[i, k]] for k, name in enumerate(names)}
    return {name: numbers for name, numbers in chosen.items() if numbers}


def _layout(chosen: dict[str, list[int]]) -> list[tuple[str, list[int]]]:
    """A column per class; if images show several classes, each image once, in columns without a name."""
    numbers = [i for own in chosen.values() for i in own]
    if len(set(numbers)) == len(numbers):
        return list(chosen.items())
    return [("", [i]) for i in dict.fromkeys(numbers)]


def _present(split: Split, classes: int) -> Tensor:
    """(n, classes) bool: the classes in each image; for boxes with a last column for images without any."""
    targets = split.targets
    if are_masks(targets):
        return pixel_counts(targets)[:, :classes] > 0
    if are_boxes(targets):
        counts = class_counts(targets, classes)
        return torch.cat([counts > 0, counts.sum(1, keepdim=True) == 0], 1)
    assert isinstance(targets, Tensor)
    return functional.one_hot(targets, classes) > 0


def _samples(request: PreviewRequest, view: _View, dataset: Dataset, numbers: list[int]) -> dict[int, Sample]:
    """The images with these indices, resized and augmented."""
    split, index = dataset.splits[request.split], torch.tensor(numbers)
    few = replace(dataset, splits={request.split: split.subset(index)}, notes=())
    fitted = prepare(few, view.preprocessing, CPU, 1).splits[request.split]
    assert isinstance(fitted.images, Tensor)
    size = view.preprocessing.input[1:]
    draws = draw_augmentations(len(split), view.values["seed"], request.epoch, view.augmentation, size)[index]
    images, targets = augment(fitted.images, draws, view.augmentation), fitted.targets
    if are_masks(targets):
        targets = augment_masks(targets, draws, view.augmentation)
    elif are_boxes(targets):
        targets = augment_boxes(targets, draws, view.augmentation, size)
    return {i: _sample(images[row], targets[row], _name(split, i), dataset) for row, i in enumerate(numbers)}


def _sample(pixels: Tensor, target: Tensor, name: str, dataset: Dataset) -> Sample:
    shown = picture(pixels.float() / 255)
    if dataset.task == SEGMENTATION:
        return Sample(shown, name, labels=target.numpy())
    if dataset.task == DETECTION:
        boxes = [DrawnBox(row[:4], int(row[4]), dataset.classes[int(row[4])]) for row in target.tolist() if row[4] >= 0]
        return Sample(shown, name, boxes=boxes)
    return Sample(shown, name)


def _name(split: Split, number: int) -> str:
    return split.images[number].name if isinstance(split.images, tuple) else str(number)


def _described(augmentation: Augmentation, epoch: int) -> str:
    kinds = [f for f in fields(augmentation) if f.name not in ("fill", "padding_mode")]
    used = [f"{f.name} {value}" for f in kinds if (value := getattr(augmentation, f.name)) != f.default]
    return f"augmented as in epoch {epoch}: {', '.join(used)}" if used else "not augmented"
