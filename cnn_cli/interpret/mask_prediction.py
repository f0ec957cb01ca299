"""Predict segmentation masks: palette PNGs at the images' own sizes, overlays, and a contact sheet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.masks import VOID, MaskFiles, are_masks
from cnn_cli.data.preprocessing import preprocess, preprocess_masks
from cnn_cli.data.targets import Targets
from cnn_cli.interpret.image_stream import MOST_ROWS, ImageToPredict, stream_images, write_sheet, written_facts
from cnn_cli.interpret.inputs import ImageSelection
from cnn_cli.interpret.pictured import CPU, Target, restored
from cnn_cli.interpret.scores import check_finite, class_names
from cnn_cli.pictures import class_map, image
from cnn_cli.pictures.grid import Cell, captioned_grid, picture
from cnn_cli.tables import Column, Table, percent, render
from cnn_cli.tasks.dense_scores import scores_of_pixels
from cnn_cli.tasks.segmentation import segmentation_task
from cnn_cli.tasks.segmentation_result import mean_iou, pixel_confusion


@dataclass(frozen=True)
class MaskPrediction:
    """An image's predicted mask: its file, the overlay's file, and the fraction of each class, most common first.

    miou: against the true mask, if known.
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
    skipped: tuple[str, ...] = ()  # errors of unreadable images in folders

    def document(self) -> dict[str, Any]:
        facts = written_facts(self.loaded, "segmentation", self.sheet, self.skipped)
        return facts | {"images": [shot.document() for shot in self.images]}

    def text(self) -> str:
        return f"{render(self.image_table())}\n\n{self.sheet}"

    def table(self) -> Table:
        """A row per image and class, for CSV and Markdown."""
        columns = (
            *(Column(key, key) for key in ("image", "class")),
            Column("share", "share", number=True, show=percent),
            Column("miou", "mIoU", number=True, show=percent),
            *(Column(key, key) for key in ("mask", "overlay")),
        )
        rows = [
            {"image": shot.image, "class": name, "share": share, "miou": shot.miou}
            | {"mask": str(shot.mask), "overlay": str(shot.overlay)}
            for shot in self.images
            for name, share in shot.classes
        ]
        return Table(columns, rows)

    def image_table(self) -> Table:
        """A row per image, with its most common classes."""
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


def predict_masks(
    loaded: LoadedNetwork,
    selection: ImageSelection,
    target: Target,
    tiles: bool = False,
    device: torch.device = CPU,
) -> MaskPredictions:
    """Predict and write, image by image: `NAME-mask.png` and `NAME-overlay.png`, then the sheet.

    target: the folder; by default `predictions/` in the run folder. UsageError as in `stream_images`. Unreadable images
    in folders are skipped; CnnError for one that is named itself.
    """
    classes = class_names(loaded)
    task = segmentation_task(loaded.plan, classes)
    network, skipped = restored(loaded).to(device), list[str]()
    results, rows = [], list[list[Cell]]()
    for shot in stream_images(loaded, selection, target, ("-mask.png", "-overlay.png"), _true_mask, skipped):
        scores = scores_of_pixels(network, task, loaded.preprocessing, shot.pixels, tiles, device)
        check_finite(scores)
        labels = scores.argmax(0).to(torch.uint8)
        results.append(_written(shot, labels, classes))
        if len(rows) < MOST_ROWS:
            rows.append(_row(loaded, shot, labels, results[-1]))
    void = any(bool((cell.body == class_map.VOID_COLOR).all(2).any()) for row in rows for cell in row[1:])
    panel, shown = captioned_grid(rows)
    panels = [panel, class_map.legend(classes, void)]
    sheet = write_sheet(loaded, target, panels, "predicted masks", shown, len(results))
    return MaskPredictions(loaded, tuple(results), sheet, tuple(skipped))


def _true_mask(targets: Targets, i: int) -> Tensor | None:
    if not are_masks(targets):
        return None
    return targets.read(i) if isinstance(targets, MaskFiles) else targets[i]


def _written(shot: ImageToPredict, labels: Tensor, classes: Sequence[str]) -> MaskPrediction:
    """Write the overlay and the mask, whose palette is the class colors."""
    mask, overlay = shot.files
    indexed = Image.fromarray(labels.numpy(), "P")
    indexed.putpalette(class_map.palette().tobytes())
    image.save(indexed, mask)
    blend = class_map.overlaid(picture(shot.pixels.float() / 255), labels.numpy(), class_map.background(classes))
    image.save(Image.fromarray(blend), overlay)
    counts = labels.flatten().long().bincount(minlength=len(classes))
    order = counts.argsort(descending=True).tolist()
    shares = tuple((classes[k], int(counts[k]) / labels.numel()) for k in order if counts[k])
    miou = None
    if shot.true is not None:
        matrix = pixel_confusion(shot.true.unsqueeze(0), labels.long().unsqueeze(0), len(classes))
        miou = mean_iou(matrix[0, :-1].tolist())
    return MaskPrediction(shot.name, mask, overlay, shares, miou)


def _row(loaded: LoadedNetwork, shot: ImageToPredict, labels: Tensor, result: MaskPrediction) -> list[Cell]:
    """Image, true mask, prediction and differences, at the size of the network's input."""
    stretched = replace(loaded.preprocessing, resize="stretch", resize_size=None)
    pixels = picture(preprocess(shot.pixels.unsqueeze(0), stretched)[0].float() / 255)
    predicted = preprocess_masks(labels.unsqueeze(0), stretched)[0].numpy()
    cells = [Cell(pixels, (Path(shot.name).name,))]
    words = "prediction" if result.miou is None else f"prediction: mIoU {percent(result.miou)}"
    if shot.true is None:
        overlay = class_map.overlaid(pixels, predicted, class_map.background(class_names(loaded)))
        return [*cells, Cell(class_map.colored(predicted), (words,)), Cell(overlay, ("overlay",))]
    true = preprocess_masks(shot.true.unsqueeze(0), stretched)[0].numpy()
    wrong = float(((true != predicted) & (true != VOID)).sum() / max(1, (true != VOID).sum()))
    difference = Cell(class_map.differing(pixels, true, predicted, VOID), (f"{percent(wrong)} of pixels differ",))
    return [
        *cells,
        Cell(class_map.colored(true), ("true mask",)),
        Cell(class_map.colored(predicted), (words,)),
        difference,
    ]
