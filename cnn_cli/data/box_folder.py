"""A folder of images with boxes as a data set: every annotation error is found, with file and line, before training."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from cnn_cli.data.annotations import (
    AnnotatedImage,
    Annotations,
    Box,
    BoxError,
    InvalidAnnotationsError,
    is_file,
    without_invalid,
)
from cnn_cli.data.boxes import BoxFiles, Row, box_table, class_counts
from cnn_cli.data.dataset import DETECTION, Dataset, Split
from cnn_cli.data.decoding import ReadImageError, read_shape
from cnn_cli.device import usable_cpus
from cnn_cli.errors import UsageError, closest, listed
from cnn_cli.progress import progress_bar

_OUTSIDE = 1.0  # pixels by which a box may pass the border: programs round, and count from 0 or 1

Size = tuple[int, int]  # width, height of an image turned upright


def read_box_folder(root: Path, annotations: Annotations, skip_invalid: bool = False) -> Dataset:
    """The data set, its images not opened beyond their headers.

    InvalidAnnotationsError with all errors; where images with errors are skipped, a note counts them. UsageError for a
    folder without boxes, and for classes that differ in case only.
    """
    images = [image for split in annotations.splits.values() for image in split]
    with ThreadPoolExecutor(usable_cpus()) as pool:
        measured = pool.map(_measured, images)
        sizes = {i.path: s for i, s in zip(images, progress_bar(measured, len(images), "checking images"), strict=True)}
    errors = [*annotations.errors, *_duplicates(annotations)]
    for image in images:
        errors += _errors(image, sizes[image.path], annotations)
    notes: list[str] = []
    if errors and not skip_invalid:
        raise InvalidAnnotationsError(root, errors)
    if errors:
        annotations, notes = without_invalid(annotations, errors)
    classes = annotations.classes or _classes(annotations)
    splits = {name: _split(split, sizes, classes, annotations.fractions) for name, split in annotations.splits.items()}
    notes += _check_classes(root, splits, classes)
    notes = [f"{root}: {note}" for note in (*annotations.notes, *notes)]
    return Dataset(str(root), classes, splits, tuple(notes), DETECTION, annotations.layout)


def _measured(image: AnnotatedImage) -> Size | str:
    """The size of an image, or why it cannot be read; nothing for one that is not there, which its reader reports."""
    if not is_file(image.path):
        return ""
    try:
        _, height, width = read_shape(image.path)
    except ReadImageError as error:
        return str(error)
    return width, height


def _errors(image: AnnotatedImage, size: Size | str, annotations: Annotations) -> Iterator[BoxError]:
    if isinstance(size, str):
        yield from [BoxError(size, image.path)] * bool(size)
        return
    if image.size and image.size != size:
        width, height = image.size
        text = (
            f"{image.place()}: annotated at {width:g}x{height:g} pixels, but {image.path.name} has {size[0]}x{size[1]}"
        )
        if image.size == size[::-1]:
            yield BoxError(f"{text}, rotated by its EXIF tag; rotate the boxes, too, or remove the tag", image.path)
        else:
            yield BoxError(f"{text}; restore the annotated image, or rescale the boxes", image.path)
        return
    seen: dict[tuple[object, ...], Box] = {}
    for box in image.boxes:
        if problem := _problem(box, size, annotations):
            yield BoxError(f"{image.place(box)}: {problem}", image.path)
        elif other := seen.get((box.label, *box.corners)):
            first = other.name or f"line {image.place(other).rpartition(':')[2]}"
            text = f"the same box of class {box.label} as in {first}; remove one"
            yield BoxError(f"{image.place(box)}: {text}", image.path)
        seen.setdefault((box.label, *box.corners), box)


def _problem(box: Box, size: Size, annotations: Annotations) -> str:
    """What is wrong with a box, and what to do; or nothing."""
    if annotations.classes is not None and box.label not in annotations.classes:
        hint = closest(box.label, annotations.classes) or " Add it there, or correct it"
        return f"class {box.label!r} is not in classes.txt.{hint}"
    x0, y0, x1, y1 = _pixels(box, size, annotations.fractions)
    written = " ".join(f"{v:.6g}" for v in (x0, y0, x1, y1))
    if x1 <= x0 or y1 <= y0:
        return f"degenerate box {written} has no area; correct or remove it"
    inside = min(x0, y0) >= -_OUTSIDE and x1 <= size[0] + _OUTSIDE and y1 <= size[1] + _OUTSIDE
    left, top, right, bottom, *_ = _row(box, size, annotations.fractions)
    if not inside or right <= left or bottom <= top:
        return f"box {written} is outside the image, which has {size[0]}x{size[1]} pixels; correct or remove it"
    return ""


def _pixels(box: Box, size: Size, fractions: bool) -> tuple[float, ...]:
    if not fractions:
        return box.corners
    return tuple(value * size[i % 2] for i, value in enumerate(box.corners))


def _row(box: Box, size: Size, fractions: bool, label: int = 0) -> Row:
    """The box within the image."""
    x0, y0, x1, y1 = (min(max(0.0, v), size[i % 2]) for i, v in enumerate(_pixels(box, size, fractions)))
    return x0, y0, x1, y1, label, box.flag


def _duplicates(annotations: Annotations) -> Iterator[BoxError]:
    """Images that are there twice: in two splits, or as two files with the same bytes."""
    of: dict[Path, str] = {}
    by_size = defaultdict[int, list[Path]](list)
    for name, split in annotations.splits.items():
        for image in split:
            if image.path in of:
                yield BoxError(f"{image.path} is in {of[image.path]} and in {name}; remove it from one", image.path)
            elif is_file(image.path):
                by_size[image.path.stat().st_size].append(image.path)
            of.setdefault(image.path, name)
    for paths in by_size.values():
        same: dict[bytes, Path] = {}
        for path in paths if len(paths) > 1 else ():
            other = same.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
            if other is not path:
                splits = f" ({of[other]} and {of[path]})" if of[other] != of[path] else ""
                yield BoxError(f"{path} is the same image as {other}{splits}; remove one", path)


def _classes(annotations: Annotations) -> tuple[str, ...]:
    """The names that occur, sorted. UsageError where two differ in case only."""
    known: dict[str, str] = {}
    for split in annotations.splits.values():
        for image in split:
            for box in image.boxes:
                if (other := known.setdefault(box.label.lower(), box.label)) != box.label:
                    place = image.place(box)
                    raise UsageError(f"{place}: class {box.label!r} and {other!r} differ in case only; make them agree")
    return tuple(sorted(known.values()))


def _split(
    images: Sequence[AnnotatedImage], sizes: dict[Path, Size | str], classes: Sequence[str], fractions: bool
) -> Split:
    index, rows, shapes = {name: i for i, name in enumerate(classes)}, [], []
    for image in images:
        size = sizes[image.path]
        assert not isinstance(size, str)
        rows.append([_row(box, size, fractions, index[box.label]) for box in image.boxes])
        shapes.append(size[::-1])
    targets = BoxFiles(box_table(rows), torch.tensor(shapes, dtype=torch.int64).view(-1, 2))
    return Split(tuple(image.path for image in images), targets)


def _check_classes(root: Path, splits: dict[str, Split], classes: Sequence[str]) -> list[str]:
    """Notes on classes without boxes. UsageError where no image to train on has boxes, or a split has no images."""
    if empty := [name for name, split in splits.items() if not len(split)]:
        raise UsageError(f"{root}: no images without annotation errors in {listed(empty)}; add or correct some")
    shown = {}
    for name, split in splits.items():
        assert isinstance(split.targets, BoxFiles)
        shown[name] = class_counts(split.targets, len(classes)).sum(0)
    first = next(iter(shown))
    if first in ("all", "train") and not shown[first].any():
        raise UsageError(
            f"{root} has no boxes{' in train' if first == 'train' else ''}; detection needs some for training"
        )
    total = torch.stack(list(shown.values())).sum(0)
    notes = []
    if absent := [name for i, name in enumerate(classes) if not total[i]]:
        notes.append(f"no boxes of {listed(absent)}")
    if first == "train" and (unseen := [n for i, n in enumerate(classes) if total[i] and not shown[first][i]]):
        notes.append(f"no training boxes of {listed(unseen)}")
    return notes
