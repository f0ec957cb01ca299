"""Pretrained weights of torchvision: their names, files in PyTorch's cache, and preprocessing."""

import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.errors import CnnError, UsageError, closest
from cnn_cli.files import DownloadError, downloading, make_folder

TORCHVISION = "torchvision"  # torchvision's best weights for the network of the same name
_HASH = re.compile(r"-([0-9a-f]{8,})\.")  # the first digits of the file's SHA-256, in its name
# Both were ported from TensorFlow. torchvision normalizes as for all networks, and then converts inside the network:
# x · 0.229/0.5 + (0.485 − 0.5)/0.5, and likewise for the other channels.
_TRANSFORM_INPUT = {"GoogLeNet_Weights", "Inception_V3_Weights"}
_IMAGENET = (("0.485", "0.229"), ("0.456", "0.224"), ("0.406", "0.225"))
_DETECTOR_INPUT = (3, 800, 1088)  # torchvision's detectors resize the shorter side to 800, and normalize inside


@dataclass(frozen=True)
class Pretrained:
    """An entry of torchvision's list. `classes` in the order of the network's outputs."""

    name: str
    url: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


def find_pretrained(text: str, network: str) -> Pretrained:
    """`torchvision`, `IMAGENET1K_V1` or `ResNet18_Weights.IMAGENET1K_V1`, the first two for a network of torchvision.

    UsageError with the names that exist.
    """
    entries = _entries()
    family, _, name = text.rpartition(".")
    own = entries.get(network, {})
    if family:
        known = {f"{e.__class__.__name__}.{n}": e for members in entries.values() for n, e in members.items()}
        if text in known:
            return _pretrained(known[text])
        raise UsageError(f"--weights {text}: torchvision has no weights with that name.{closest(text, known)}")
    if not own:
        reason = f"torchvision has no weights for {network!r}" + (
            "" if name == TORCHVISION else ", and no file or run has this name"
        )
        raise UsageError(f"--weights {text}: {reason}; name a file (.pth, .safetensors), a run or Family_Weights.NAME")
    if name not in (*own, TORCHVISION):
        raise UsageError(
            f"--weights {text}: no such file, run or weights; {network} has {', '.join([TORCHVISION, *own])}"
        )
    return _pretrained(own["DEFAULT" if name == TORCHVISION else name])


def find_by_file(file: str, network: str) -> Pretrained | None:
    """The entry of torchvision for this network with this file name, including the hash."""
    members = _entries().get(network, {}) if _HASH.search(file) else {}
    return next((e for e in map(_pretrained, members.values()) if e.file == file), None)


def local_file(entry: Pretrained) -> Path:
    """The entry's file in PyTorch's cache (TORCH_HOME), downloaded if necessary; its hash is always checked.

    Not torch.hub.load_state_dict_from_url, which does not check cached files, and writes to stdout. CnnError if it
    cannot be downloaded; the message says where to put it.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / entry.file
    if not path.is_file():
        _download(entry, path)
    check_hash(path)
    return path


def check_hash(path: Path) -> None:
    """CnnError unless the file's SHA-256 begins with the digits in its name."""
    stated = _HASH.search(path.name)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CnnError(f"cannot read {path}: {error.strerror}") from None
    if stated and not digest.startswith(stated[1]):
        raise CnnError(f"{path} is damaged: its SHA-256 begins with {digest[:8]}; delete it and run again")


def _download(entry: Pretrained, path: Path) -> None:
    import torch

    stated = _HASH.search(entry.file)
    make_folder(path.parent)
    try:
        with downloading(f"{entry.name}: downloading {entry.url} to {path.parent}"):
            hash_prefix = stated[1] if stated else None
            torch.hub.download_url_to_file(entry.url, str(path), hash_prefix, progress=sys.stderr.isatty())
    except DownloadError as error:
        raise CnnError(
            f"{entry.name} is not in {path.parent} and could not be downloaded ({error})\n"
            f"download {entry.url} to this folder and run again (TORCH_HOME sets another cache)"
        ) from None


@lru_cache(maxsize=1)
def _entries() -> dict[str, Mapping[str, Any]]:
    """Name of a network → name of a weight → torchvision's entry, for all classifiers and detectors."""
    from torchvision import models

    names = [*models.list_models(module=models), *models.list_models(module=models.detection)]
    return {name: models.get_model_weights(name).__members__ for name in names}


def _pretrained(entry: Any) -> Pretrained:
    preset, classes = entry.transforms(), tuple(entry.meta["categories"] or ())
    name = f"{type(entry).__name__}.{entry.name}"
    if not hasattr(preset, "mean"):
        mean, std = (tuple(map(float, values)) for values in zip(*_IMAGENET, strict=True))
        return Pretrained(name, entry.url, classes, Preprocessing(_DETECTOR_INPUT, "pad", mean, std))
    mean, std = tuple(preset.mean), tuple(preset.std)
    if type(entry).__name__ in _TRANSFORM_INPUT:
        mean, std = _composed(mean, std)
    preprocessing = Preprocessing(
        input=(3, preset.crop_size[0], preset.crop_size[0]),
        resize="crop",
        mean=mean,
        std=std,
        resize_size=preset.resize_size[0],
        interpolation=preset.interpolation.value,
    )
    return Pretrained(name, entry.url, classes, preprocessing)  # VGG16's IMAGENET1K_FEATURES have no classes, no head


def _composed(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of both steps in one: first (x − mean) / std, then · a + b with torchvision's constants.

    a·(x − m)/s + b = (x − (m − b·s/a)) / (s/a). In fractions, so that the result is exact: 0.5 everywhere.
    """
    means, stds = [], []
    for m, s, (shift, scale) in zip(mean, std, _IMAGENET, strict=True):
        a, b = Fraction(scale) / Fraction(1, 2), (Fraction(shift) - Fraction(1, 2)) / Fraction(1, 2)
        stds.append(Fraction(str(s)) / a)
        means.append(Fraction(str(m)) - b * stds[-1])
    return tuple(map(float, means)), tuple(map(float, stds))
