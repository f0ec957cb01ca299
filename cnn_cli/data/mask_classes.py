"""`classes.txt`: the classes of a folder of masks, and the values or colors of its pixels that stand for them.

A line is `NAME` (class 0, 1, … in order), `VALUE NAME` or `RED GREEN BLUE NAME`; `#` begins a comment. The name `void`
stands for pixels that do not count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_cli.errors import UsageError

VOID = 255
MAX_CLASSES = 255
FILE = "classes.txt"
_COLOR = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\S.*)")
_VALUE = re.compile(r"(\d+)[\s,:]+(\S.*)")


@dataclass(frozen=True)
class ClassList:
    """The lines of a file: `codes` are the values, or colors as 0xRRGGBB, of the classes `names`, including VOID."""

    path: Path
    kind: str  # names, values or colors
    codes: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name.lower() != "void")

    def numbers(self) -> dict[int, int]:
        """The class, or VOID, of each code."""
        order = self.classes
        return {c: VOID if n.lower() == "void" else order.index(n) for c, n in zip(self.codes, self.names, strict=True)}


def find_class_list(folders: Sequence[Path]) -> ClassList | None:
    """The first classes.txt in these folders; UsageError names the line of a mistake."""
    path = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    return read_class_list(path) if path else None


def read_class_list(path: Path) -> ClassList:
    lines = [
        (n, line.split("#")[0].strip()) for n, line in enumerate(path.read_text("utf-8-sig", "replace").split("\n"))
    ]
    entries = [(n, *_parsed(line)) for n, line in lines if line]
    if not entries:
        raise UsageError(f"{path} is empty; write a line for each class: NAME, VALUE NAME or RED GREEN BLUE NAME")
    kind = entries[0][1]
    codes: list[int] = []
    names: list[str] = []
    for number, own, code, name in entries:
        where = f"{path}:{number + 1}"
        if own != kind:
            raise UsageError(f"{where}: this line has {own}, but the first one has {kind}; use one form for all lines")
        if kind == "values" and code > 255:
            raise UsageError(f"{where}: {code} is not a mask value; values are from 0 to 255")
        if name in names and name.lower() != "void":
            raise UsageError(f"{where}: duplicate class {name!r}; give each class its own name")
        if kind != "names" and code in codes:
            raise UsageError(f"{where}: duplicate value or color; remove one of the lines")
        codes.append(len(codes) if kind == "names" else code)
        names.append(name)
    result = ClassList(path, kind, tuple(codes), tuple(names))
    if not 2 <= len(result.classes) <= MAX_CLASSES:
        raise UsageError(f"{path} has {len(result.classes)} classes; segmentation needs 2 to {MAX_CLASSES}")
    return result


def _parsed(line: str) -> tuple[str, int, str]:
    """(names, values or colors; the code; the name)."""
    if match := _COLOR.fullmatch(line):
        red, green, blue = (min(int(text), 255) for text in match.groups()[:3])
        return "colors", (red << 16) + (green << 8) + blue, match[4]
    if match := _VALUE.fullmatch(line):
        return "values", int(match[1]), match[2]
    return "names", 0, line
