"""A data set seen by a trained network: divided as in its training, with labels in the order of its classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cnn_cli.data import Part, Source, data_folder, read_source, split
from cnn_cli.errors import UsageError


def divided(own: str, facts: Mapping[str, Any], data: str | None, data_dir: Path | None) -> Source:
    """The data set `own`, divided as in training; or `data`, of which a folder that is not divided is used whole.

    `facts` are those of the training, as in Metadata.data. Named data sets are looked for in `data_dir`, else where the
    training found them, else in the cache.
    """
    source = read_source(data or own, data_folder(data_dir, str(facts.get("folder", ""))))
    if source.name == own:
        return split(source, facts.get("val_fraction", 0), int(facts.get("seed", 0)))
    return split(source, whole=True)


def matched(source: Source, classes: tuple[str, ...]) -> Source:
    """The source with its labels in the order of `classes`, by name. UsageError for a class that is not among them."""
    if source.classes == classes:
        return source
    used = {source.classes[i] for part in source.parts.values() for i in set(part.labels.tolist())}
    if unknown := sorted(used - set(classes)):
        raise UsageError(
            f"{source.name} has classes that the network does not know: {', '.join(unknown)}\n"
            f"it was trained on {', '.join(classes)}; labels are matched by class name"
        )
    indices = torch.tensor([classes.index(c) if c in classes else -1 for c in source.classes])
    parts = {name: Part(part.images, indices[part.labels]) for name, part in source.parts.items()}
    return Source(source.name, classes, parts, source.notes)
