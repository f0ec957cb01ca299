"""Boxes in the XML of Pascal VOC: a file per image, with corners as pixel indices from 1, both inclusive.

`ImageSets/Main/train.txt`, `val.txt` and `test.txt` list the images of each split by name. Images and XML may also be
in folders for the splits, or side by side.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cnn_cli.data.annotations import DIFFICULT, AnnotatedImage, Annotations, Box, BoxError, pair_files, read_lines
from cnn_cli.data.decoding import IMAGE_SUFFIXES
from cnn_cli.data.folder import list_files, list_images, lower_subfolders, split_folders
from cnn_cli.data.mask_layout import IMAGE_FOLDERS
from cnn_cli.data.xml_file import Element, XmlError, read_xml
from cnn_cli.device import usable_cpus

NAME = "VOC XML"
_XML_FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")

Places = dict[str, tuple[list[Path], list[Path]]]  # images and XML files by split


def find_voc(root: Path) -> Places:
    """The files of each split, or of "all"; empty if there is no XML."""
    folders = lower_subfolders(root)
    if whole := _pair_in(folders):
        images, files = whole
        inside = [split_folders(folder) for folder in whole]
        if inside[0] and inside[0].keys() == inside[1].keys():
            return {s: (list_images(inside[0][s]), list_files(inside[1][s], ".xml")) for s in inside[0]}
        return {"all": (list_images(images), list_files(files, ".xml"))}
    places = {}
    for split, path in split_folders(root).items():
        own = _pair_in(lower_subfolders(path)) or (path, path)
        if any(p.is_file() for p in own[1].glob("*.xml")):
            places[split] = (list_images(own[0]), list_files(own[1], ".xml"))
    if not places and (beside := sorted(p for p in root.glob("*.xml") if p.is_file())):
        places["all"] = (sorted(p for p in root.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), beside)
    return places if any(images for images, _ in places.values()) else {}


def read_voc(root: Path, places: Places) -> Annotations:
    errors: list[BoxError] = []
    splits: dict[str, list[AnnotatedImage]] = {}
    if "all" in places and (lists := _lists(root)):
        places, errors = _listed(places["all"], lists)
    for split, (images, files) in places.items():
        paired = pair_files(images, files, lambda p: p.stem, lambda p: f"add {p.stem}.xml, or remove the image")
        with ThreadPoolExecutor(usable_cpus()) as pool:
            read = list(pool.map(lambda pair: _read(*pair), paired.pairs))
        splits[split] = [image for image, _ in read]
        errors += [*paired.errors, *(error for _, own in read for error in own)]
    return Annotations(NAME, splits, _classes(root), tuple(errors))


def _classes(root: Path) -> tuple[str, ...] | None:
    """The lines of classes.txt; None without it: the classes are then those that occur."""
    path = root / "classes.txt"
    return tuple(filter(None, map(str.strip, read_lines(path)))) or None if path.is_file() else None


def _pair_in(folders: dict[str, Path]) -> tuple[Path, Path] | None:
    """The folder of the images and the one of the XML."""
    images = [folders[name] for name in IMAGE_FOLDERS if name in folders]
    files = [folders[name] for name in _XML_FOLDERS if name in folders and list_files(folders[name], ".xml")]
    return (images[0], files[0]) if images and files else None


def _lists(root: Path) -> dict[str, Path]:
    folder = root / "ImageSets" / "Main"
    files = {split: folder / f"{split}.txt" for split in ("train", "val", "test")}
    if not files["train"].is_file() and (both := folder / "trainval.txt").is_file():
        files = {"train": both, "test": files["test"]}
    return {split: path for split, path in files.items() if path.is_file()}


def _listed(everything: tuple[list[Path], list[Path]], lists: dict[str, Path]) -> tuple[Places, list[BoxError]]:
    """The files of the images that the lists name. A split without any XML, as VOC's test split, is left out."""
    images, files = ({path.stem: path for path in paths} for paths in everything)
    folded = {name.lower(): path for name, path in images.items()}
    places: Places = {}
    errors: list[BoxError] = []
    for split, path in lists.items():
        seen: dict[str, int] = {}
        for number, line in enumerate(read_lines(path), 1):
            if not (name := line.split()[0] if line.split() else ""):
                continue
            stem = name if name in images else Path(name).stem
            if stem in seen:
                text = f"{path}:{number}: {stem} is listed a second time, first in line {seen[stem]}; remove one line"
                errors.append(BoxError(text, images.get(stem)))
            elif stem not in images:
                near = f" ({folded[stem.lower()]} differs in case)" if stem.lower() in folded else ""
                errors.append(BoxError(f"{path}:{number}: there is no image {stem}{near}; add it, or remove the line"))
            seen.setdefault(stem, number)
        names = [name for name in seen if name in images]
        if any(name in files for name in names):
            places[split] = ([images[n] for n in names], [files[n] for n in names if n in files])
    return places, errors


def _read(path: Path, source: Path) -> tuple[AnnotatedImage, list[BoxError]]:
    try:
        root = read_xml(source)
    except XmlError as error:
        return AnnotatedImage(path, source), [BoxError(str(error), path)]
    errors, boxes = [], []
    for element in root.all("object"):
        box = _box(element)
        if isinstance(box, Box):
            boxes.append(box)
        else:
            errors.append(BoxError(f"{source}:{element.line}: {box}; correct or remove this object", path))
    if root.tag != "annotation":
        errors.append(BoxError(f"{source}:{root.line}: <{root.tag}> instead of <annotation>; remove the file", path))
    size = root.find("size")
    numbers = _numbers(size, ("width", "height")) if size else None
    known = (numbers[0], numbers[1]) if numbers and min(numbers) > 0 else None  # some tools write 0
    return AnnotatedImage(path, source, tuple(boxes), known, size.line if size else 1), errors


def _box(element: Element) -> Box | str:
    """The box of an object, or what is wrong with it. xmax and ymax are inclusive, so the edge is one pixel further."""
    name, frame, difficult = (element.find(tag) for tag in ("name", "bndbox", "difficult"))
    if name is None or not name.text.strip():
        return "an object without a <name>"
    if frame is None:
        return "an object without a <bndbox>"
    corners = _numbers(frame, _CORNERS)
    if corners is None:
        return f"a <bndbox> needs the numbers {', '.join(_CORNERS)}"
    x0, y0, x1, y1 = corners
    if x1 <= x0 or y1 <= y0:
        return f"degenerate box {x0:g} {y0:g} {x1:g} {y1:g} has no area"
    flag = DIFFICULT if difficult and difficult.text.strip() == "1" else 0
    return Box(name.text.strip(), (x0 - 1, y0 - 1, x1, y1), frame.line, flag)


def _numbers(element: Element, tags: Sequence[str]) -> list[float] | None:
    try:
        values = [float(child.text) for tag in tags if (child := element.find(tag))]
    except ValueError:
        return None
    return values if len(values) == len(tags) and all(map(math.isfinite, values)) else None
