"""A data set before preprocessing: splits (train, val, test) of images or image files, and class names."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from cnn_cli.data.targets import Targets

CLASSIFICATION, SEGMENTATION, DETECTION = "classification", "segmentation", "detection"


@dataclass(frozen=True)
class Split:
    """Images as bytes (n, c, h, w) or as n files.

    targets: for classification (n,) int64, indices into the classes; for segmentation masks, (n, h, w) bytes or files;
    for detection boxes (boxes.py).
    """

    images: "Tensor | tuple[Path, ...]"
    targets: "Targets"

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: "Tensor") -> "Split":
        """The images and targets at these indices, (m,) int64."""
        if isinstance(self.images, tuple):
            return Split(tuple(self.images[i] for i in index.tolist()), self.targets[index])
        return Split(self.images[index], self.targets[index])


@dataclass(frozen=True)
class Dataset:
    """`task`: that of the targets; `layout`: how a folder was read; `notes`: one-line remarks for the user.

    files: all image files of a folder, however they are split later.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()
    task: str = CLASSIFICATION
    layout: str = ""
    files: "tuple[Path, ...]" = ()
