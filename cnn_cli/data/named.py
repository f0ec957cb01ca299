"""The table of named data sets, and how each is read. All fit in memory as bytes."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnn_cli.data.source import Part, Source
from cnn_cli.errors import CnnError
from cnn_cli.files import DownloadError, downloading

_DIGITS = tuple("0123456789")
_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class NamedSet:
    """A data set that cnn knows. `files` lie in `folder` under --data-dir; `classes` empty: read with the data."""

    read: Callable[[str, "NamedSet", Path], Source]
    torchvision: str = ""
    folder: str = ""
    files: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def read_named(name: str, data_dir: Path) -> Source:
    """The train and test images of a data set of the table, downloaded into `data_dir` once.

    CnnError where it is neither there nor to be had; it says which files to put where.
    """
    entry = NAMED[name]
    return entry.read(name, entry, data_dir)


def _digits(name: str, entry: NamedSet, data_dir: Path) -> Source:
    """scikit-learn's 1,797 handwritten digits; the last 360, by other writers, are the test images."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images).unsqueeze(1)  # (1797, 1, 8, 8), whole numbers from 0 to 16
    images, labels = grey.mul(255 / 16).round().to(torch.uint8), torch.from_numpy(digits.target).long()
    return Source(
        name, entry.classes, {"train": Part(images[:-360], labels[:-360]), "test": Part(images[-360:], labels[-360:])}
    )


def _mnist(name: str, entry: NamedSet, data_dir: Path) -> Source:
    """The MNIST family, in its four idx files (yann.lecun.org/exdb/mnist), which torchvision downloads and unpacks.

    Reading them takes ten lines; importing torchvision for it would take a second of every start.
    """
    raw = data_dir / entry.folder
    if not all((raw / f).is_file() for f in _IDX):
        _download(name, entry, data_dir)
    arrays = [_idx(raw / f) for f in _IDX]
    parts = {s: Part(arrays[i].unsqueeze(1), arrays[i + 1].long()) for s, i in (("train", 0), ("test", 2))}
    return Source(name, entry.classes, parts)


def _idx(path: Path) -> Tensor:
    """An idx file of bytes: two zeros, type 8, the number of axes, their big-endian sizes, the values."""
    data = bytearray(path.read_bytes())
    axes = data[3] if data[:3] == b"\0\0\x08" else 0
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    if not axes or len(data) != 4 + 4 * axes + torch.Size(shape).numel():
        raise CnnError(f"{path} is damaged (perhaps half unpacked); delete it, and run again")
    return torch.frombuffer(data, dtype=torch.uint8, offset=4 + 4 * axes).view(shape)


def _cifar(name: str, entry: NamedSet, data_dir: Path) -> Source:
    """CIFAR's pickles, which torchvision checks by their MD5 before it reads them."""
    from torchvision import datasets

    build = getattr(datasets, entry.torchvision)
    try:
        train, test = (build(data_dir, train=t) for t in (True, False))
    except RuntimeError:  # torchvision: "Dataset not found or corrupted"
        _download(name, entry, data_dir)
        train, test = (build(data_dir, train=t) for t in (True, False))
    parts = {s: Part(_from_nhwc(d.data), torch.tensor(d.targets)) for s, d in (("train", train), ("test", test))}
    return Source(name, tuple(train.classes), parts)


def _from_nhwc(array: object) -> Tensor:
    return torch.as_tensor(array).permute(0, 3, 1, 2).contiguous()


def _download(name: str, entry: NamedSet, data_dir: Path) -> None:
    """Let torchvision download and unpack; archives that lie there already are checked (MD5) and unpacked only."""
    from torchvision import datasets

    folder = data_dir / entry.folder
    there = all((folder / f).is_file() for f in entry.files)
    made = [p for p in (folder, folder.parent, data_dir) if not p.exists()]
    try:
        with downloading(f"{name}: {'unpacking' if there else 'downloading to'} {folder}"):
            getattr(datasets, entry.torchvision)(data_dir, download=True)
    except DownloadError as error:
        for empty in made:
            with contextlib.suppress(OSError):
                empty.rmdir()
        raise CnnError(_missing(name, entry, folder, str(error))) from None


def _missing(name: str, entry: NamedSet, folder: Path, reason: str) -> str:
    missing = [f for f in entry.files if not (folder / f).is_file()]
    if not missing:
        return f"{name}: the files in {folder} could not be read or written ({reason}); delete them, and run again"
    return (
        f"{name} is not in {folder} and could not be downloaded ({reason})\n"
        f"put {', '.join(missing)} there and run again (--data-dir names another place),\n"
        f"or try the data set that needs no download: --data digits"
    )


def _family(torchvision: str, classes: tuple[str, ...]) -> NamedSet:
    return NamedSet(_mnist, torchvision, f"{torchvision}/raw", tuple(f"{f}.gz" for f in _IDX), classes)


_ARTICLES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

NAMED: dict[str, NamedSet] = {
    "digits": NamedSet(_digits, classes=_DIGITS),
    "fashion-mnist": _family("FashionMNIST", _ARTICLES),
    "mnist": _family("MNIST", _DIGITS),
    "kmnist": _family("KMNIST", _KANA),
    "cifar10": NamedSet(_cifar, "CIFAR10", "", ("cifar-10-python.tar.gz",)),
    "cifar100": NamedSet(_cifar, "CIFAR100", "", ("cifar-100-python.tar.gz",)),
}
