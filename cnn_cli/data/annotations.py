"""Annotations read from VOC, COCO or YOLO files: images with their boxes, and annotation errors."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cnn_cli.data.json_file import item_lines
from cnn_cli.errors import CnnError
from cnn_cli.tables import counted

DIFFICULT, CROWD = 1, 2  # flags of boxes (boxes.py)
Row = tuple[float, float, float, float, int, int]  # x0, y0, x1, y1, class, flag


@dataclass(frozen=True)
class BoxError:
    """An annotation error: `file:line: what is wrong; what to do`, and the image that it is about, if any."""

    text: str
    image: Path | None = None

    def __str__(self) -> str:
        return self.text


class InvalidAnnotationsError(CnnError):
    """A folder with errors in its annotations. The message has the first one; `errors` has all."""

    def __init__(self, root: Path, errors: Sequence[BoxError]) -> None:
        self.errors = tuple(errors)
        images = len({error.image for error in errors if error.image})
        fix = f"; --skip-unreadable skips {counted(images, 'image')}" if images else ""
        count = f"cnn data {root} lists all {counted(len(errors), 'annotation error')}" if len(errors) > 1 else ""
        more = f"{count}{fix}".removeprefix("; ")
        super().__init__(f"{errors[0]}\n{more}".rstrip())


@dataclass(frozen=True)
class Box:
    """corners: x0, y0, x1, y1, edges in pixels of the image turned upright, or fractions of it. line: in its file."""

    label: str
    corners: tuple[float, float, float, float]
    line: int
    flag: int = 0
    name: str = ""  # of an annotation in a file with one long line: `annotation 17`


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file, where its boxes are written, and the size (width, height) that is written there.

    in_json: the lines are numbers of items in the lists of a JSON file.
    """

    path: Path
    source: Path
    boxes: tuple[Box, ...] = ()
    size: tuple[float, float] | None = None
    line: int = 1
    in_json: bool = False

    def place(self, box: Box | None = None) -> str:
        """`file:line`, and the name of the box if it has one."""
        line, name = (box.line, f": {box.name}" if box.name else "") if box else (self.line, "")
        if self.in_json:
            line = item_lines(self.source, "annotations" if box else "images")[line]
        return f"{self.source}:{line}{name}"


@dataclass(frozen=True)
class Annotations:
    """The images of each split; `layout`: the format, as messages name it; `classes` in order, None: those that occur.

    fractions: the corners of boxes are fractions of the image's size.
    """

    layout: str
    splits: dict[str, list[AnnotatedImage]]
    classes: tuple[str, ...] | None = None
    errors: tuple[BoxError, ...] = ()
    notes: tuple[str, ...] = ()
    fractions: bool = False


def is_file(path: Path) -> bool:
    """Whether a file exists; False for a name that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, bytes that are not UTF-8 replaced. CnnError if it cannot be read."""
    try:
        return path.read_text("utf-8-sig", "replace").splitlines()
    except OSError as error:
        raise CnnError(f"{path}: cannot be read ({error.strerror}); change its permissions, or remove it") from None


@dataclass
class Paired:
    """Images with their annotation files, and errors for those without a counterpart."""

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    errors: list[BoxError] = field(default_factory=list)


def pair_files(
    images: Sequence[Path], files: Sequence[Path], key: Callable[[Path], str], missing: Callable[[Path], str]
) -> Paired:
    """Each image with the file of the same key; an error for each without the other, and for a second of the same key.

    missing: what to do about an image without a file.
    """
    result, by_key, used = Paired(), {key(file): file for file in files}, defaultdict[str, list[Path]](list)
    folded = {name.lower(): file for name, file in by_key.items()}
    for image in images:
        name = key(image)
        used[name].append(image)
        if name not in by_key:
            near = folded.get(name.lower())
            fix = f"{near} differs in case; rename one" if near else missing(image)
            result.errors.append(BoxError(f"{image} has no annotations; {fix}", image))
        elif len(used[name]) > 1:
            text = f"{image} and {used[name][0]} have the same name, so both would have the annotations {by_key[name]}"
            result.errors.append(BoxError(f"{text}; rename or remove one", image))
        else:
            result.pairs.append((image, by_key[name]))
    lower = {name.lower() for name in used}
    for name, file in by_key.items():
        if name not in used and name.lower() not in lower:
            result.errors.append(
                BoxError(f"{file}:1: there is no image {file.stem}; add the image, or remove this file")
            )
    return result


def without_invalid(annotations: Annotations, errors: Sequence[BoxError]) -> tuple[Annotations, list[str]]:
    """The annotations without the images that have errors, and a note that counts them."""
    bad = {error.image for error in errors if error.image}
    splits = {name: [image for image in split if image.path not in bad] for name, split in annotations.splits.items()}
    notes = []
    if bad:
        names = ", ".join([*sorted(path.name for path in bad)[:3], *["…"] * (len(bad) > 3)])
        notes.append(f"{counted(len(bad), 'image')} with annotation errors skipped ({names})")
    if alone := sum(error.image is None for error in errors):
        notes.append(f"{counted(alone, 'annotation')} without an image skipped")
    return replace(annotations, splits=splits), notes
