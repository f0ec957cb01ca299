"""The images to interpret or predict: files, or images of the data set by index.

Both go through the checkpoint's own preprocessing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.dataset import Dataset
from cnn_cli.data.folder import list_images
from cnn_cli.data.loading import load_for_evaluation, match_classes, select_split
from cnn_cli.data.preparation import read_image
from cnn_cli.data.preprocessing import preprocess
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.tasks.selection import task_of
from cnn_cli.training.eval_report import SPLITS


@dataclass(frozen=True)
class Inputs:
    """Images at the network's input size: `pixels` (N, C, H, W) float32 in [0, 1], and their names.

    `labels` are indices into the network's classes; None if the true class is unknown.
    """

    pixels: Tensor
    names: tuple[str, ...]
    labels: tuple[int | None, ...]

    def captions(self, classes: Sequence[str]) -> list[str]:
        """`true class: Shirt` for each image or, if that is unknown, its file name."""
        known = zip(self.names, self.labels, strict=True)
        return [Path(name).name if k is None else f"true class: {classes[k]}" for name, k in known]


@dataclass(frozen=True)
class ImageSelection:
    """A selection of images: files, folders and patterns, then images of `split` by index (0, 1, …).

    Without `data` the data set is the one of the training, with the same splits.
    """

    files: Sequence[str] = ()
    index: Sequence[int] = ()
    split: str = "test"
    data: str | None = None
    data_dir: Path | None = None


def load_inputs(loaded: LoadedNetwork, selection: ImageSelection, limit: int = 64) -> Inputs:
    """The selected images. The class of a file is its folder's name, if that is a class of the network.

    UsageError without any, for an index out of range, and for more than `limit` images; CnnError names a file that is
    missing or not an image.
    """
    index = selection.index
    check_named(selection)
    check_channels(loaded)
    paths = files_of(selection.files)
    if (count := len(paths) + len(index)) > limit:
        raise UsageError(f"{count:,} images, but one picture holds {limit}; name fewer")
    images = [read_image(path, loaded.preprocessing) for path in paths]
    names = [str(p) for p in paths]
    labels = [_index_of(p.parent.name, loaded) for p in paths]
    if index:
        dataset = whole_split(loaded, selection.split, selection.data, selection.data_dir, strict=False)
        images += [_numbered(loaded, dataset, selection.split, i) for i in index]
        names += [f"{Path(dataset.name).name} {selection.split} {i}" for i in index]
        targets = dataset.splits[selection.split].targets
        if isinstance(targets, Tensor) and targets.dim() == 1:
            labels += [_index_of(dataset.classes[int(targets[i])], loaded) for i in index]
        else:
            labels += [None] * len(index)
    return Inputs(torch.cat(images).float().div_(255), tuple(names), tuple(labels))


def files_of(images: Sequence[str]) -> list[Path]:
    """The image files that match files, folders (searched recursively) and patterns, each sorted by name.

    CnnError if one matches none. Hidden entries of folders are left out.
    """
    paths: list[Path] = []
    for text in images:
        path = Path(text).expanduser()
        if path.is_dir():
            files = list_images(path)
        elif path.exists() or not set(text) & set("*?["):  # a file may be called a[1].png
            files = [path]
        else:
            files = sorted(p for p in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if p.is_file())
        if not files:
            raise CnnError(f"no images in {path}" if path.is_dir() else f"no file matches {text!r}")
        if not files[0].exists():
            raise CnnError(f"{path}: no such file; looked in {path.absolute().parent}")
        paths += files
    return paths


def whole_split(
    loaded: LoadedNetwork, split_name: str, data: str | None, data_dir: Path | None = None, *, strict: bool = True
) -> Dataset:
    """One split of the training's data set (or of `data`), with labels in the order of the network's classes.

    With strict=False unknown classes are allowed, and the labels are those of the data set. UsageError for a split that
    does not exist, for unknown classes, and without a data set.
    """
    metadata = loaded.metadata.data if loaded.metadata else {}
    own = str(metadata.get("name") or loaded.plan.train.get("data") or "")
    if not data and not own:
        raise UsageError(f"{loaded.plan.network} has no data set; name one with --data")
    if split_name not in SPLITS:
        raise UsageError(f"--split must be test, val or train, not {split_name!r}")
    task = task_of(loaded.plan)
    chosen = select_split(load_for_evaluation(own, metadata, data, data_dir, task), split_name)
    return match_classes(chosen, loaded.classes) if strict and loaded.classes else chosen


def check_named(selection: ImageSelection) -> None:
    """UsageError for a selection of no images."""
    if not selection.files and not selection.index:
        raise UsageError("no images; name files or folders, or choose images of the data set with --index 0")


def check_index(number: int, dataset: Dataset, split_name: str) -> None:
    """UsageError for an index out of range."""
    count = len(dataset.splits[split_name])
    if not 0 <= number < count:
        raise UsageError(f"--index {number}: the {split_name} split of {dataset.name} has images 0 to {count - 1:,}")


def check_channels(loaded: LoadedNetwork) -> int:
    """The number of the network's input channels; UsageError unless that is 1 or 3, as in image files."""
    channels = loaded.preprocessing.input[0]
    if channels not in (1, 3):
        raise UsageError(f"the network takes {channels} channels, but images have 1 (grayscale) or 3 (color)")
    return channels


def _numbered(loaded: LoadedNetwork, dataset: Dataset, split_name: str, number: int) -> Tensor:
    """Image `number` of a split as (1, C, H, W) uint8."""
    check_index(number, dataset, split_name)
    part = dataset.splits[split_name]
    if isinstance(part.images, Tensor):
        return preprocess(part.images[number : number + 1], loaded.preprocessing)
    return read_image(part.images[number], loaded.preprocessing)


def _index_of(name: str, loaded: LoadedNetwork) -> int | None:
    return loaded.classes.index(name) if name in loaded.classes else None
