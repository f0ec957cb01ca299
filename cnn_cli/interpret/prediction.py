"""Predict the classes of images: the most probable ones with their probabilities, as a table or a contact sheet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.dataset import CLASSIFICATION
from cnn_cli.data.decoding import ReadImageError
from cnn_cli.data.preparation import read_image
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.interpret.inputs import ImageSelection, files_of, load_inputs
from cnn_cli.interpret.pictured import CPU, network_facts, provenance
from cnn_cli.interpret.scores import class_names, probabilities, scores_of
from cnn_cli.pictures import image
from cnn_cli.pictures.grid import ACCENT, Cell, contact_sheet, picture, room
from cnn_cli.pictures.page import Page, compose_page
from cnn_cli.progress import progress_bar
from cnn_cli.tables import Column, Table, counted, percent, render
from cnn_cli.tasks.selection import task_for

_BATCH = 64


@dataclass(frozen=True)
class ImagePrediction:
    """An image, its true class if known, and the most probable classes: name, index, probability."""

    image: str
    true: str | None
    top: tuple[tuple[str, int, float], ...]

    @property
    def correct(self) -> bool:
        return self.top[0][0] == self.true

    def document(self) -> dict[str, Any]:
        top = [{"class": name, "index": index, "probability": p} for name, index, p in self.top]
        return {"image": self.image, "true": self.true, "top": top}


@dataclass(frozen=True)
class Predictions:
    """Predictions for several images; `pixels` (N, C, H, W) of those that fit the contact sheet."""

    loaded: LoadedNetwork
    images: tuple[ImagePrediction, ...]
    pixels: Tensor
    fitted: str = ""  # the preprocessing of files
    skipped: tuple[str, ...] = ()  # errors of unreadable images in folders

    @property
    def temperature(self) -> float | None:
        """The temperature of calibrated probabilities; None if they are not calibrated."""
        return self.loaded.metadata.temperature if self.loaded.metadata else None

    @property
    def labelled(self) -> list[ImagePrediction]:
        return [shot for shot in self.images if shot.true is not None]

    def document(self) -> dict[str, Any]:
        correct = [shot.correct for shot in self.labelled]
        return network_facts(self.loaded) | {
            "classes": list(class_names(self.loaded)),
            "preprocessing": str(self.loaded.preprocessing),
            "temperature": self.temperature,
            "accuracy": sum(correct) / len(correct) if correct else None,
            "images": [shot.document() for shot in self.images],
            "skipped": list(self.skipped),
        }

    def text(self) -> str:
        """The classes of one image, or a line per image; then the accuracy and the preprocessing of files."""
        if len(self.images) == 1:
            lines = [self.images[0].image, "", render(self.class_table())]
        else:
            lines = [render(self.image_table())]
        if len(self.images) > 1 and (known := self.labelled):
            correct = sum(shot.correct for shot in known)
            labelled = "" if len(known) == len(self.images) else " whose class is known"
            lines += [
                "",
                f"accuracy {percent(correct / len(known))}: {correct:,} of {counted(len(known), 'image')}{labelled}",
            ]
        if self.temperature is not None:
            lines += [
                "",
                f"probabilities are calibrated (temperature {self.temperature:.3f}, from cnn eval --calibrate)",
            ]
        return "\n".join([*lines, *(["", self.fitted] if self.fitted else [])])

    def table(self) -> Table:
        """A row per image and class."""
        columns = [Column(key, key) for key in ("image", "true", "rank", "class")]
        columns.append(Column("probability", "probability", show=percent))
        rows = [
            {"image": shot.image, "true": shot.true, "rank": rank, "class": name, "probability": p}
            for shot in self.images
            for rank, (name, _, p) in enumerate(shot.top, 1)
        ]
        return Table(tuple(columns), rows)

    def class_table(self) -> Table:
        columns = (
            Column("class", "class", wraps=True),
            Column("probability", "probability", number=True, show=percent),
        )
        shot = self.images[0]
        return Table(columns, [{"class": _marked(name, shot.true), "probability": p} for name, _, p in shot.top])

    def image_table(self) -> Table:
        """A row per image."""
        columns = (
            Column("image", "image", wraps=True),
            *([Column("true", "true class", wraps=True)] if self.labelled else []),
            Column("class", "predicted", wraps=True),
            Column("probability", "probability", number=True, show=percent),
            Column("others", "followed by", wraps=True),
        )
        rows = []
        for shot in self.images:
            (name, _, p), *others = shot.top
            followed = ", ".join(f"{other} {percent(q)}" for other, _, q in others[:2])
            facts = {"image": shot.image, "true": shot.true, "class": _marked(name, shot.true)}
            rows.append(facts | {"probability": p, "others": followed})
        return Table(columns, rows)


def predict_images(
    loaded: LoadedNetwork, selection: ImageSelection, top: int = 5, device: torch.device = CPU
) -> Predictions:
    """The `top` most probable classes of each image. Any number of images; only a few are in memory.

    Unreadable images in folders are skipped; CnnError if none can be read, or for one that is named itself. UsageError
    for a network whose outputs are not class scores.
    """
    if top < 1:
        raise UsageError(f"--top {top}: must be 1 or more")
    task_for(loaded.plan, class_names(loaded), CLASSIFICATION)  # UsageError if the outputs do not match the classes
    network, classes, sheet = scores_of(loaded).to(device), class_names(loaded), room(loaded.preprocessing.input[1:])
    files = [str(path) for path in files_of(selection.files)]
    batches = [replace(selection, files=files[i : i + _BATCH], index=()) for i in range(0, len(files), _BATCH)]
    if selection.index or not batches:
        batches.append(replace(selection, files=()))
    images: list[ImagePrediction] = []
    pixels: list[Tensor] = []
    skipped: list[str] = []
    for batch in progress_bar(batches, len(batches), "predicting"):
        try:
            inputs = load_inputs(loaded, batch, limit=max(_BATCH, len(batch.index)))
        except ReadImageError:
            if not (readable := _readable(loaded, batch.files, selection.files, skipped)):
                continue
            inputs = load_inputs(loaded, replace(batch, files=readable), limit=_BATCH)
        values, indices = probabilities(network, inputs.pixels.to(device)).cpu().topk(min(top, len(classes)))
        if len(images) < sheet[0] * sheet[1]:
            pixels.append(inputs.pixels)
        for name, label, shares, ks in zip(inputs.names, inputs.labels, values.tolist(), indices.tolist(), strict=True):
            likely = tuple((classes[k], k, p) for k, p in zip(ks, shares, strict=True))
            images.append(ImagePrediction(name, None if label is None else classes[label], likely))
    if not images:
        raise CnnError(f"none of the {len(skipped):,} images can be read\n{skipped[0]}")
    size = "x".join(map(str, loaded.preprocessing.input))
    known = any(note.startswith("images: ") for note in loaded.notes)  # third-party weights: printed with their source
    fitted = f"images fitted to {size}: {loaded.preprocessing}" if files and not known else ""
    return Predictions(loaded, tuple(images), torch.cat(pixels), fitted, tuple(skipped))


def _readable(loaded: LoadedNetwork, files: Sequence[str], named: Sequence[str], skipped: list[str]) -> list[str]:
    """The readable files. Errors of others are added to `skipped`, or raised for a file that is named itself."""
    readable = []
    for file in files:
        try:
            read_image(Path(file), loaded.preprocessing)
            readable.append(file)
        except ReadImageError as error:
            if file in named:
                raise
            skipped.append(str(error))
    return readable


def draw_predictions(predictions: Predictions) -> Page:
    """A contact sheet: each image with its predicted class, in red if it is wrong, and the true class or its name."""
    cells = []
    for shot, pixels in zip(predictions.images, predictions.pixels, strict=False):
        name, _, share = shot.top[0]
        caption = Path(shot.image).name if shot.true is None else f"true class: {shot.true}"
        ink = ACCENT if shot.true is not None and not shot.correct else image.INK
        cells.append(Cell(picture(pixels), (f"{name} {percent(share)}", caption), ink))
    (panel, shown), known = contact_sheet(cells), predictions.labelled
    lines = [provenance(predictions.loaded)]
    if known:
        correct = sum(shot.correct for shot in known)
        lines.insert(0, f"accuracy {percent(correct / len(known))}: {correct:,} of {counted(len(known), 'image')}")
    if predictions.temperature is not None:
        lines.append(f"probabilities are calibrated (temperature {predictions.temperature:.3f})")
    if shown < len(predictions.images):
        lines.append(f"the first {shown} of {len(predictions.images):,} images are shown")
    return compose_page([panel], f"{predictions.loaded.plan.network}: predictions", lines, None)


def _marked(name: str, true: str | None) -> str:
    return f"{name} ✓" if name == true else name
