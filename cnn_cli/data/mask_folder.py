"""A folder of images with masks as a data set: the meaning of its pixels and all mistakes are found before training."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from cnn_cli.data.dataset import SEGMENTATION, Dataset, Split
from cnn_cli.data.decoding import read_shape
from cnn_cli.data.mask_check import Coding, check_classes, check_pixels, check_size, find_coding
from cnn_cli.data.mask_classes import FILE, VOID, find_class_list
from cnn_cli.data.mask_file import MaskPixels, read_pixels
from cnn_cli.data.mask_layout import Layout
from cnn_cli.data.masks import MaskFiles
from cnn_cli.device import usable_cpus
from cnn_cli.progress import progress_bar


def read_mask_folder(root: Path, layout: Layout) -> Dataset:
    """The data set of a folder, its images not opened beyond their headers.

    CnnError or UsageError name the first mistake: the file, the pixel, and what to do.
    """
    pairs = [pair for split in layout.splits.values() for pair in split]
    with ThreadPoolExecutor(usable_cpus()) as pool:
        read = progress_bar(pool.map(lambda pair: read_pixels(pair[1]), pairs), len(pairs), "reading masks")
        pixels = dict(zip((mask for _, mask in pairs), read, strict=True))
        shapes = pool.map(lambda pair: read_shape(pair[0]), pairs)
        for (path, mask), (_, height, width) in zip(pairs, shapes, strict=True):
            check_size(path, mask, pixels[mask], (width, height))
    masks = list(pixels.values())
    coding = find_coding(masks, find_class_list([root, layout.root, pairs[0][1].parent]), root / FILE)
    for mask_pixels in masks:
        check_pixels(mask_pixels, coding)
    splits = {name: _split(split, pixels, coding) for name, split in layout.splits.items()}
    notes = (f"masks: {coding.meaning}", *check_classes(root, _present(splits), coding.classes))
    return Dataset(str(root), coding.classes, splits, notes, SEGMENTATION, layout.name)


def _present(splits: Mapping[str, Split]) -> dict[str, set[int]]:
    """The classes that occur in the masks of each split."""
    counts = {name: s.targets.counts for name, s in splits.items() if isinstance(s.targets, MaskFiles)}
    return {name: set(n[:, :VOID].sum(0).nonzero().flatten().tolist()) for name, n in counts.items()}


def _split(pairs: Sequence[tuple[Path, Path]], pixels: Mapping[Path, MaskPixels], coding: Coding) -> Split:
    counts = torch.zeros(len(pairs), 256, dtype=torch.int64)
    for row, (_, mask) in enumerate(pairs):
        by_code = pixels[mask].colors if coding.colors else pixels[mask].values or {}
        for code, n in by_code.items():
            counts[row, coding.numbers[code]] += n
    codes = sorted(coding.numbers)
    numbers = tuple(coding.numbers[code] for code in codes)
    files = tuple(mask for _, mask in pairs)
    digests = tuple(pixels[mask].digest for mask in files)
    masks = MaskFiles(files, tuple(codes), numbers, coding.colors, counts, digests)
    return Split(tuple(path for path, _ in pairs), masks)
