"""Predictions that are written image by image: the images at their own sizes, one in memory at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.decoding import ReadImageError, decode_image
from cnn_cli.data.targets import Targets
from cnn_cli.errors import CnnError
from cnn_cli.files import make_folder
from cnn_cli.interpret.inputs import ImageSelection, check_channels, check_index, check_named, files_of, whole_split
from cnn_cli.interpret.pictured import Target, distinct_words, network_facts, provenance
from cnn_cli.interpret.scores import class_names
from cnn_cli.pictures import image
from cnn_cli.pictures.page import Panel, compose_page
from cnn_cli.progress import progress_bar

SHEET = "predictions.png"
MOST_ROWS = 12  # row headings of the sheet


@dataclass(frozen=True)
class ImageToPredict:
    """An image, (c, h, w) uint8, its target if known, and the files to write its prediction to."""

    name: str
    pixels: Tensor
    true: Tensor | None
    files: tuple[Path, ...]


def prediction_folder(loaded: LoadedNetwork, target: Target) -> Path:
    return target.output or (loaded.run / "predictions" if loaded.run else Path(f"{loaded.plan.network}-predictions"))


def written_facts(loaded: LoadedNetwork, task: str, sheet: Path, skipped: Sequence[str]) -> dict[str, Any]:
    """The common entries of the documents of these predictions."""
    return network_facts(loaded) | {
        "task": task,
        "class_names": list(class_names(loaded)),
        "preprocessing": str(loaded.preprocessing),
        "sheet": str(sheet),
        "skipped": list(skipped),
    }


def write_sheet(
    loaded: LoadedNetwork, target: Target, panels: Sequence[Panel], title: str, shown: int, count: int
) -> Path:
    """Write the sheet with the first `shown` of `count` images → its path."""
    lines = [provenance(loaded), *([f"the first {shown} of {count:,} images are shown"] if shown < count else [])]
    path = prediction_folder(loaded, target) / SHEET
    image.save(compose_page(panels, f"{loaded.plan.network}: {title}", lines, None).image, path)
    return path


def stream_images(
    loaded: LoadedNetwork,
    selection: ImageSelection,
    target: Target,
    endings: Sequence[str],
    true: Callable[[Targets, int], Tensor | None],
    skipped: list[str],
) -> Iterator[ImageToPredict]:
    """The images one by one, with a progress bar; the folder is made and checked before the first one.

    endings: of the files to write for each image, such as `-mask.png`. true: returns the target of an image of the data
    set. Errors of unreadable images in folders are added to `skipped`. UsageError without images and for files that
    must not be overwritten; CnnError for an unreadable image that is named itself, and if none can be read.
    """
    files, numbers = files_of(selection.files), selection.index
    check_named(selection)
    names = [str(path) for path in files] + [f"{selection.split} {i}" for i in numbers]
    words, folder = [word.replace(" ", "-") for word in distinct_words(names)], prediction_folder(loaded, target)
    written = [tuple(folder / f"{word}{ending}" for ending in endings) for word in words]
    for path in (folder / SHEET, *(path for group in written for path in group)):
        image.check_target(path, target.overwrites(loaded), (path.suffix,))
    make_folder(folder)
    images = _images(loaded, selection, files, true, skipped)
    for group, shot in zip(written, progress_bar(images, len(names), "predicting"), strict=True):
        if shot is not None:
            yield ImageToPredict(*shot, group)
    if len(skipped) == len(names):
        raise CnnError(f"none of the {len(skipped):,} images can be read\n{skipped[0]}")


def _images(
    loaded: LoadedNetwork,
    selection: ImageSelection,
    files: Sequence[Path],
    true: Callable[[Targets, int], Tensor | None],
    skipped: list[str],
) -> Iterator[tuple[str, Tensor, Tensor | None] | None]:
    """The name, pixels and target of each image; None for an unreadable one in a folder."""
    channels = check_channels(loaded)
    for path in files:
        try:
            yield str(path), decode_image(path, channels), None
        except ReadImageError as error:
            if str(path) in selection.files:
                raise
            skipped.append(str(error))
            yield None
    if not selection.index:
        return
    dataset = whole_split(loaded, selection.split, selection.data, selection.data_dir)
    part = dataset.splits[selection.split]
    for i in selection.index:
        check_index(i, dataset, selection.split)
        pixels = part.images[i] if isinstance(part.images, Tensor) else decode_image(part.images[i], channels)
        yield f"{Path(dataset.name).name} {selection.split} {i}", pixels, true(part.targets, i)
