"""Data sets: a name of the table or a folder becomes splits of bytes, fitted once to the network's input.

Three splits with three jobs: train to learn, val to choose, test to report.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnn_cli.data.augment import Augmentation, augment, draws, mix, views
from cnn_cli.data.batches import WHOLE, Layout, ReadError, Split, Stream, balanced_order, batches, epoch_order, fitted
from cnn_cli.data.decode import look
from cnn_cli.data.folder import headers, read_folder
from cnn_cli.data.named import NAMED, read_named
from cnn_cli.data.preprocess import Preprocessing, adapt, explain
from cnn_cli.data.source import Part, Source
from cnn_cli.device import free_memory, usable_cpus
from cnn_cli.errors import UsageError, closest

__all__ = [
    "NAMED",
    "WHOLE",
    "Augmentation",
    "Data",
    "Layout",
    "Part",
    "ReadError",
    "Source",
    "Split",
    "Stream",
    "augment",
    "balanced_order",
    "batches",
    "data_folder",
    "draws",
    "epoch_order",
    "fit",
    "mix",
    "only",
    "read_source",
    "split",
    "views",
]

_HELD_OUT = 0.2  # of a folder that is not divided, for testing
_CHUNK = 1024


@dataclass(frozen=True)
class Data:
    """A data set, divided and fitted. `notes` are one-line remarks for the person."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    notes: tuple[str, ...]


def read_source(name: str, data_dir: Path) -> Source:
    """A name of the table or the path of a folder → what it holds, with images unopened or as bytes.

    UsageError for a name that is neither; CnnError where a named set can be neither found nor downloaded.
    """
    if name in NAMED:
        return read_named(name, data_dir)
    path = Path(name).expanduser()
    if path.is_dir():
        return read_folder(path.resolve())
    known = f" The data sets are {', '.join(NAMED)}." if "/" not in name else ""
    raise UsageError(f"--data {name}: no such data set or folder.{closest(name, NAMED) or known}")


def data_folder(chosen: Path | None, before: str = "") -> Path:
    """Where named data sets live: the folder chosen, else the one used before if it is there, else the cache."""
    if chosen is None and before and Path(before).is_dir():
        return Path(before)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return (chosen or cache / "cnn" / "datasets").expanduser()


def split(source: Source, val_fraction: float = 0, seed: int = 0, whole: bool = False) -> Source:
    """The source divided into train, val and test where it was not yet, class by class and repeatably.

    Of an undivided folder a fifth is held out for testing (`whole`: all of it is for testing). The test images depend
    on the folder alone, so that all seeds report on the same ones; the validation images follow the seed.
    """
    parts, notes = dict(source.parts), list(source.notes)
    if "all" in parts:
        everything = parts.pop("all")
        if whole:
            parts["test"] = everything
        else:
            parts["train"], parts["test"] = _divided(everything, _HELD_OUT, 0)
            count = len(parts["test"].labels)
            if not count:
                message = "has too few images to hold any out for testing; give a class at least two"
                raise UsageError(f"{source.name} {message}, or divide it into train/ and test/")
            notes.append(
                f"{source.name}: not divided; a fifth of each class ({count:,} images) is held out for testing"
            )
    if val_fraction and "train" in parts and "val" not in parts:
        parts["train"], parts["val"] = _divided(parts["train"], val_fraction, seed)
    return Source(
        source.name, source.classes, {n: parts[n] for n in ("train", "val", "test") if n in parts}, tuple(notes)
    )


def only(source: Source, name: str) -> Source:
    """The source with a single part; UsageError where it has none of that name."""
    if name not in source.parts:
        raise UsageError(f"{source.name} has no {name} split; it has {', '.join(source.parts)}")
    return Source(source.name, source.classes, {name: source.parts[name]}, source.notes)


def fit(source: Source, how: Preprocessing, device: torch.device, workers: int | None = None) -> Data:
    """Every image fitted to the network's input: kept as bytes, on the device where they fit, or else read when needed.

    All images are looked at here, so that a bad one ends the run before it begins. UsageError for unfitting channels.
    """
    count = sum(len(p.labels) for p in source.parts.values())
    need = count * torch.Size(how.input).numel()
    workers = min(8, usable_cpus()) if workers is None else workers
    notes = [*source.notes, *_adaptation(source, how)]
    resident = need <= free_memory() // 2
    home = device if resident and need <= free_memory(device) // 2 else torch.device("cpu")
    splits = {}
    for name, part in source.parts.items():
        if resident:
            splits[name] = Split(name, _kept(part, how, max(1, workers)).to(home), part.labels.to(home))
        else:
            if not isinstance(part.images, Tensor):
                headers(part.images, max(1, workers))
            splits[name] = Split(name, Stream(part.images, how, workers), part.labels)
    if not resident:
        notes.append(f"{source.name}: {need / 1e9:.1f} GB as bytes; read again every epoch by {workers} workers")
    return Data(source.name, source.classes, splits, tuple(notes))


def _divided(part: Part, fraction: float, seed: int) -> tuple[Part, Part]:
    """(the rest, the part held out): of each class `fraction`, at least one image and never all."""
    generator = torch.Generator().manual_seed(seed % 2**32)
    held = torch.zeros(len(part.labels), dtype=torch.bool)
    for label in range(int(part.labels.max()) + 1):
        members = (part.labels == label).nonzero().flatten()
        n = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held[members[torch.randperm(len(members), generator=generator)[: max(0, n)]]] = True
    return _chosen(part, ~held), _chosen(part, held)


def _chosen(part: Part, mask: Tensor) -> Part:
    images = part.images
    if isinstance(images, Tensor):
        return Part(images[mask], part.labels[mask])
    return Part(tuple(images[i] for i in mask.nonzero().flatten().tolist()), part.labels[mask])


def _kept(part: Part, how: Preprocessing, threads: int) -> Tensor:
    """(n, C, H, W) bytes. Files are decoded once, in threads: Pillow leaves Python's lock while it decodes."""
    images = part.images
    kept = torch.empty(len(part.labels), *how.input, dtype=torch.uint8)
    if isinstance(images, Tensor):
        for start in range(0, len(images), _CHUNK):
            kept[start : start + _CHUNK] = adapt(images[start : start + _CHUNK], how)
        return kept
    with ThreadPoolExecutor(threads) as pool:
        for i, image in enumerate(pool.map(lambda path: fitted(path, how), images)):
            kept[i] = image[0]
    return kept


def _adaptation(source: Source, how: Preprocessing) -> list[str]:
    """What happens to the images, told from all of them where they are alike and from a sample of the files."""
    shapes = [s for part in source.parts.values() for s in _shapes(part.images)]
    channels = max((s[0] for s in shapes), default=how.input[0])
    if how.input[0] not in (1, 3):
        raise UsageError(
            f"the network takes {how.input[0]} channels and the images have {channels}; only 1 and 3 can be had"
        )
    sizes = {(h, w) for _, h, w in shapes}
    line = explain(source.name, channels, sizes.pop() if len(sizes) == 1 else None, how)
    return [line] if line else []


def _shapes(images: Tensor | Sequence[Path]) -> list[tuple[int, int, int]]:
    if isinstance(images, Tensor):
        _, channels, height, width = images.shape
        return [(channels, height, width)]
    return [look(path) for path in images[:: max(1, len(images) // 64)]]
