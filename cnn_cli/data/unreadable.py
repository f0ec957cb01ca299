"""A folder of images without those that cannot be read."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from cnn_cli.data.dataset import Dataset, Split
from cnn_cli.data.decoding import ReadImageError, decode_image
from cnn_cli.device import usable_cpus
from cnn_cli.errors import CnnError
from cnn_cli.progress import progress_bar


def without_unreadable(dataset: Dataset) -> Dataset:
    """The data set without image files that cannot be decoded; a note counts and names them.

    Every file is decoded once: the header of a truncated image looks fine. CnnError where a split or a class would be
    left without images.
    """
    splits, bad = {}, []
    for name, split in dataset.splits.items():
        if not isinstance(split.images, tuple):
            splits[name] = split
            continue
        with ThreadPoolExecutor(min(8, usable_cpus())) as pool:
            checked = pool.map(_is_readable, split.images)
            readable = list(progress_bar(checked, len(split), f"checking {name} images"))
        bad += [path for path, ok in zip(split.images, readable, strict=True) if not ok]
        splits[name] = split.subset(torch.tensor(readable).nonzero().flatten())
    if not bad:
        return dataset
    for name, split in splits.items():
        lost = sorted(_labels(dataset.splits[name]) - _labels(split))
        if lost:
            label = dataset.classes[lost[0]] + ("" if name == "all" else f" in {name}")
            raise CnnError(f"{dataset.name}: no image of {label} can be read, such as {bad[0]}")
    names = ", ".join([*(path.name for path in bad[:3]), *["…"] * (len(bad) > 3)])
    note = f"{dataset.name}: {len(bad):,} unreadable image{'s' * (len(bad) > 1)} skipped ({names})"
    return replace(dataset, splits=splits, notes=(*dataset.notes, note))


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
