"""The images that a picture or a prediction is about: a person's files, or images of the network's data set by number.

Either way they go through the checkpoint's own preprocessing, and come out as the network takes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.dataset import Dataset
from cnn_cli.data.decoding import IMAGE_SUFFIXES
from cnn_cli.data.loading import load_for_evaluation, match_classes, select_split
from cnn_cli.data.preparation import read_image
from cnn_cli.data.preprocessing import preprocess
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.training.eval_report import SPLITS


@dataclass(frozen=True)
class Inputs:
    """Images at the network's input size: `pixels` (N, C, H, W) float32 in [0, 1], with what they are called.

    `labels` are indices into the network's classes; None where the true class is not known, as for a person's files.
    """

    pixels: Tensor
    names: tuple[str, ...]
    labels: tuple[int | None, ...]


def load_inputs(
    loaded: LoadedNetwork,
    images: Sequence[str],
    *,
    index: Sequence[int] = (),
    split: str = "test",
    data: str | None = None,
    data_dir: Path | None = None,
    limit: int = 64,
) -> Inputs:
    """Files, folders and globs of images, then images of the data set by their numbers in `split` (0, 1, …).

    Without `data` that is the data set of the training, split as it was then. UsageError where nothing is named, a
    number is out of range, or more than `limit` images are meant; CnnError names a file that is missing or no image.
    """
    if not images and not index:
        raise UsageError("no image is named; name files or folders, or take images of the data set: --index 0")
    _check_channels(loaded)
    paths = files_of(images)
    if (count := len(paths) + len(index)) > limit:
        raise UsageError(f"{count:,} images are named, and one picture takes {limit}; name fewer")
    shots = [read_image(path, loaded.preprocessing) for path in paths]
    names = [str(p) for p in paths]
    labels: list[int | None] = [None] * len(paths)
    if index:
        dataset = whole_split(loaded, split, data, data_dir, strict=False)
        shots += [_numbered(loaded, dataset, split, i) for i in index]
        names += [f"{Path(dataset.name).name} {split} {i}" for i in index]
        labels += [_label(loaded, dataset, int(dataset.splits[split].targets[i])) for i in index]
    return Inputs(torch.cat(shots).float().div_(255), tuple(names), tuple(labels))


def files_of(images: Sequence[str]) -> list[Path]:
    """The image files that files, folders (with all below them) and globs stand for, each in the order of the names.

    CnnError where one stands for none. Links and hidden entries of folders are left out, since they can lead anywhere.
    """
    found: list[Path] = []
    for text in images:
        path = Path(text).expanduser()
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if _is_image(p, path))
        elif path.exists() or not set(text) & set("*?["):  # a file may be called a[1].png
            files = [path]
        else:
            files = sorted(p for p in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if p.is_file())
        if not files:
            raise CnnError(f"no images in {path}" if path.is_dir() else f"no file matches {text!r}")
        if not files[0].exists():
            raise CnnError(f"{path}: no such file; looked in {path.absolute().parent}")
        found += files
    return found


def whole_split(
    loaded: LoadedNetwork, split_name: str, data: str | None, data_dir: Path | None = None, *, strict: bool = True
) -> Dataset:
    """One split of the training's data set (or of `data`) as a dataset of one part, its labels in the network's order.

    With strict=False classes that the network does not know are kept, and the labels are those of the dataset.
    UsageError for a split that is not there, for unknown classes, and where no data set is known.
    """
    metadata = loaded.metadata.data if loaded.metadata else {}
    own = str(metadata.get("name") or loaded.plan.train.get("data") or "")
    if not data and not own:
        raise UsageError(f"{loaded.plan.network} knows no data set; name one with --data")
    if split_name not in SPLITS:
        raise UsageError(f"--split must be test, val or train, not {split_name!r}")
    chosen = select_split(load_for_evaluation(own, metadata, data, data_dir), split_name)
    return match_classes(chosen, loaded.classes) if strict and loaded.classes else chosen


def _check_channels(loaded: LoadedNetwork) -> None:
    channels = loaded.preprocessing.input[0]
    if channels not in (1, 3):
        raise UsageError(f"the network takes {channels} channels, and an image has 1 (grey) or 3 (colour)")


def _is_image(path: Path, root: Path) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(root).parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and not path.is_symlink() and path.is_file()


def _numbered(loaded: LoadedNetwork, dataset: Dataset, split_name: str, number: int) -> Tensor:
    """Image `number` of a split as (1, C, H, W) bytes."""
    part = dataset.splits[split_name]
    if not 0 <= number < len(part.targets):
        last = len(part.targets) - 1
        raise UsageError(f"--index {number}: the {split_name} split of {dataset.name} has images 0 to {last:,}")
    if isinstance(part.images, Tensor):
        return preprocess(part.images[number : number + 1], loaded.preprocessing)
    return read_image(part.images[number], loaded.preprocessing)


def _label(loaded: LoadedNetwork, dataset: Dataset, label: int) -> int | None:
    name = dataset.classes[label]
    return loaded.classes.index(name) if name in loaded.classes else None
