"""Boxes in the JSON of COCO: `images`, `annotations` and `categories`, and a box as x, y, width and height.

A file per split, such as `annotations/instances_train2017.json` or `train/_annotations.coco.json`. The ids of
categories may have gaps, as in COCO itself.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cnn_cli.data.annotations import CROWD, AnnotatedImage, Annotations, Box, BoxError, is_file
from cnn_cli.data.folder import SPLITS, list_images, lower_subfolders
from cnn_cli.data.json_file import item_lines, read_json
from cnn_cli.data.mask_layout import IMAGE_FOLDERS
from cnn_cli.errors import CnnError, UsageError

NAME = "COCO JSON"
_FOLDERS = ("annotations", "annotation", "labels")
_OTHERS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")  # of the same images, for other tasks

_MOST = 1e9  # a number of pixels beyond any image

Item = dict[str, Any]


def find_coco(root: Path) -> dict[str, Path]:
    """The JSON file of each split, or of "all". UsageError for two of the same split."""
    folders = lower_subfolders(root)
    places = [root, *(folders[name] for name in _FOLDERS if name in folders)]
    places += [path for name, path in folders.items() if name in SPLITS]
    files = [path for place in places for path in sorted(place.glob("*.json")) if _is_coco(path)]
    if any("instances" in path.name for path in files):
        files = [path for path in files if "instances" in path.name]
    by_split: dict[str, Path] = {}
    for path in files:
        split = _split_of(path, root) or "all"
        if split in by_split:
            which = f"both of {split}" if split != "all" else "and their names do not contain the split"
            raise UsageError(
                f"{by_split[split]} and {path} have annotations, {which};\nkeep one, or name them by split"
            )
        by_split[split] = path
    if "all" in by_split and len(by_split) > 1:
        raise UsageError(f"{by_split['all']}: the name does not contain the split; add train, val or test to it")
    return {split: by_split[split] for split in ("all", "train", "val", "test") if split in by_split}


def read_coco(root: Path, files: dict[str, Path]) -> Annotations:
    """CnnError or UsageError for a file that cannot be understood; errors of single images are collected."""
    readers = {split: _Reader(root, path, split) for split, path in files.items()}
    classes: list[str] = []
    for reader in readers.values():
        classes += [name for name in reader.names() if name not in classes]
    splits = {split: reader.images() for split, reader in readers.items()}
    used = {box.label for images in splits.values() for image in images for box in image.boxes}
    parents = {str(c.get("supercategory")) for reader in readers.values() for c in reader.categories.values()}
    kept = tuple(name for name in classes if name in used or name not in parents)  # exporters add unused parents
    errors = tuple(error for reader in readers.values() for error in reader.errors)
    notes = tuple(note for reader in readers.values() for note in reader.notes)
    return Annotations(NAME, splits, kept, errors, notes)


def _is_coco(path: Path) -> bool:
    if path.name.startswith(_OTHERS) or not path.is_file():
        return False
    if "instances" in path.name or "coco" in path.name:
        return True
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CnnError(f"{path}: cannot be read ({error.strerror}); change its permissions, or remove it") from None
    return b'"images"' in content and b'"annotations"' in content


def _split_of(path: Path, root: Path) -> str | None:
    words = re.split(r"[^a-z]+", path.stem.lower())
    words += [path.parent.name.lower()] if path.parent != root else []
    return next((SPLITS[word] for word in words if word in SPLITS), None)


@dataclass
class _Reader:
    """One file: its categories, and its images with their boxes, whose errors it collects."""

    root: Path
    path: Path
    split: str
    errors: list[BoxError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.document = read_json(self.path)
        for key in ("images", "annotations", "categories"):
            items = self.document.get(key)
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise CnnError(f"{self.path}:1: has no list of objects `{key}`, unlike COCO JSON; export it again")
        if not self.document["images"]:
            raise CnnError(f"{self.path}:1: lists no images; export the annotations again, or remove the file")
        self.categories = self._categories()

    def names(self) -> list[str]:
        """The names of the categories in the order of their ids."""
        return [str(self.categories[number]["name"]) for number in sorted(self.categories)]

    def _categories(self) -> dict[int, Item]:
        categories: dict[int, Item] = {}
        for i, category in enumerate(self.document["categories"]):
            number, name = category.get("id"), category.get("name")
            if not _is_whole(number) or not isinstance(name, str) or not name.strip():
                raise UsageError(f"{self.at('categories', i)}: a category needs an integer `id` and a `name`")
            if number in categories:
                other = categories[number]["name"]
                raise UsageError(
                    f"{self.at('categories', i)}: categories {other!r} and {name!r} have the same id {number}; "
                    "give each a unique id"
                )
            if any(name == other["name"] for other in categories.values()):
                raise UsageError(f"{self.at('categories', i)}: two categories are named {name!r}; rename or merge them")
            categories[number] = category
        return categories

    def at(self, key: str, index: int) -> str:
        return f"{self.path}:{item_lines(self.path, key)[index]}"

    def images(self) -> list[AnnotatedImage]:
        entries = self._entries()
        boxes: dict[int, list[Box]] = {number: [] for number in entries}
        seen: set[Any] = set()
        for i, annotation in enumerate(self.document["annotations"]):
            number, own = annotation.get("image_id"), annotation.get("id")
            if not _is_whole(number) or number not in entries:
                text = f"refers to image {number!r}, which is not in `images`; add the image, or remove the annotation"
                self.errors.append(BoxError(f"{self.at('annotations', i)}: annotation {own!r} {text}"))
                continue
            problem = self._problem(annotation)
            if own in seen:
                problem = "has the same id as another one; remove it, or give it a unique id"
            if own is not None and not isinstance(own, (list, dict)):
                seen.add(own)
            if problem:
                text = f"{self.at('annotations', i)}: annotation {own!r} {problem}"
                self.errors.append(BoxError(text, entries[number].path))
            elif "bbox" in annotation:
                boxes[number].append(self._box(annotation, i))
        return [replace(entry, boxes=tuple(boxes[number])) for number, entry in entries.items()]

    def _box(self, annotation: Item, index: int) -> Box:
        x, y, width, height = map(float, annotation["bbox"])
        label = str(self.categories[annotation["category_id"]]["name"])
        flag = CROWD if annotation.get("iscrowd") else 0
        return Box(label, (x, y, x + width, y + height), index, flag, f"annotation {annotation.get('id', index)}")

    def _problem(self, annotation: Item) -> str:
        """What is wrong with an annotation, and what to do; empty if it is valid."""
        category, box = annotation.get("category_id"), annotation.get("bbox")
        if not _is_whole(category) or category not in self.categories:
            return f"refers to category {category!r}, which is not in `categories`; add it, or correct the number"
        if box is None and annotation.get("iscrowd") is None and "segmentation" not in annotation:
            return "has no `bbox`; add x, y, width, height"
        if box is not None and (not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box))):
            return "has a `bbox` that is not four numbers; write x, y, width, height"
        return ""

    def _entries(self) -> dict[int, AnnotatedImage]:
        """The images by their ids; an error for each that is missing or listed twice."""
        places = self._places()
        entries: dict[int, AnnotatedImage] = {}
        names: dict[str, int] = {}
        for i, image in enumerate(self.document["images"]):
            number, name = image.get("id"), image.get("file_name")
            if not _is_whole(number) or not isinstance(name, str) or not name:
                raise CnnError(f"{self.at('images', i)}: an image needs an integer `id` and a `file_name`")
            existing = next((place / name for place in places if is_file(place / name)), None)
            path = existing or places[0] / name
            size = (image.get("width"), image.get("height"))
            known = (float(size[0]), float(size[1])) if all(map(_is_number, size)) else None
            if number in entries or name in names:
                twice = f"id {number}" if number in entries else f"the file {name}"
                text = f"a second image with {twice}; remove it, or give it its own"
                self.errors.append(BoxError(f"{self.at('images', i)}: {text}", path))
            elif not existing:
                self.errors.append(BoxError(f"{self.at('images', i)}: {self._missing(name, places)}", path))
            names[name] = number
            if number not in entries:
                entries[number] = AnnotatedImage(path, self.path, (), known, i, True)
        self._note_others(places, {entry.path for entry in entries.values()})
        return entries

    def _missing(self, name: str, places: list[Path]) -> str:
        near = next((p for place in places for p in _near(place / name)), None)
        hint = f"{near.name} differs in case or ending; make the names match" if near else "add it, or remove the entry"
        return f"there is no image {name} in {places[0]}; {hint}"

    def _note_others(self, places: list[Path], listed: set[Path]) -> None:
        folders = {path.parent for path in listed}
        others = [p for folder in folders if folder.is_dir() for p in list_images(folder) if p not in listed]
        if others and places:
            many = f"{len(others):,} images" if len(others) > 1 else "1 image"
            self.notes.append(f"{many} not listed in {self.path.name}, such as {others[0].name}")

    def _places(self) -> list[Path]:
        """The folders in which the images may be, in the order of preference."""
        folders = lower_subfolders(self.root)
        stem = re.sub(r"^_?(instances|annotations)[_.]?|[_.]coco$", "", self.path.stem.lower())
        names = [name for name in (stem, self.split, f"{self.split}2017", "valid") if name in folders]
        names = [name for name in names if name != "valid" or self.split == "val"]
        images = [folders[name] for name in IMAGE_FOLDERS if name in folders]
        inner = [path / name for path in images for name in (stem, self.split)]
        inner += [folders[name] / "images" for name in names]
        return [p for p in [*inner, *(folders[n] for n in names), *images, self.path.parent, self.root] if p.is_dir()]


def _near(path: Path) -> Iterator[Path]:
    """Files in the same folder whose names differ in case or ending only."""
    if path.parent.is_dir():
        yield from (p for p in sorted(path.parent.iterdir()) if p.stem.lower() == path.stem.lower())


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MOST
