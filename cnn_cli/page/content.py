"""The contents of a page besides the network: sample images, digits to train on, and the run's training log."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.checkpoints.run_folder import LOG, LogRow, read_log
from cnn_cli.data.catalog import DATASETS, load_named
from cnn_cli.data.loading import resolve_data_dir
from cnn_cli.data.preprocessing import preprocess
from cnn_cli.errors import CnnError
from cnn_cli.interpret.inputs import ImageSelection, load_inputs, whole_split
from cnn_cli.interpret.scores import class_names
from cnn_cli.pictures.film import FRAMES, frames_of

_BYTES = 1_500_000  # images in the gallery
_MOST = 50
_TRAINED_UP_TO = 500_000  # most parameters of a network that can be trained in the page
_TRAIN, _TEST = 1_000, 200
_LEVELS = "0123456789abcdefg"  # a character for a pixel of the digits; A, B, … stand for 3, 4, … zeros


@dataclass(frozen=True)
class Gallery:
    """Images (N, C, H, W) uint8 at the network's input size, with their names and, if known, their true classes."""

    images: Tensor
    names: tuple[str, ...]
    labels: tuple[int | None, ...]
    source: str
    classes: tuple[str, ...] = ()  # the labels' names, if they are not classes of the network
    outputs: tuple[str, ...] = ()  # classes of the data set

    def document(self) -> dict[str, Any]:
        return {
            "images": _encoded(self.images),
            "names": list(self.names),
            "labels": list(self.labels),
            "source": self.source,
            "classes": list(self.classes),
        }


def gallery(loaded: LoadedNetwork, selection: ImageSelection) -> Gallery:
    """The selected images; without a selection, some test images of the data set, taking the classes in turn.

    A network without a data set shows digits or, if its input is large, photos, which both ship with scikit-learn.
    """
    if selection.files or selection.index:
        inputs = load_inputs(loaded, selection, _MOST)
        images = (inputs.pixels * 255).round().to(torch.uint8)
        return Gallery(images, inputs.names, inputs.labels, "images from the command line")
    known = (loaded.metadata.data.get("name") if loaded.metadata else None) or selection.data
    own = DATASETS.get(str(loaded.plan.train.get("data")))
    built_in = own is not None and not own.torchvision  # other data sets would be downloaded
    return _of_data(loaded, selection) if known or built_in else _samples(loaded)


def _of_data(loaded: LoadedNetwork, selection: ImageSelection) -> Gallery:
    dataset = whole_split(loaded, selection.split, selection.data, selection.data_dir, strict=False)
    targets = dataset.splits[selection.split].targets
    if isinstance(targets, Tensor) and targets.ndim == 1:
        index = _spread(targets, _fitting(loaded))
    else:
        index = list(range(min(_fitting(loaded), len(targets))))
    chosen = ImageSelection((), tuple(index), selection.split, selection.data, selection.data_dir)
    inputs = load_inputs(loaded, chosen, _MOST)
    images = (inputs.pixels * 255).round().to(torch.uint8)
    source = f"{selection.split} images of {Path(dataset.name).name}"
    return Gallery(images, inputs.names, inputs.labels, source, outputs=dataset.classes)


def _spread(labels: Tensor, n: int) -> list[int]:
    """The indices of n images: the first of each class, then the second of each class, …"""
    by_class = [(labels == k).nonzero().flatten().tolist() for k in sorted(set(labels.tolist()))]
    turns = [part[i] for i in range(max(map(len, by_class))) for part in by_class if i < len(part)]
    return turns[:n]


def _fitting(loaded: LoadedNetwork) -> int:
    channels, height, width = loaded.preprocessing.input
    return max(4, min(_MOST, _BYTES // (channels * height * width)))


def _samples(loaded: LoadedNetwork) -> Gallery:
    from sklearn.datasets import load_sample_images

    if loaded.preprocessing.input[1] < 64:
        digits = load_named("digits", resolve_data_dir(None))
        images, labels = digits.splits["test"].images, digits.splits["test"].targets
        assert isinstance(images, Tensor) and isinstance(labels, Tensor)
        index = _spread(labels, _fitting(loaded))
        fitted = preprocess(images[index], loaded.preprocessing)
        names = tuple(f"digits test {i}" for i in index)
        return Gallery(fitted, names, tuple(labels[index].tolist()), "handwritten digits", digits.classes)
    photographs = load_sample_images()
    tensors = [torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] for picture in photographs.images]
    fitted = torch.cat([preprocess(tensor, loaded.preprocessing) for tensor in tensors])
    return Gallery(fitted, ("china.jpg", "flower.jpg"), (None, None), "two photos from scikit-learn")


def digits_to_train_on(loaded: LoadedNetwork) -> dict[str, Any] | None:
    """Digits of 8x8 pixels, which the page enlarges; None for a network that cannot be trained on them, or too
    slowly."""
    plan = loaded.plan
    if plan.output != (10,) or plan.outputs or plan.named_outputs or plan.params > _TRAINED_UP_TO:
        return None
    digits = load_named("digits", resolve_data_dir(None))
    parts = {}
    for split, n in (("train", _TRAIN), ("test", _TEST)):
        images, labels = digits.splits[split].images, digits.splits[split].targets
        assert isinstance(images, Tensor) and isinstance(labels, Tensor)
        levels = (images[:n].int() * 16 + 127) // 255  # the data set's pixels are 0 to 16
        letters = "".join(_LEVELS[level] for level in levels.flatten().tolist())
        short = re.sub("0{3,28}", lambda zeros: chr(ord("A") + len(zeros[0]) - 3), letters)
        parts[split] = {"images": short, "labels": labels[:n].tolist()}
    return {"side": 8, "parts": parts}


def history(loaded: LoadedNetwork) -> list[LogRow]:
    """The rows of metrics.jsonl of the weights' run; empty without a run or a log. CnnError for a damaged file."""
    rows, damaged = read_log(loaded.run) if loaded.run else ([], 0)
    if damaged:
        path = f"{loaded.run}/{LOG}"
        raise CnnError(f"{path} is damaged: it has a line that is not JSON; remove the line, or the file")
    return rows


def filters_by_epoch(loaded: LoadedNetwork) -> dict[str, Any] | None:
    """The first convolution's filters after every epoch; None if the run did not save them."""
    path = loaded.run / FRAMES if loaded.run else None
    if path is None or not path.is_file():
        return None
    _, frames = frames_of(path.parent)
    stack = torch.from_numpy(np.stack([frame.weights for frame in frames]))
    bound = float(stack.abs().max()) or 1.0
    levels = (stack / bound * 127).round().to(torch.int8)
    epochs = [float(frame.epoch) for frame in frames]
    return {"epochs": epochs, "shape": list(levels.shape[1:]), "values": _encoded(levels.view(torch.uint8))}


def classes_of(loaded: LoadedNetwork, shown: Gallery) -> list[str]:
    """The class names: of the network, else of the images' data set, else the indices of the outputs."""
    if not loaded.classes and len(shown.outputs) == loaded.plan.output[0]:
        return list(shown.outputs)
    return list(class_names(loaded))


def _encoded(values: Tensor | Sequence[int]) -> str:
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.uint8)
    return base64.b64encode(tensor.contiguous().numpy().tobytes()).decode()
