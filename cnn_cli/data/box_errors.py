"""The annotation errors of a folder of images with boxes: each with its file, its line, and what to do."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cnn_cli.data.annotations import AnnotatedImage, Annotations, Box, BoxError, Row, is_file
from cnn_cli.data.decoding import ReadImageError, read_shape
from cnn_cli.device import usable_cpus
from cnn_cli.errors import UsageError, closest, listed
from cnn_cli.progress import progress_bar

_OUTSIDE = 1.0  # pixels by which a box may pass the border: programs round, and count from 0 or 1

Size = tuple[int, int]  # width, height of an image turned upright


def find_box_errors(annotations: Annotations) -> tuple[list[BoxError], dict[Path, Size | str]]:
    """All annotation errors, and the size of each image, or why it cannot be read."""
    images = [image for split in annotations.splits.values() for image in split]
    with ThreadPoolExecutor(usable_cpus()) as pool:
        measured = pool.map(_measured, images)
        sizes = {i.path: s for i, s in zip(images, progress_bar(measured, len(images), "checking boxes"), strict=True)}
    errors = [*annotations.errors, *_duplicates(annotations)]
    for image in images:
        errors += _errors(image, sizes[image.path], annotations)
    return sorted(errors, key=_place), sizes


def _place(error: BoxError) -> str:
    """For sorting by file and line: the text with leading zeros, so that line 7 is before line 10."""
    return re.sub("[0-9]+", lambda number: number[0].zfill(20), error.text)


def _measured(image: AnnotatedImage) -> Size | str:
    """The size of an image, or why it cannot be read; empty for one that does not exist, which its reader reports."""
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
    """What is wrong with a box, and what to do; empty if it is valid."""
    if annotations.classes is not None and box.label not in annotations.classes:
        hint = closest(box.label, annotations.classes) or " Add it there, or correct it"
        return f"class {box.label!r} is not in classes.txt.{hint}"
    x0, y0, x1, y1 = _pixels(box, size, annotations.fractions)
    written = " ".join(f"{v:.6g}" for v in (x0, y0, x1, y1))
    if x1 <= x0 or y1 <= y0:
        return f"degenerate box {written} has no area; correct or remove it"
    inside = min(x0, y0) >= -_OUTSIDE and x1 <= size[0] + _OUTSIDE and y1 <= size[1] + _OUTSIDE
    left, top, right, bottom, *_ = box_row(box, size, annotations.fractions)
    if not inside or right <= left or bottom <= top:
        return f"box {written} is outside the image, which has {size[0]}x{size[1]} pixels; correct or remove it"
    return ""


def _pixels(box: Box, size: Size, fractions: bool) -> tuple[float, ...]:
    if not fractions:
        return box.corners
    return tuple(value * size[i % 2] for i, value in enumerate(box.corners))


def box_row(box: Box, size: Size, fractions: bool, label: int = 0) -> Row:
    """The box clipped to the image, in pixels."""
    x0, y0, x1, y1 = (min(max(0.0, v), size[i % 2]) for i, v in enumerate(_pixels(box, size, fractions)))
    return x0, y0, x1, y1, label, box.flag


def _duplicates(annotations: Annotations) -> Iterator[BoxError]:
    """Duplicate images: in two splits, or as two files with the same bytes."""
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


def box_classes(annotations: Annotations) -> tuple[str, ...]:
    """The class names that occur, sorted. UsageError if two differ in case only."""
    known: dict[str, str] = {}
    for split in annotations.splits.values():
        for image in split:
            for box in image.boxes:
                if (other := known.setdefault(box.label.lower(), box.label)) != box.label:
                    place = image.place(box)
                    raise UsageError(f"{place}: class {box.label!r} and {other!r} differ in case only; make them match")
    return tuple(sorted(known.values()))


def count_boxes(annotations: Annotations) -> dict[str, Counter[str] | None]:
    """The boxes of each class by split; None for a split without images."""
    return {
        name: Counter(box.label for image in split for box in image.boxes) if split else None
        for name, split in annotations.splits.items()
    }


def check_classes(root: Path, counts: Mapping[str, Counter[str] | None], classes: Sequence[str]) -> list[str]:
    """Notes on classes without boxes. UsageError if no training image has boxes, or a split has no images."""
    if empty := [name for name, count in counts.items() if count is None]:
        raise UsageError(f"{root}: no images without annotation errors in {listed(empty)}; add or correct some")
    first = next(iter(counts))
    if first in ("all", "train") and not counts[first]:
        raise UsageError(
            f"{root} has no boxes{' in train' if first == 'train' else ''}; detection needs some for training"
        )
    total = sum((count or Counter() for count in counts.values()), Counter[str]())
    notes = []
    if absent := [name for name in classes if not total[name]]:
        notes.append(f"no boxes of {listed(absent)}")
    shown = counts[first] or Counter()
    if first == "train" and (unseen := [name for name in classes if total[name] and not shown[name]]):
        notes.append(f"no training boxes of {listed(unseen)}")
    return notes
