"""The images of a named data set as arrays to check."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from cnn_cli.data.check_content import Content
from cnn_cli.data.dataset import Split
from cnn_cli.data.finding import CheckedImage
from cnn_cli.data.image_scan import Array
from cnn_cli.data.loading import load_dataset, resolve_data_dir
from cnn_cli.data.targets import classes_in


def read_named(
    name: str, data_dir: Path | None, task: str | None, annotations: str | None = None
) -> tuple[Content, Array]:
    """The content, and its images (n, h, w) or (n, h, w, 3). UsageError for an unknown name, and for annotations."""
    dataset = load_dataset(name, resolve_data_dir(data_dir), False, task, annotations)
    images: list[CheckedImage] = []
    counts = {c: Counter[str]() for c in dataset.classes}
    arrays = []
    for split, part in dataset.splits.items():
        assert isinstance(part.images, torch.Tensor)
        pixels = part.images.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy()
        labels = _labels(part)
        for i, own in enumerate(labels):
            label = dataset.classes[own] if own is not None else None
            images.append(CheckedImage(f"{split}/{i}", split, label, pixels[i]))
        for i in range(len(part)) if labels[:1] == [None] else ():
            for k in classes_in(part.subset(torch.tensor([i])).targets):
                counts[dataset.classes[k]][split] += 1
        for own in labels:
            if own is not None:
                counts[dataset.classes[own]][split] += 1
        arrays.append(pixels)
    return Content(dataset.name, dataset.task, "", images, counts), np.concatenate(arrays)


def _labels(part: Split) -> list[int | None]:
    """The class of each image; None for masks and boxes."""
    targets = part.targets
    if isinstance(targets, torch.Tensor) and targets.dim() == 1:
        return list(map(int, targets.tolist()))
    return [None] * len(part)
