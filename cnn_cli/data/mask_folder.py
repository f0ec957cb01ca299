"""A folder of images with masks as a data set: the meaning of its pixels and all mistakes are found before training.

Masks hold class indices (gray or palette), only 0 and 255, or colors; classes.txt (mask_classes.py) names the classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from cnn_cli.data.dataset import SEGMENTATION, Dataset, Split
from cnn_cli.data.decoding import decode_mask, read_shape
from cnn_cli.data.mask_classes import FILE, ClassList, find_class_list
from cnn_cli.data.mask_file import MaskPixels, read_pixels
from cnn_cli.data.mask_layout import Layout
from cnn_cli.data.masks import MAX_CLASSES, VOID, MaskFiles
from cnn_cli.device import usable_cpus
from cnn_cli.errors import CnnError, UsageError, listed
from cnn_cli.progress import progress_bar

_MOST_VALUES = 64  # in one mask without classes.txt; more are the gray levels of a picture
_SPARSE = (32, 4)  # a highest value of at least 32, and more than four times as many as occur: gray levels
_MOST_LINES = 24  # of a classes.txt that an error proposes
_BINARY = ("background", "foreground")


@dataclass(frozen=True)
class Coding:
    """What pixels mean: the class, or VOID, of each value, or of each color as 0xRRGGBB."""

    classes: tuple[str, ...]
    numbers: Mapping[int, int]
    colors: bool
    meaning: str


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
            _check_size(path, mask, pixels[mask], (width, height))
    masks = list(pixels.values())
    coding = _coding(masks, find_class_list([root, layout.root, pairs[0][1].parent]), root / FILE)
    for mask_pixels in masks:
        _check_pixels(mask_pixels, coding)
    splits = {name: _split(split, pixels, coding) for name, split in layout.splits.items()}
    notes = (f"masks: {coding.meaning}", *_check_classes(root, splits, coding.classes))
    return Dataset(str(root), coding.classes, splits, notes, SEGMENTATION, layout.name)


def _check_size(path: Path, mask: Path, pixels: MaskPixels, size: tuple[int, int]) -> None:
    if pixels.size == size:
        return
    sizes = f"{mask} is {_by(pixels.size)} pixels, but its image {path.name} is {_by(size)}"
    if pixels.size == size[::-1]:
        raise CnnError(f"{sizes}, rotated by its EXIF tag;\nrotate the mask, too, or remove the tag")
    raise CnnError(f"{sizes}; make a mask of the image's size, without smoothing")


def _coding(masks: Sequence[MaskPixels], known: ClassList | None, file: Path) -> Coding:
    """What the pixels of all masks mean. file: where the classes can be named."""
    if known and known.kind == "colors":
        return Coding(known.classes, known.numbers(), True, f"colors, named in {known.path.name}")
    colored = next((mask for mask in masks if mask.values is None), None)
    if colored is not None:
        colors = sum((Counter(mask.colors) for mask in masks), Counter[int]())
        codes = [f"{c >> 16} {c >> 8 & 255} {c & 255}" for c, _ in colors.most_common()]
        raise UsageError(
            f"{colored.path} has colors ({len(colors)} in all masks); {file} must name their classes. Copy this "
            f"and rename the classes:\n{_proposal(codes)}"
        )
    values = sum((Counter(mask.values) for mask in masks), Counter[int]())
    if set(values) <= {0, 255} and 255 in values and (known is None or known.numbers() == {0: 0, 1: 1}):
        return Coding(known.classes if known else _BINARY, {0: 0, 255: 1}, False, "0 and 255, two classes")
    if known:
        numbers = {255: VOID} | known.numbers()
        return Coding(known.classes, numbers, False, f"class indices, named in {known.path.name}; 255 is void")
    indices = sorted(set(values) - {255})
    _check_indices(masks, values, indices, file)
    names = _BINARY if indices[-1] == 1 else tuple(map(str, range(indices[-1] + 1)))
    numbers = {i: i for i in range(len(names))} | {255: VOID}
    return Coding(names, numbers, False, f"class indices 0 to {indices[-1]}; 255 is void; {FILE} can name them")


def _check_indices(masks: Sequence[MaskPixels], values: Mapping[int, int], indices: list[int], file: Path) -> None:
    """UsageError where values that nobody named cannot be class indices."""
    if not indices or indices[-1] == 0:
        raise UsageError(
            f"{masks[0].path} and all other masks have a single value; segmentation needs at least two classes"
        )
    between = indices[-1] >= _SPARSE[0] and values.get(255, 0) + values.get(0, 0) > 0.9 * sum(values.values())
    crowded = next((mask for mask in masks if len(mask.values or ()) > _MOST_VALUES), None)
    sparse = indices[-1] >= _SPARSE[0] and indices[-1] + 1 > _SPARSE[1] * len(indices)
    if indices[-1] < MAX_CLASSES - 1 and not (between or crowded or sparse):
        return
    mask = crowded or next(m for m in masks if set(m.values or ()) - {0, 255})
    value = next(v for v in sorted(mask.values or ()) if v not in (0, 255))
    text = f"{mask.path} has the gray level {value} at pixel {_place(mask.path, value, False)}"
    if crowded or between:
        raise UsageError(
            f"{text}, and {len(indices)} values in all: these are gray levels, not labels\n"
            "save masks as PNG, and resize them by nearest-neighbor interpolation"
        )
    raise UsageError(
        f"{text}: gray levels, not class indices 0, 1, … {file} can name their classes. Copy this "
        f"and rename the classes:\n{_proposal([str(v) for v in sorted(values)])}"
    )


def _check_pixels(mask: MaskPixels, coding: Coding) -> None:
    """CnnError for a value or color without a class, and for a mask that is void everywhere."""
    counts = mask.colors if coding.colors else mask.values or {}
    unknown = next((code for code in counts if code not in coding.numbers), None)
    if unknown is not None:
        red, green, blue = unknown >> 16, unknown >> 8 & 255, unknown & 255
        what = f"the color {red} {green} {blue}" if coding.colors else f"the value {unknown}"
        last = "" if coding.colors else f" (0 to {max(c for c in coding.numbers.values() if c != VOID)})"
        fix = "add a line to classes.txt" if coding.colors else "add it to classes.txt, or make these pixels 255 (void)"
        where = _place(mask.path, unknown, coding.colors)
        raise CnnError(f"{mask.path} has {what} at pixel {where}, which is not a class{last};\n{fix}")
    if all(coding.numbers[code] == VOID for code in counts):
        raise CnnError(f"{mask.path} has only void pixels; remove it and its image")


def _check_classes(root: Path, splits: Mapping[str, Split], classes: Sequence[str]) -> list[str]:
    """A note on classes that no mask has; UsageError for one that occurs outside of the training masks only."""
    seen = {name: _present(split) for name, split in splits.items()}
    for name, present in seen.items():
        if "train" in seen and (lost := sorted(present - seen["train"])):
            raise UsageError(
                f"{root}: no training mask shows {listed([classes[i] for i in lost])}, but masks of {name} do;\n"
                "move such images to the training split, or name the class void in classes.txt"
            )
    absent = [c for i, c in enumerate(classes) if not any(i in present for present in seen.values())]
    return [f"no mask shows {listed(absent)}"] if absent else []


def _present(split: Split) -> set[int]:
    assert isinstance(split.targets, MaskFiles)
    return set(split.targets.counts[:, :VOID].sum(0).nonzero().flatten().tolist())


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


def _place(path: Path, code: int, colors: bool) -> str:
    """Where a value or color first occurs: `x 12, y 7`."""
    y, x = (decode_mask(path, colors) == code).nonzero()
    return f"x {x[0]}, y {y[0]}"


def _proposal(codes: Sequence[str]) -> str:
    lines = [f"  {code} {'background' if i == 0 else f'class{i}'}" for i, code in enumerate(codes[:_MOST_LINES])]
    return "\n".join([*lines, *([f"  … ({len(codes)} in all)"] if len(codes) > _MOST_LINES else [])])


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
