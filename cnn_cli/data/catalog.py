"""The named data sets, and how each is read. All fit into memory as bytes."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_cli.data.dataset import DETECTION, SEGMENTATION, Dataset, Split
from cnn_cli.errors import CnnError
from cnn_cli.files import DownloadError, downloading

if TYPE_CHECKING:
    from torch import Tensor

    from cnn_cli.data.boxes import Row
    from cnn_cli.data.digit_scenes import DigitScenes
    from cnn_cli.data.shapes import Shapes

_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class NamedDataset:
    """A data set that is loaded by its name.

    read: loads it from the data folder. shape: (C, H, W) of every image. source: publication and license. classes:
    their names, unless the files have them. torchvision: the class that downloads `files` to `folder` there.
    read_boxes: loads the same images with boxes.
    """

    name: str
    title: str
    read: "Callable[[NamedDataset, Path], Dataset]"
    class_count: int
    shape: tuple[int, int, int]
    train: int
    test: int
    source: str
    classes: tuple[str, ...] = ()
    torchvision: str = ""
    folder: str = ""
    files: tuple[str, ...] = ()
    read_boxes: "Callable[[NamedDataset, Path], Dataset] | None" = None


def load_named(name: str, data_dir: Path, task: str | None = None) -> Dataset:
    """The train and test splits of a named data set, downloaded to `data_dir` once; for detection its boxes, if any.

    CnnError if it cannot be downloaded; the message says which files to copy where.
    """
    entry = DATASETS[name]
    read = entry.read_boxes if task == DETECTION and entry.read_boxes else entry.read
    return read(entry, data_dir)


def _read_digits(entry: NamedDataset, data_dir: Path) -> Dataset:
    """From scikit-learn; the last 360 images, written by other people, are the test split."""
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).unsqueeze(1)  # (1797, 1, 8, 8), integers from 0 to 16
    images, labels = pixels.mul(255 / 16).round().to(torch.uint8), torch.from_numpy(digits.target).long()
    splits = {"train": Split(images[:-360], labels[:-360]), "test": Split(images[-360:], labels[-360:])}
    return Dataset(entry.name, entry.classes, splits)


def _read_mnist(entry: NamedDataset, data_dir: Path) -> Dataset:
    """Four idx files (yann.lecun.org/exdb/mnist), which torchvision downloads and unpacks.

    Reading them here takes ten lines; importing torchvision would add a second to every start.
    """
    folder = data_dir / entry.folder
    if not all((folder / file).is_file() for file in _IDX):
        _download(entry, data_dir)
    arrays = [_read_idx(folder / file) for file in _IDX]
    splits = {s: Split(arrays[i].unsqueeze(1), arrays[i + 1].long()) for s, i in (("train", 0), ("test", 2))}
    return Dataset(entry.name, entry.classes, splits)


def _read_idx(path: Path) -> "Tensor":
    """An idx file of bytes: two zeros, type 8, the number of axes, their big-endian sizes, the values."""
    import torch

    data = bytearray(path.stat().st_size)
    with path.open("rb") as file:
        file.readinto(data)
    axes = data[3] if data[:3] == b"\0\0\x08" else 0
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    if not axes or len(data) != 4 + 4 * axes + torch.Size(shape).numel():
        raise CnnError(f"{path} is damaged (perhaps partly unpacked); delete it and run again")
    return torch.frombuffer(data, dtype=torch.uint8, offset=4 + 4 * axes).view(shape)


def _read_cifar(entry: NamedDataset, data_dir: Path) -> Dataset:
    """Pickle files, which torchvision verifies by their MD5 before it reads them."""
    import torch

    train, test = _torchvision_splits(entry, data_dir, [{"train": True}, {"train": False}])
    splits = {
        name: Split(torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(split.targets))
        for name, split in (("train", train), ("test", test))
    }
    return Dataset(entry.name, tuple(train.classes), splits)


def _read_svhn(entry: NamedDataset, data_dir: Path) -> Dataset:
    """MATLAB files, which torchvision verifies by their MD5 and scipy reads."""
    import torch

    names = ("train", "test")
    loaded = _torchvision_splits(entry, data_dir, [{"split": name} for name in names])
    splits = {
        n: Split(torch.from_numpy(s.data), torch.from_numpy(s.labels)) for n, s in zip(names, loaded, strict=True)
    }
    return Dataset(entry.name, entry.classes, splits)


def _read_shapes(entry: NamedDataset, data_dir: Path) -> Dataset:
    """Generated, with the same bytes on every machine."""
    from cnn_cli.data.shapes import CLASSES, TRAIN, read_shapes

    shapes = read_shapes(data_dir)
    parts = {"train": slice(TRAIN), "test": slice(TRAIN, None)}
    splits = {name: Split(shapes.images[part], shapes.masks[part]) for name, part in parts.items()}
    return Dataset(entry.name, CLASSES, splits, task=SEGMENTATION)


def _read_shape_boxes(entry: NamedDataset, data_dir: Path) -> Dataset:
    from cnn_cli.data.shapes import CLASSES, TRAIN, read_shapes

    shapes = read_shapes(data_dir)
    return _boxes(entry, CLASSES[1:], shapes, shapes.labels - 1, TRAIN)  # without the background


def _read_digit_scenes(entry: NamedDataset, data_dir: Path) -> Dataset:
    from cnn_cli.data.digit_scenes import TRAIN, read_digit_scenes

    scenes = read_digit_scenes(data_dir)
    return _boxes(entry, entry.classes, scenes, scenes.labels, TRAIN)


def _boxes(
    entry: NamedDataset, classes: tuple[str, ...], pictures: "Shapes | DigitScenes", labels: "Tensor", train: int
) -> Dataset:
    """The first `train` pictures are for training, the others for testing."""
    from cnn_cli.data.boxes import box_table

    rows: list[list[Row]] = [[] for _ in pictures.images]
    for owner, box, label in zip(pictures.owners.tolist(), pictures.boxes.tolist(), labels.tolist(), strict=True):
        rows[owner].append((*box, label, 0))
    boxes = box_table(rows)
    parts = {"train": slice(train), "test": slice(train, None)}
    splits = {name: Split(pictures.images[part], boxes[part]) for name, part in parts.items()}
    return Dataset(entry.name, classes, splits, task=DETECTION)


def _torchvision_splits(entry: NamedDataset, data_dir: Path, options: Sequence[dict[str, Any]]) -> list[Any]:
    """torchvision's data set with each of the options, downloaded if it is not there or damaged."""
    from torchvision import datasets

    build = getattr(datasets, entry.torchvision)
    try:
        return [build(data_dir, **o) for o in options]
    except RuntimeError:  # torchvision: "Dataset not found or corrupted"
        _download(entry, data_dir, options)
        return [build(data_dir, **o) for o in options]


