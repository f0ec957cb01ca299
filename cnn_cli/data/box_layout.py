"""The annotation format of a folder with boxes: VOC's XML, COCO's JSON or YOLO's text files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_cli.data import coco, voc, yolo
from cnn_cli.data.annotations import Annotations
from cnn_cli.data.folder import subfolders
from cnn_cli.errors import UsageError

FORMATS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Path, Any], Annotations]]] = {
    "voc": (voc.NAME, voc.find_voc, voc.read_voc),
    "coco": (coco.NAME, coco.find_coco, coco.read_coco),
    "yolo": (yolo.NAME, yolo.find_yolo, yolo.read_yolo),
}
_NESTED = 3  # folders that hold nothing but the next one


@dataclass(frozen=True)
class BoxLayout:
    """A folder with boxes in one of the FORMATS, and the files as the find function of the format returns them."""

    root: Path
    format: str
    files: Any

    def read(self) -> Annotations:
        """CnnError or UsageError for files that cannot be understood as a whole."""
        return FORMATS[self.format][2](self.root, self.files)


def find_boxes(root: Path, chosen: str | None = None) -> BoxLayout | None:
    """The boxes of a folder, in the chosen format or the only one; None if there are none.

    UsageError if two formats fit.
    """
    for _ in range(_NESTED):
        formats = [chosen] if chosen else list(FORMATS)
        readings = [BoxLayout(root, name, files) for name in formats if (files := FORMATS[name][1](root))]
        if len(readings) > 1:
            options = "\n".join(f"  {FORMATS[r.format][0]}: --annotations {r.format}" for r in readings)
            raise UsageError(f"{root} has boxes in several formats; choose one:\n{options}")
        if readings:
            return readings[0]
        inside = list(subfolders(root).values())
        if len(inside) != 1:
            return None
        root = inside[0]
    return None
