"""Predict the class of every pixel: palette masks at the images' own sizes, overlays, and a sheet of all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.decoding import ReadImageError, decode_image
from cnn_cli.data.masks import VOID, MaskFiles, are_masks
from cnn_cli.data.preprocessing import preprocess, preprocess_masks
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.files import make_folder, write_bytes
from cnn_cli.interpret.inputs import ImageSelection, files_of, whole_split
from cnn_cli.interpret.pictured import CPU, Target, distinct_words, network_facts, provenance, restored
from cnn_cli.interpret.scores import class_names
from cnn_cli.pictures import class_map, image
from cnn_cli.pictures.grid import Cell, captioned_grid, picture
from cnn_cli.pictures.page import Page, page
from cnn_cli.progress import progress_bar
from cnn_cli.tables import Column, Table, percent, render
from cnn_cli.tasks.dense_scores import scores_of_pixels
from cnn_cli.tasks.segmentation import segmentation_task
from cnn_cli.tasks.segmentation_result import mean_iou, pixel_confusion

_MOST_ROWS = 12  # of the sheet
_SHEET = "predictions.png"


@dataclass(frozen=True)
class MaskPrediction:
    """Of one image the predicted mask: its file, that of the overlay, the share of each class, the most common first.

    miou: against the true mask, where that is known.
    """

    image: str
    mask: Path
    overlay: Path
    classes: tuple[tuple[str, float], ...]
    miou: float | None = None

    def document(self) -> dict[str, Any]:
        shares = [{"class": name, "share": share} for name, share in self.classes]
        paths = {"mask": str(self.mask), "overlay": str(self.overlay)}
        return {"image": self.image, **paths, "miou": self.miou, "classes": shares}


@dataclass(frozen=True)
class MaskPredictions:
    """Predictions for several images, and the sheet with the first of them."""

    loaded: LoadedNetwork
    images: tuple[MaskPrediction, ...]
    sheet: Path
    skipped: tuple[str, ...] = ()  # what is wrong with images of folders that cannot be read

    def document(self) -> dict[str, Any]:
        return network_facts(self.loaded) | {
            "task": "segmentation",
            "class_names": list(class_names(self.loaded)),
            "preprocessing": str(self.loaded.preprocessing),
            "sheet": str(self.sheet),
            "images": [shot.document() for shot in self.images],
            "skipped": list(self.skipped),
        }

    def text(self) -> str:
        return f"{render(self.table())}\n\n{self.sheet}"

    def table(self) -> Table:
        known = any(shot.miou is not None for shot in self.images)
        columns = (
            Column("image", "image", wraps=True),
            *([Column("miou", "mIoU", number=True, show=percent)] if known else []),
            Column("classes", "classes", wraps=True),
            Column("mask", "mask", wraps=True),
        )
        rows = [
            {
                "image": shot.image,
                "miou": shot.miou,
                "classes": ", ".join(f"{name} {percent(share)}" for name, share in shot.classes[:4]),
                "mask": shot.mask.name,
            }
            for shot in self.images
        ]
        return Table(columns, rows)


@dataclass(frozen=True)
class _Input:
    """An image to predict: (c, h, w) bytes, and its true mask (h, w) where that is known."""

    name: str
    pixels: Tensor
    true: Tensor | None = None


def predict_masks(
    loaded: LoadedNetwork,
    selection: ImageSelection,
    target: Target,
    tiles: bool = False,
    device: torch.device = CPU,
) -> MaskPredictions:
    """Predict and write, image by image: `NAME-mask.png` and `NAME-overlay.png`, then the sheet.

    target: the folder; by default `predictions/` in the run folder. UsageError for files that exist, unless forced.
    Images of folders that cannot be read are skipped; CnnError for one that is named itself.
    """
    classes = class_names(loaded)
    task = segmentation_task(loaded.plan, classes)
    files, numbers = files_of(selection.files), selection.index
    if not files and not numbers:
        raise UsageError("no images; name files or folders, or choose images of the data set with --index 0")
    names = [str(path) for path in files] + [f"{selection.split} {i}" for i in numbers]
    folder = target.output or (loaded.run / "predictions" if loaded.run else Path(f"{loaded.plan.network}-predictions"))
    words = [word.replace(" ", "-") for word in distinct_words(names)]
    paths = [(folder / f"{word}-mask.png", folder / f"{word}-overlay.png") for word in words]
    for path in (folder / _SHEET, *(path for pair in paths for path in pair)):
        image.check_target(path, target.force)
    make_folder(folder)
    network, skipped = restored(loaded).to(device), list[str]()
    inputs = _inputs(loaded, selection, files, skipped)
    results, rows = [], list[list[Cell]]()
    for (mask, overlay), shot in zip(paths, progress_bar(inputs, len(names), "predicting"), strict=True):
        if shot is None:
            continue
        scores = scores_of_pixels(network, task, loaded.preprocessing, shot.pixels, tiles, device)
        if not scores.isfinite().all():
            raise CnnError("the network's outputs are not finite numbers; train it again with a smaller --lr")
        labels = scores.argmax(0).to(torch.uint8)
        results.append(_written(shot, labels, classes, mask, overlay))
        if len(rows) < _MOST_ROWS:
            rows.append(_row(loaded, shot, labels, results[-1]))
    if not results:
        raise CnnError(f"none of the {len(skipped):,} images can be read\n{skipped[0]}")
    image.save(_sheet(loaded, rows, classes, len(results)).image, folder / _SHEET)
    return MaskPredictions(loaded, tuple(results), folder / _SHEET, tuple(skipped))


def _inputs(
    loaded: LoadedNetwork, selection: ImageSelection, files: Sequence[Path], skipped: list[str]
) -> Iterator[_Input | None]:
    """The images one by one; None for one of a folder that cannot be read."""
    channels = loaded.preprocessing.input[0]
    if channels not in (1, 3):
        raise UsageError(f"the network takes {channels} channels, but images have 1 (grayscale) or 3 (color)")
    for path in files:
        try:
            yield _Input(str(path), decode_image(path, channels))
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
        if not 0 <= i < len(part):
            raise UsageError(
                f"--index {i}: the {selection.split} split of {dataset.name} has images 0 to {len(part) - 1:,}"
            )
        pixels = part.images[i] if isinstance(part.images, Tensor) else decode_image(part.images[i], channels)
        targets, true = part.targets, None
        if are_masks(targets):
            true = targets.read(i) if isinstance(targets, MaskFiles) else targets[i]
        yield _Input(f"{Path(dataset.name).name} {selection.split} {i}", pixels, true)


def _written(shot: _Input, labels: Tensor, classes: Sequence[str], mask: Path, overlay: Path) -> MaskPrediction:
    """Write the mask, with the colors of the classes as its palette, and the overlay."""
    indexed = Image.fromarray(labels.numpy(), "P")
    indexed.putpalette(class_map.palette().tobytes())
    _save(indexed, mask)
    blend = class_map.overlaid(picture(shot.pixels.float() / 255), labels.numpy(), _kept(classes))
    _save(Image.fromarray(blend), overlay)
    counts = labels.flatten().long().bincount(minlength=len(classes))
    order = counts.argsort(descending=True).tolist()
    shares = tuple((classes[k], int(counts[k]) / labels.numel()) for k in order if counts[k])
    miou = None
    if shot.true is not None:
        matrix = pixel_confusion(shot.true.unsqueeze(0), labels.long().unsqueeze(0), len(classes))
        miou = mean_iou(matrix[0, :-1].tolist())
    return MaskPrediction(shot.name, mask, overlay, shares, miou)


def _kept(classes: Sequence[str]) -> list[int]:
    """The classes that overlays leave as they are: the background."""
    return [i for i, name in enumerate(classes) if name.lower() == "background"]


def _save(picture: Image.Image, path: Path) -> None:
    buffer = BytesIO()
    picture.save(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def _row(loaded: LoadedNetwork, shot: _Input, labels: Tensor, result: MaskPrediction) -> list[Cell]:
    """Image, truth, prediction, and where they differ, at the size of the network's input."""
    how = replace(loaded.preprocessing, resize="stretch", resize_size=None)
    pixels = picture(preprocess(shot.pixels.unsqueeze(0), how)[0].float() / 255)
    predicted = preprocess_masks(labels.unsqueeze(0), how)[0].numpy()
    cells = [Cell(pixels, (Path(shot.name).name,))]
    words = "prediction" if result.miou is None else f"prediction: mIoU {percent(result.miou)}"
    if shot.true is None:
        overlay = class_map.overlaid(pixels, predicted, _kept(class_names(loaded)))
        return [*cells, Cell(class_map.colored(predicted), (words,)), Cell(overlay, ("overlay",))]
    true = preprocess_masks(shot.true.unsqueeze(0), how)[0].numpy()
    wrong = float(((true != predicted) & (true != VOID)).sum() / max(1, (true != VOID).sum()))
    difference = Cell(class_map.differing(pixels, true, predicted, VOID), (f"{percent(wrong)} of pixels differ",))
    return [
        *cells,
        Cell(class_map.colored(true), ("true mask",)),
        Cell(class_map.colored(predicted), (words,)),
        difference,
    ]


def _sheet(loaded: LoadedNetwork, rows: list[list[Cell]], classes: Sequence[str], count: int) -> Page:
    void = any(bool((cell.body == class_map.VOID_COLOR).all(2).any()) for row in rows for cell in row[1:])
    panel, shown = captioned_grid(rows)
    lines = [provenance(loaded), *([f"the first {shown} of {count:,} images are shown"] if shown < count else [])]
    return page([panel, class_map.legend(classes, void)], f"{loaded.plan.network}: predicted masks", lines, None)
