"""The meaning of the pixels of masks in a folder, and mistakes in them.

Masks hold class indices (gray or palette), only 0 and 255, or colors; classes.txt (mask_classes.py) names the classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from cnn_cli.data.decoding import decode_mask
from cnn_cli.data.mask_classes import FILE, MAX_CLASSES, VOID, ClassList
from cnn_cli.data.mask_file import MaskPixels
from cnn_cli.errors import CnnError, UsageError, listed

_MOST_VALUES = 64  # in one mask without classes.txt; more are the gray levels of a picture
_SPARSE = (32, 4)  # gray levels: the highest value is at least 32, and more than four times the number of values
_MOST_LINES = 24  # of a classes.txt that an error message proposes
_BINARY = ("background", "foreground")


@dataclass(frozen=True)
class Coding:
    """The meaning of pixels: the class, or VOID, of each value, or of each color as 0xRRGGBB."""

    classes: tuple[str, ...]
    numbers: Mapping[int, int]
    colors: bool
    meaning: str


def check_size(path: Path, mask: Path, pixels: MaskPixels, size: tuple[int, int]) -> None:
    """CnnError for a mask that has another size than its image, (width, height)."""
    if pixels.size == size:
        return
    sizes = f"{mask} is {_by(pixels.size)} pixels, but its image {path.name} is {_by(size)}"
    if pixels.size == size[::-1]:
        raise CnnError(f"{sizes}, rotated by its EXIF tag;\nrotate the mask, too, or remove the tag")
    raise CnnError(f"{sizes}; make a mask of the image's size, without smoothing")


def find_coding(masks: Sequence[MaskPixels], known: ClassList | None, file: Path) -> Coding:
    """The meaning of the pixels of all masks. file: the classes.txt in which the classes can be named."""
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
    """UsageError if values without names cannot be class indices."""
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


def check_pixels(mask: MaskPixels, coding: Coding) -> None:
    """CnnError for a value or color without a class, and for a mask that is void everywhere."""
    counts = mask.colors if coding.colors else mask.values or {}
    unknown = next((code for code in counts if code not in coding.numbers), None)
    if unknown is not None:
        red, green, blue = unknown >> 16, unknown >> 8 & 255, unknown & 255
        code = f"the color {red} {green} {blue}" if coding.colors else f"the value {unknown}"
        last = "" if coding.colors else f" (0 to {max(c for c in coding.numbers.values() if c != VOID)})"
        fix = "add a line to classes.txt" if coding.colors else "add it to classes.txt, or make these pixels 255 (void)"
        where = _place(mask.path, unknown, coding.colors)
        raise CnnError(f"{mask.path} has {code} at pixel {where}, which is not a class{last};\n{fix}")
    if all(coding.numbers[code] == VOID for code in counts):
        raise CnnError(f"{mask.path} has only void pixels; remove it and its image")


def check_classes(root: Path, present: Mapping[str, Set[int]], classes: Sequence[str]) -> list[str]:
    """A note on classes that no mask has; UsageError for a class that occurs only outside of the training masks.

    present: the classes that occur, by split.
    """
    for name, shown in present.items():
        if "train" in present and (lost := sorted(shown - present["train"])):
            raise UsageError(
                f"{root}: no training mask shows {listed([classes[i] for i in lost])}, but masks of {name} do;\n"
                "move such images to the training split, or name the class void in classes.txt"
            )
    absent = [c for i, c in enumerate(classes) if not any(i in shown for shown in present.values())]
    return [f"no mask shows {listed(absent)}"] if absent else []


def _place(path: Path, code: int, colors: bool) -> str:
    """Where a value or color first occurs: `x 12, y 7`."""
    y, x = (decode_mask(path, colors) == code).nonzero()
    return f"x {x[0]}, y {y[0]}"


def _proposal(codes: Sequence[str]) -> str:
    lines = [f"  {code} {'background' if i == 0 else f'class{i}'}" for i, code in enumerate(codes[:_MOST_LINES])]
    return "\n".join([*lines, *([f"  … ({len(codes)} in all)"] if len(codes) > _MOST_LINES else [])])


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
