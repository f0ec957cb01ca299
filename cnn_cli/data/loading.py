"""From a name or a folder to a data set with train, val and test splits, its labels in the order of the classes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_cli.data.box_folder import read_box_folder
from cnn_cli.data.box_layout import FORMATS
from cnn_cli.data.catalog import DATASETS, load_named
from cnn_cli.data.dataset import CLASSIFICATION, SEGMENTATION, Dataset, Split
from cnn_cli.data.fingerprint import compute_fingerprint
from cnn_cli.data.folder import read_folder
from cnn_cli.data.layouts import find_annotations
from cnn_cli.data.mask_folder import read_mask_folder
from cnn_cli.data.targets import classes_in, strata, with_classes
from cnn_cli.data.unreadable import readable_pairs, without_unreadable
from cnn_cli.errors import UsageError, closest
from cnn_cli.files import user_cache
from cnn_cli.tables import counted

_TEST_FRACTION = 0.2  # of a folder without splits


def load_dataset(
    name: str, data_dir: Path, skip_unreadable: bool = False, task: str | None = None, annotations: str | None = None
) -> Dataset:
    """A named data set, or a folder of images, whose files are listed but, unless unreadable ones are to be skipped,
    not opened yet.

    task: which targets, if a data set has several kinds, such as masks and boxes. annotations: the format of the boxes,
    or the folder of the masks, if a folder has several. UsageError for a name that is neither, and for annotations of a
    named data set; CnnError for a named data set that cannot be downloaded.
    """
    if name in DATASETS:
        if annotations:
            raise UsageError(
                f"--annotations {annotations} is for folders, but {name} is a named data set; leave it out"
            )
        return load_named(name, data_dir, task)
    path = Path(name).expanduser()
    if path.is_dir():
        root = path.resolve()
        dataset = _read_folder(root, skip_unreadable, task, annotations)
        if skip_unreadable and dataset.task != SEGMENTATION:
            dataset = without_unreadable(dataset)
        return replace(dataset, files=tuple(path for split in dataset.splits.values() for path in split.images))
    if path.is_file():
        raise UsageError(f"{name} is a file; name the folder of the data set")
    known = f" The data sets are {', '.join(DATASETS)}." if "/" not in name else ""
    raise UsageError(f"data {name}: no such data set or folder.{closest(name, DATASETS) or known}")


def _read_folder(root: Path, skip_invalid: bool, task: str | None, annotations: str | None) -> Dataset:
    masks, boxes = find_annotations(root, task, annotations)
    if masks:
        masks.check()
        masks, skipped = readable_pairs(root, masks) if skip_invalid else (masks, [])
        dataset = read_mask_folder(root, masks)
        note = (
            f"{root} has boxes, too ({FORMATS[boxes.format][0]}); for detection add --task detection" if boxes else ""
        )
        return replace(dataset, notes=(*dataset.notes, *skipped, *[note] * bool(note)))
    return read_box_folder(root, boxes.read(), skip_invalid) if boxes else read_folder(root)


def load_for_evaluation(
    trained_on: str,
    metadata: Mapping[str, Any],
    data: str | None,
    data_dir: Path | None,
    task: str | None = None,
) -> Dataset:
    """The data set `trained_on`, split as in training; or `data`, where a folder without splits is one test split.

    metadata: that of the training, as in Metadata.data. task: as in load_dataset(). Named data sets are searched in
    `data_dir`, else where they were during training, else in the cache. A folder is identified as that of the training
    by its path, or, if it was moved, by its classes and labels. UsageError if it does not exist.
    """
    if data is None and is_missing(trained_on):
        raise moved(trained_on)
    folder = resolve_data_dir(data_dir, str(metadata.get("folder", "")))
    annotations = None if data or trained_on in DATASETS else metadata.get("annotations")
    dataset = load_dataset(data or trained_on, folder, bool(metadata.get("skip_unreadable")), task, annotations)
    same = compute_fingerprint(dataset) == metadata.get("fingerprint", compute_fingerprint(dataset))
    if dataset.name == trained_on and not same:
        note = f"warning: {dataset.name} has changed since training: its classes or numbers of images differ"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    if dataset.name == trained_on or (same and "fingerprint" in metadata):
        return split_dataset(dataset, metadata.get("val_fraction", 0), int(metadata.get("seed", 0)))
    return split_dataset(dataset, test_only=True)


def is_missing(trained_on: str) -> bool:
    """Whether this is a folder that no longer exists."""
    return trained_on not in DATASETS and not Path(trained_on).is_dir()


def moved(trained_on: str) -> UsageError:
    """The error for a folder that no longer exists."""
    place = trained_on if Path(trained_on).is_absolute() else f"a folder named {trained_on}"
    return UsageError(
        f"the network was trained on {place}, which no longer exists; name its new location: --data FOLDER"
    )


def resolve_data_dir(data_dir: Path | None, earlier: str = "") -> Path:
    """Where named data sets are kept: `data_dir`, else the earlier folder if it still exists, else the cache."""
    if data_dir is None and earlier and Path(earlier).is_dir():
        return Path(earlier)
    return data_dir.expanduser() if data_dir else user_cache("datasets")


def split_dataset(dataset: Dataset, val_fraction: float = 0, seed: int = 0, test_only: bool = False) -> Dataset:
    """Hold out the splits that are missing, per class and reproducibly.

    Of a folder without splits a fifth is held out for testing (test_only: all of it is for testing). The test images
    depend on the folder alone, so that all seeds report on the same ones; the validation images depend on the seed.
    """
    splits, notes = dict(dataset.splits), list(dataset.notes)
    if "all" in splits:
        everything = splits.pop("all")
        if test_only:
            splits["test"] = everything
        else:
            splits["train"], splits["test"] = _hold_out(everything, _TEST_FRACTION, 0)
            count = len(splits["test"])
            if not count:
                message = "has too few images to hold out a test split; add images, at least two per class"
                raise UsageError(f"{dataset.name} {message}, or split it into train/ and test/")
            part = "each class" if dataset.task == CLASSIFICATION else "the images"
            notes.append(
                f"{dataset.name}: no splits; a fifth of {part} ({counted(count, 'image')}) is held out for testing"
            )
    if val_fraction and "train" in splits and "val" not in splits:
        splits["train"], splits["val"] = _hold_out(splits["train"], val_fraction, seed)
    order = ["train", "val", "test"]
    return replace(dataset, splits={s: splits[s] for s in order if s in splits}, notes=tuple(notes))


def select_split(dataset: Dataset, name: str) -> Dataset:
    """The data set with a single split; UsageError if it has none of that name."""
    if name not in dataset.splits:
        raise UsageError(f"{dataset.name} has no {name} split; it has {', '.join(dataset.splits)}")
    return replace(dataset, splits={name: dataset.splits[name]})


def match_classes(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Renumber the labels in the order of `classes`, by name. UsageError for a class that is not among them."""
    if dataset.classes == classes:
        return dataset
    used = {dataset.classes[i] for split in dataset.splits.values() for i in classes_in(split.targets)}
    if unknown := sorted(used - set(classes)):
        raise UsageError(
            f"{dataset.name} has classes that the network does not know: {', '.join(unknown)}\n"
            f"it was trained on {', '.join(classes)}; labels are matched by class name"
        )
    numbers = [classes.index(name) if name in classes else -1 for name in dataset.classes]
    splits = {name: replace(s, targets=with_classes(s.targets, numbers)) for name, s in dataset.splits.items()}
    return replace(dataset, classes=classes, splits=splits)


def _hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """(the rest, the images held out): of each class `fraction`, at least one image and never all."""
    generator = torch.Generator().manual_seed(seed % 2**32)
    held_out = torch.zeros(len(split), dtype=torch.bool)
    labels = split.targets
    if not isinstance(labels, Tensor) or labels.dim() > 1:
        held_out[_spread(strata(labels), fraction, generator)] = True
        return split.subset((~held_out).nonzero().flatten()), split.subset(held_out.nonzero().flatten())
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        n = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held_out[members[torch.randperm(len(members), generator=generator)[: max(0, n)]]] = True
    return split.subset((~held_out).nonzero().flatten()), split.subset(held_out.nonzero().flatten())


def _spread(strata: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """The numbers of `fraction` of the images, spread evenly over the strata (n,): at least one, and never all."""
    order = torch.randperm(len(strata), generator=generator)
    order = order[strata[order].argsort(stable=True)]
    count = min(max(1, round(len(order) * fraction)), len(order) - 1)
    return order[((torch.arange(count) + 0.5) * len(order) / max(1, count)).long()]
