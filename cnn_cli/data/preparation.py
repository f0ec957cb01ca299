"""Preprocessing of all images before training: kept in memory as bytes, or read when needed."""

import math
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from cnn_cli.data.boxes import BoxFiles, are_boxes, box_rows, fit_boxes
from cnn_cli.data.dataset import SEGMENTATION, Dataset, Split
from cnn_cli.data.decoding import decode_image, read_shape
from cnn_cli.data.image_cache import ImageCache, open_cache
from cnn_cli.data.masks import are_masks
from cnn_cli.data.preprocessing import Preprocessing, describe_changes, preprocess, preprocess_masks
from cnn_cli.device import free_memory, usable_cpus
from cnn_cli.errors import CnnError, StoppedError, UsageError
from cnn_cli.progress import progress_bar
from cnn_cli.tables import format_bytes

_CHUNK = 1024


@dataclass(frozen=True)
class ImageStream(TorchDataset[Tensor]):
    """Images too many for memory: read and preprocessed, batch by batch, in worker processes.

    cache: stores those of files; `places` (n,) are their numbers there.
    """

    images: Tensor | tuple[Path, ...]
    preprocessing: Preprocessing
    workers: int
    cache: ImageCache | None = None
    places: Any = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, index: list[int]) -> Tensor | str:
        """(b, C, H, W) bytes; or the text of an error: an exception would be reported with the worker's traceback."""
        try:
            if isinstance(self.images, Tensor):
                return preprocess(self.images[index], self.preprocessing)
            images = torch.empty(len(index), *self.preprocessing.input, dtype=torch.uint8)
            for image, number in zip(images, index, strict=True):
                self._read(number, image)
            return images
        except StoppedError:
            raise
        except CnnError as error:
            return str(error)

    def is_cached(self) -> bool:
        """Whether all images are in the cache, so that no workers are needed."""
        return self.cache is not None and not self.cache.missing()[self.places].any()

    def _read(self, number: int, image: Tensor) -> None:
        assert not isinstance(self.images, Tensor)
        if self.cache and self.cache.read(self.places[number], image):
            return
        image.copy_(read_image(self.images[number], self.preprocessing)[0])
        if self.cache:
            self.cache.write(self.places[number], image)


@dataclass(frozen=True)
class PreparedSplit:
    """Images at the size of the network's input, (n, C, H, W) bytes or a stream of them.

    targets: (n,) labels; masks of that size, (n, H, W) bytes; boxes (n, m, 7) in its pixels.
    """

    name: str
    images: Tensor | ImageStream
    targets: Tensor

    @property
    def device(self) -> torch.device:
        """The device of the images, on which indices should be."""
        return self.images.device if isinstance(self.images, Tensor) else torch.device("cpu")

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class PreparedData:
    """A data set whose images fit the network. `notes` are one-line remarks for the user."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, PreparedSplit]
    notes: tuple[str, ...]


def prepare(
    dataset: Dataset, preprocessing: Preprocessing, device: torch.device, workers: int | None = None
) -> PreparedData:
    """Resize all images to the network's input and keep them on the device if they fit, else in memory, else stream.

    All image files are opened here, so that a bad one is reported before training. UsageError for channels that cannot
    be converted.
    """
    per_image = torch.Size(preprocessing.input).numel()
    if dataset.task == SEGMENTATION:
        per_image += preprocessing.input[1] * preprocessing.input[2]
    size = sum(len(s) for s in dataset.splits.values()) * per_image
    workers = min(8, usable_cpus()) if workers is None else workers
    notes = [*dataset.notes, *_changes(dataset, preprocessing)]
    in_memory = size <= free_memory() // 2
    home = device if in_memory and size <= free_memory(device) // 2 else torch.device("cpu")
    if in_memory:
        images: dict[str, Any] = {
            name: _preprocess_all(split, preprocessing, max(1, workers)).to(home)
            for name, split in dataset.splits.items()
        }
    else:
        images, note = _streams(dataset, preprocessing, workers)
        notes.append(f"{dataset.name}: {size / 1e9:.1f} GB as bytes; {note}")
    splits = {}
    for name, split in dataset.splits.items():
        targets = _fitted_targets(split, preprocessing, max(1, workers), in_memory)
        splits[name] = PreparedSplit(name, images[name], targets.to(home))
    return PreparedData(dataset.name, dataset.classes, splits, tuple(notes))


def _streams(dataset: Dataset, preprocessing: Preprocessing, workers: int) -> tuple[dict[str, ImageStream], str]:
    """The images of each split, from the cache if they are there; and a note on how they are read.

    The headers of uncached files are checked.
    """
    streams, again = {}, f"read again every epoch by {workers} workers"
    opened = open_cache(dataset.name, dataset.files, preprocessing) if dataset.files else ""
    if isinstance(opened, str):
        for name, split in dataset.splits.items():
            _check_headers(split.images, max(1, workers))
            streams[name] = ImageStream(split.images, preprocessing, workers)
        return streams, f"{again} ({opened})" if opened else again
    number, missing, absent = {path: i for i, path in enumerate(dataset.files)}, opened.missing(), 0
    for name, split in dataset.splits.items():
        assert not isinstance(split.images, Tensor)
        places = np.array([number[path] for path in split.images], np.int64)
        unread = missing[places].nonzero()[0].tolist()
        _check_headers([split.images[i] for i in unread], max(1, workers))
        streams[name], absent = ImageStream(split.images, preprocessing, workers, opened, places), absent + len(unread)
    kept = f"{len(dataset.files):,} images ({format_bytes(opened.size)}) in {opened.path.parent}"
    return streams, f"caching {kept}" if absent else f"cached: {kept}"


def read_image(path: Path, preprocessing: Preprocessing) -> Tensor:
    """An image file → (1, C, H, W) bytes."""
    return preprocess(decode_image(path, preprocessing.input[0]).unsqueeze(0), preprocessing)


def _preprocess_all(split: Split, preprocessing: Preprocessing, threads: int) -> Tensor:
    """(n, C, H, W) bytes. Files are decoded in threads, as Pillow releases Python's lock while it decodes.

    If nothing changes, the images themselves rather than a copy.
    """
    images = split.images
    result = torch.empty(len(split), *preprocessing.input, dtype=torch.uint8)
    if isinstance(images, Tensor):
        _, channels, height, width = images.shape
        if not describe_changes("", channels, (height, width), preprocessing):
            return images
        starts = range(0, len(images), _CHUNK)
        for start in progress_bar(starts, len(starts), "resizing images"):
            result[start : start + _CHUNK] = preprocess(images[start : start + _CHUNK], preprocessing)
        return result
    with ThreadPoolExecutor(threads) as pool:
        decoded = pool.map(lambda path: read_image(path, preprocessing), images)
        for i, image in enumerate(progress_bar(decoded, len(images), "reading images")):
            result[i] = image[0]
    return result


def _fitted_targets(split: Split, preprocessing: Preprocessing, threads: int, in_memory: bool) -> Tensor:
    """Labels unchanged; masks and boxes at the size of the network's input, masks in a file if not in memory."""
    targets = split.targets
    if are_boxes(targets):
        return fit_boxes(box_rows(targets), image_sizes(split), preprocessing)
    if isinstance(targets, Tensor) and not are_masks(targets):
        return targets
    assert not isinstance(targets, BoxFiles)
    shape = len(targets), *preprocessing.input[1:]
    result = torch.empty(shape, dtype=torch.uint8) if in_memory else _in_temporary_file(shape)
    if isinstance(targets, Tensor):
        for start in range(0, len(targets), _CHUNK):
            result[start : start + _CHUNK] = preprocess_masks(targets[start : start + _CHUNK], preprocessing)
        return result
    with ThreadPoolExecutor(threads) as pool:
        for i, mask in enumerate(pool.map(targets.read, range(len(targets)))):
            result[i] = preprocess_masks(mask.unsqueeze(0), preprocessing)[0]
    return result


