"""Skipping images that cannot be read."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from cnn_cli.data.dataset import Dataset, Split
from cnn_cli.data.decoding import ReadImageError, decode_image
from cnn_cli.data.mask_layout import Layout
from cnn_cli.device import usable_cpus
from cnn_cli.errors import CnnError
from cnn_cli.progress import progress_bar
from cnn_cli.tables import counted


@contextmanager
def hint_at_skipping() -> Iterator[None]:
    """Add the option that skips unreadable images to errors about them."""
    try:
        yield
    except ReadImageError as error:
        raise CnnError(f"{error}\nor skip such images: --skip-unreadable") from None


def without_unreadable(dataset: Dataset) -> Dataset:
    """The data set without image files that cannot be decoded; a note counts and names them.

    Every file is decoded once, as a truncated image has a valid header. CnnError if a split or a class would be left
    without images.
    """
    splits, bad = {}, []
    for name, split in dataset.splits.items():
        if not isinstance(split.images, tuple):
            splits[name] = split
            continue
        readable = _are_readable(split.images, f"checking {name} images")
        bad += [path for path, ok in zip(split.images, readable, strict=True) if not ok]
        splits[name] = split.subset(torch.tensor(readable).nonzero().flatten())
    if not bad:
        return dataset
    for name, split in splits.items():
        lost = sorted(_labels(dataset.splits[name]) - _labels(split))
        if lost:
            label = dataset.classes[lost[0]] + ("" if name == "all" else f" in {name}")
            raise CnnError(f"{dataset.name}: none of the images of {label} can be read, such as {bad[0]}")
    return replace(dataset, splits=splits, notes=(*dataset.notes, _skipped(dataset.name, bad)))


def readable_pairs(root: Path, layout: Layout) -> tuple[Layout, list[str]]:
    """The layout without the pairs whose image or mask cannot be decoded, and a note that counts and names them.
    CnnError if a split would be left without images."""
    splits, bad = {}, []
    for name, pairs in layout.splits.items():
        images = _are_readable([image for image, _ in pairs], f"checking {name} images")
        masks = _are_readable([mask for _, mask in pairs], f"checking {name} masks")
        for pair, *ok in zip(pairs, images, masks, strict=True):
            bad += [path for path, fine in zip(pair, ok, strict=True) if not fine]
        splits[name] = [pair for pair, *ok in zip(pairs, images, masks, strict=True) if all(ok)]
        if not splits[name]:
            raise CnnError(f"{root}: no image with its mask can be read in {name}, such as {bad[-1]}")
    return replace(layout, splits=splits), [_skipped(str(root), bad)] if bad else []


def _skipped(name: str, bad: Sequence[Path]) -> str:
    names = ", ".join([*(path.name for path in bad[:3]), *["…"] * (len(bad) > 3)])
    return f"{name}: {counted(len(bad), 'unreadable image')} skipped ({names})"


def _are_readable(paths: Sequence[Path], description: str) -> list[bool]:
    with ThreadPoolExecutor(min(8, usable_cpus())) as pool:
        return list(progress_bar(pool.map(_is_readable, paths), len(paths), description))


def _labels(split: Split) -> set[int]:
    """The classes of the images; none for masks and boxes."""
    targets = split.targets
    return set(targets.tolist()) if isinstance(targets, torch.Tensor) and targets.dim() == 1 else set()


def _is_readable(path: Path) -> bool:
    try:
        decode_image(path, 1)
    except ReadImageError:
        return False
    return True
