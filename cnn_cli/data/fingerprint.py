"""The fingerprint of a data set, by which a later command notices that a folder has changed."""

import hashlib

from cnn_cli.data.dataset import Dataset
from cnn_cli.data.targets import identity


def compute_fingerprint(dataset: Dataset) -> str:
    """A hash of the classes, the number of images and their targets."""
    digest = hashlib.sha256("\n".join(dataset.classes).encode("utf-8", "replace"))
    for name, part in dataset.splits.items():
        digest.update(name.encode() + identity(part.targets))
    return digest.hexdigest()[:16]
