"""What a data set is before it is fitted to a network: parts (train, val, test) of images or files, and class names."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Images as bytes (n, c, h, w) or as n files, with their labels (n,), int64, indices into the source's classes."""

    images: Tensor | tuple[Path, ...]
    labels: Tensor


@dataclass(frozen=True)
class Source:
    """A data set as it is found. `notes` are one-line remarks for the person: what was skipped, and why."""

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Part]
    notes: tuple[str, ...] = ()
