"""Boxes in the text files of YOLO: a line per box, `class cx cy width height`, in fractions of the image's size.

The file of `images/train/a.jpg` is `labels/train/a.txt`; an empty one means that the image shows no object. `data.yaml`
names the classes and the folders of images of each split; without it `classes.txt` may name the classes.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cnn_cli.data.annotations import AnnotatedImage, Annotations, Box, BoxError, pair_files, read_lines
from cnn_cli.data.decoding import IMAGE_SUFFIXES
from cnn_cli.data.folder import list_files, list_images, lower_subfolders, split_folders
from cnn_cli.data.mask_layout import IMAGE_FOLDERS
from cnn_cli.errors import UsageError

NAME = "YOLO"
_NAME_FILES = ("classes.txt", "obj.names", "labels.txt")
_NO_LABELS = {*_NAME_FILES, "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt"}
_ROUNDING = 1e-4  # fractions are written with few digits
_MOST_BYTES = 1 << 20
_MOST_CLASSES = 10_000


@dataclass(frozen=True)
class YoloFiles:
    """data.yaml, if there is one, and the folders of images and label files of each split."""

    description: Path | None
    splits: dict[str, tuple[Path, Path]]


def find_yolo(root: Path) -> YoloFiles | None:
    """None if there is neither data.yaml nor a folder of label files next to one of images."""
    for path in sorted(p for p in [*root.glob("*.yaml"), *root.glob("*.yml")] if p.is_file()):
        if (content := _parsed(path)) and "names" in content and {"train", "val", "test"} & content.keys():
            return YoloFiles(path, _described(path, content))
    folders = lower_subfolders(root)
    if pair := _pair_in(folders):
        inside = [split_folders(path) for path in pair]
        if inside[0] and inside[1]:
            return YoloFiles(None, {s: (inside[0][s], inside[1].get(s, pair[1] / s)) for s in inside[0]})
        return YoloFiles(None, {"all": pair})
    inner = {split: lower_subfolders(path) for split, path in split_folders(root).items()}
    splits = {split: pair for split, own in inner.items() if (pair := _pair_in(own))}
    return YoloFiles(None, splits) if splits else None


def read_yolo(root: Path, files: YoloFiles) -> Annotations:
    """CnnError or UsageError for a data.yaml that cannot be understood; errors of single images are collected."""
    names = _names(root, files)
    splits: dict[str, list[AnnotatedImage]] = {}
    errors: list[BoxError] = []
    for split, (images, labels) in files.splits.items():
        texts = [path for path in list_files(labels, ".txt") if path.name.lower() not in _NO_LABELS]
        paired = pair_files(
            list_images(images),
            texts,
            partial(_key, images, labels),
            partial(_advice, labels),
        )
        read = [_read(path, text, names) for path, text in paired.pairs]
        splits[split] = [image for image, _ in read]
        errors += [*paired.errors, *(error for _, own in read for error in own)]
    if names is None:
        used = {int(box.label) for images in splits.values() for image in images for box in image.boxes}
        names = tuple(map(str, range(max(used, default=-1) + 1)))
    return Annotations(NAME, splits, names, tuple(errors), (), True)


def _pair_in(folders: dict[str, Path]) -> tuple[Path, Path] | None:
    images = next((folders[name] for name in IMAGE_FOLDERS if name in folders), None)
    labels = next((folders[name] for name in ("labels", "label") if name in folders), None)
    return (images, labels) if images and labels and list_files(labels, ".txt") else None


def _key(images: Path, labels: Path, path: Path) -> str:
    """The name of a file within its folder, without the ending."""
    folder = labels if path.suffix.lower() not in IMAGE_SUFFIXES else images
    return path.relative_to(folder).with_suffix("").as_posix()


def _advice(labels: Path, image: Path) -> str:
    return f"add {image.stem}.txt to {labels}, empty if it shows no object"


def _parsed(path: Path) -> dict[str, Any] | None:
    """The mapping in a YAML file; None for other files. UsageError with file and line if it is not valid YAML."""
    content = "\n".join(read_lines(path))[:_MOST_BYTES]
    if not re.search(r"(?m)^names\s*:", content):
        return None
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or "unknown characters"
        raise UsageError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML ({reason})") from None
    return document if isinstance(document, dict) else None


def _line(path: Path, key: str) -> str:
    """`data.yaml:3`, the place of a key."""
    return f"{path}:{next((i for i, line in enumerate(read_lines(path), 1) if re.match(key + ' *:', line)), 1)}"


def _described(path: Path, content: dict[str, Any]) -> dict[str, tuple[Path, Path]]:
    """The folders that data.yaml names. UsageError if one does not exist, or is named for two splits."""
    splits: dict[str, tuple[Path, Path]] = {}
    for split in ("train", "val", "test"):
        if not (value := content.get(split)):
            continue
        if not isinstance(value, str):
            raise UsageError(f"{_line(path, split)}: `{split}` must be one folder of images")
        images = _folder(path, str(content.get("path") or ""), value)
        if images is None:
            raise UsageError(f"{_line(path, split)}: `{split}: {value}` is not a folder of images; correct the path")
        if same := next((other for other, (folder, _) in splits.items() if folder == images), None):
            fix = "remove one; --val-fraction holds out images for validation"
            raise UsageError(f"{_line(path, split)}: `{split}` is the same folder as `{same}`; {fix}")
        splits[split] = (images, _labels_of(images))
    return splits


def _folder(path: Path, base: str, value: str) -> Path | None:
    """The folder that a path in data.yaml means: exporters often write paths relative to another place."""
    roots = [path.parent / base, path.parent]
    tries = [root / text for root in roots for text in (value, value.removeprefix("../"))]
    folder = next((place.resolve() for place in tries if place.is_dir()), None)
    if folder and folder.name.lower() not in IMAGE_FOLDERS and (folder / "images").is_dir():
        return folder / "images"
    return folder


def _labels_of(images: Path) -> Path:
    """The path with its last `images` replaced by `labels`; the folder itself without one."""
    parts = list(images.parts)
    at = [i for i, part in enumerate(parts) if part.lower() in IMAGE_FOLDERS]
    return Path(*parts[: at[-1]], "labels", *parts[at[-1] + 1 :]) if at else images


def _names(root: Path, files: YoloFiles) -> tuple[str, ...] | None:
    """The classes in the order of their numbers, or None if nothing names them."""
    if files.description:
        return _described_names(files.description, _parsed(files.description) or {})
    places = [root, *(labels for _, labels in files.splits.values())]
    file = next((place / name for place in places for name in _NAME_FILES if (place / name).is_file()), None)
    if not file:
        return None
    lines = [line.strip() for line in read_lines(file)]
    return _checked([line for line in lines if line], f"{file}:1")


def _described_names(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    value, line = content["names"], _line(path, "names")
    if isinstance(value, dict):
        if set(value) != set(range(len(value))):
            raise UsageError(f"{line}: the indices of `names` must be 0, 1, … without gaps")
        value = [value[i] for i in range(len(value))]
    if not isinstance(value, list) or not value:
        raise UsageError(f"{line}: `names` must list the classes")
    count = content.get("nc", len(value))
    if count != len(value):
        raise UsageError(f"{_line(path, 'nc')}: `nc` is {count}, but `names` has {len(value)}; make them match")
    return _checked([str(name) for name in value], line)


def _checked(names: Sequence[str], place: str) -> tuple[str, ...]:
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise UsageError(f"{place}: two classes are named {twice!r}; rename one")
    if not names:
        raise UsageError(f"{place}: no classes are named")
    return tuple(names)


def _read(path: Path, source: Path, names: Sequence[str] | None) -> tuple[AnnotatedImage, list[BoxError]]:
    try:
        lines = source.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return AnnotatedImage(path, source), [BoxError(f"{source}:1: not a text file; export it again", path)]
    boxes, errors = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        box = _box(line.split(), number, names)
        if isinstance(box, Box):
            boxes.append(box)
        else:
            errors.append(BoxError(f"{source}:{number}: {box}", path))
    return AnnotatedImage(path, source, tuple(boxes)), errors


def _box(columns: Sequence[str], line: int, names: Sequence[str] | None) -> Box | str:
    """The box of a line, or what is wrong with it, and what to do."""
    if len(columns) != 5:
        polygon = "; more are polygons: export boxes" if len(columns) > 6 and len(columns) % 2 else ""
        return f"{len(columns)} columns, but a box has 5: class, center x, center y, width, height{polygon}"
    try:
        label, x, y, width, height = map(float, columns)
    except ValueError:
        return f"{' '.join(columns)[:60]!r} is not five numbers; correct the line"
    if not all(map(math.isfinite, (label, x, y, width, height))):
        return f"{' '.join(columns)[:60]!r} is not five numbers; correct the line"
    if label != int(label) or label < 0:
        return f"class {columns[0]} is not a non-negative integer; correct it"
    if label >= _MOST_CLASSES:
        return f"class {columns[0][:20]}, more than {_MOST_CLASSES:,}; correct it"
    if names is not None and label >= len(names):
        return f"class {int(label)}, but only classes 0 to {len(names) - 1} have names; add a name or correct it"
    if not all(-_ROUNDING <= value <= 1 + _ROUNDING for value in (x, y, width, height)):
        return f"{' '.join(columns[1:])[:60]!r} has values outside 0 to 1; divide them by the image's width and height"
    name = names[int(label)] if names is not None else str(int(label))
    return Box(name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), line)