def _in_temporary_file(shape: tuple[int, ...]) -> Tensor:
    """Bytes in a temporary file, read page by page when needed. CnnError if there is no room for it."""
    size = math.prod(shape)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would end the process later, by a signal
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
            return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))
    except OSError as error:
        need = f"{size / 1e9:.1f} GB for masks in {tempfile.gettempdir()}"
        raise CnnError(f"no space for {need} ({error.strerror}); free some, or set TMPDIR to another folder") from None


def image_sizes(split: Split) -> Tensor:
    """(n, 2) int64 h, w of the images of boxes."""
    if isinstance(split.targets, BoxFiles):
        return split.targets.sizes
    assert isinstance(split.images, Tensor)
    return torch.tensor(split.images.shape[-2:]).expand(len(split), 2)


def _check_headers(files: Tensor | Sequence[Path], threads: int) -> None:
    """CnnError names the first file that is not an image."""
    if isinstance(files, Tensor):
        return
    parts = [files[start : start + 64] for start in range(0, len(files), 64)]  # one by one would take twice as long
    with ThreadPoolExecutor(threads) as pool:
        shapes = chain.from_iterable(pool.map(lambda part: [read_shape(file) for file in part], parts))
        for _ in progress_bar(shapes, len(files), "checking images"):
            pass


def _changes(dataset: Dataset, preprocessing: Preprocessing) -> list[str]:
    """A note on how the images are changed: from all of them if they are in memory, else from a sample of the files."""
    shapes = [shape for split in dataset.splits.values() for shape in sample_shapes(split.images)]
    channels = max((s[0] for s in shapes), default=preprocessing.input[0])
    if preprocessing.input[0] not in (1, 3):
        raise UsageError(
            f"the network takes {preprocessing.input[0]} channels but the images have {channels}; "
            "images can be converted to 1 or 3 channels only"
        )
    sizes = {(h, w) for _, h, w in shapes}
    line = describe_changes(dataset.name, channels, sizes.pop() if len(sizes) == 1 else None, preprocessing)
    return [line] if line else []


def sample_shapes(images: Tensor | Sequence[Path]) -> list[tuple[int, int, int]]:
    if isinstance(images, Tensor):
        _, channels, height, width = images.shape
        return [(channels, height, width)]
    return [read_shape(path) for path in images[:: max(1, len(images) // 64)]]
