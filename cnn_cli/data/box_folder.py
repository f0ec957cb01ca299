"""A folder of images with boxes as a data set: every annotation error is found, with file and line, before training."""

from collections.abc import Sequence
from pathlib import Path

import torch

from cnn_cli.data.annotations import AnnotatedImage, Annotations, InvalidAnnotationsError, without_invalid
from cnn_cli.data.box_errors import Size, box_classes, box_row, check_classes, count_boxes, find_box_errors
from cnn_cli.data.boxes import BoxFiles, box_table
from cnn_cli.data.dataset import DETECTION, Dataset, Split


def read_box_folder(root: Path, annotations: Annotations, skip_invalid: bool = False) -> Dataset:
    """The data set, its images not opened beyond their headers.

    InvalidAnnotationsError with all errors; if images with errors are skipped, a note counts them. UsageError for a
    folder without boxes, and for classes that differ in case only.
    """
    errors, sizes = find_box_errors(annotations)
    notes: list[str] = []
    if errors and not skip_invalid:
        raise InvalidAnnotationsError(root, errors)
    if errors:
        annotations, notes = without_invalid(annotations, errors)
    classes = annotations.classes or box_classes(annotations)
    splits = {name: _split(split, sizes, classes, annotations.fractions) for name, split in annotations.splits.items()}
    notes += check_classes(root, count_boxes(annotations), classes)
    notes = [f"{root}: {note}" for note in (*annotations.notes, *notes)]
    return Dataset(str(root), classes, splits, tuple(notes), DETECTION, annotations.layout)


def _split(
    images: Sequence[AnnotatedImage], sizes: dict[Path, Size | str], classes: Sequence[str], fractions: bool
) -> Split:
    index, rows, shapes = {name: i for i, name in enumerate(classes)}, [], []
    for image in images:
        size = sizes[image.path]
        assert not isinstance(size, str)
        rows.append([box_row(box, size, fractions, index[box.label]) for box in image.boxes])
        shapes.append(size[::-1])
    targets = BoxFiles(box_table(rows), torch.tensor(shapes, dtype=torch.int64).view(-1, 2))
    return Split(tuple(image.path for image in images), targets)