def _download(entry: NamedDataset, data_dir: Path, options: Sequence[dict[str, Any]] = ({},)) -> None:
    """Download and unpack with torchvision; archives that are already there are only verified (MD5) and unpacked."""
    from torchvision import datasets

    folder = data_dir / entry.folder
    unpacking = all((folder / file).is_file() for file in entry.files)
    created = [path for path in (folder, folder.parent, data_dir) if not path.exists()]
    try:
        with downloading(f"{entry.name}: {'unpacking in' if unpacking else 'downloading to'} {folder}"):
            for o in options:
                getattr(datasets, entry.torchvision)(data_dir, download=True, **o)
    except DownloadError as error:
        for empty in created:
            with contextlib.suppress(OSError):
                empty.rmdir()
        raise CnnError(_download_failed(entry, folder, str(error))) from None


def _download_failed(entry: NamedDataset, folder: Path, reason: str) -> str:
    missing = [file for file in entry.files if not (folder / file).is_file()]
    if not missing:
        return f"{entry.name}: the files in {folder} cannot be read or written ({reason}); delete them and run again"
    return (
        f"{entry.name} is not in {folder} and could not be downloaded ({reason})\n"
        f"copy {', '.join(missing)} there and run again (--data-dir names another folder),\n"
        f"or use the data set that needs no download: --data digits"
    )


_DIGITS = tuple("0123456789")
_ARTICLES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def _mnist(name: str, title: str, classes: tuple[str, ...], source: str, torchvision: str) -> NamedDataset:
    folder, files = f"{torchvision}/raw", tuple(f"{file}.gz" for file in _IDX)
    return NamedDataset(
        name,
        title,
        _read_mnist,
        class_count=10,
        shape=(1, 28, 28),
        train=60_000,
        test=10_000,
        source=source,
        classes=classes,
        torchvision=torchvision,
        folder=folder,
        files=files,
    )


def _cifar(classes: int, archive: str) -> NamedDataset:
    return NamedDataset(
        f"cifar{classes}",
        f"photos of objects in {classes} classes",
        _read_cifar,
        classes,
        (3, 32, 32),
        *(50_000, 10_000),
        "Krizhevsky 2009; no license stated",
        torchvision=f"CIFAR{classes}",
        files=(archive,),
    )


_ENTRIES = (
    NamedDataset(
        "digits",
        "small handwritten digits, no download",
        _read_digits,
        10,
        (1, 8, 8),
        *(1_437, 360),
        "Alpaydin and Kaynak 1998, from scikit-learn; CC BY 4.0",
        _DIGITS,
    ),
    NamedDataset(
        "shapes",
        "overlapping shapes with masks and boxes, no download",
        _read_shapes,
        7,
        (3, 64, 64),
        *(4_000, 500),
        "generated by this tool",
        read_boxes=_read_shape_boxes,
    ),
    NamedDataset(
        "digit-scenes",
        "handwritten digits on textures with boxes, no download",
        _read_digit_scenes,
        10,
        (3, 64, 64),
        *(4_000, 500),
        "generated by this tool from `digits`; CC BY 4.0",
        _DIGITS,
    ),
    _mnist("fashion-mnist", "photos of clothing", _ARTICLES, "Xiao et al. 2017; MIT", "FashionMNIST"),
    _mnist("mnist", "handwritten digits", _DIGITS, "LeCun et al. 1998; CC BY-SA 3.0", "MNIST"),
    _mnist("kmnist", "cursive Japanese characters", _KANA, "Clanuwat et al. 2018; CC BY-SA 4.0", "KMNIST"),
    _cifar(10, "cifar-10-python.tar.gz"),
    _cifar(100, "cifar-100-python.tar.gz"),
    NamedDataset(
        "svhn",
        "house numbers in street views",
        _read_svhn,
        10,
        (3, 32, 32),
        *(73_257, 26_032),
        "Netzer et al. 2011; for non-commercial use",
        _DIGITS,
        "SVHN",
        files=("train_32x32.mat", "test_32x32.mat"),
    ),
)
DATASETS: dict[str, NamedDataset] = {entry.name: entry for entry in _ENTRIES}
