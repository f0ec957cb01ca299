"""Class score maps: a classifier as a fully convolutional network, compared to an explicit sliding window."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torchvision.ops import nms

from cnn_cli.analysis.fully_convolutional import FullyConvolutional, convert
from cnn_cli.analysis.memory import inference
from cnn_cli.analysis.rows import layer_rows
from cnn_cli.analysis.sliding_window import Box, Window, window
from cnn_cli.checkpoints.checkpoint import LoadedNetwork, Metadata, restore, save_weights
from cnn_cli.data.decoding import decode_image
from cnn_cli.data.preprocessing import Preprocessing, add_normalization, preprocess
from cnn_cli.device import free_memory
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.files import make_folder, write_text
from cnn_cli.interpret.inputs import check_channels
from cnn_cli.interpret.pictured import CPU, network_facts
from cnn_cli.interpret.scores import Scores, class_names, scores_of
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import draft_document
from cnn_cli.layers import sizes
from cnn_cli.network.builder import build_plan
from cnn_cli.pictures.image import evenly_spaced
from cnn_cli.progress import progress_bar
from cnn_cli.tables import Column, Table, format_bytes, percent, render, wrapped

_SAMPLE = 5  # windows per side that are computed for comparison
_OVERLAP = 0.2  # IoU: of windows that overlap more, only the one with the highest score is listed
_WINNERS = 8  # windows listed per image
_BATCH = 64


@dataclass(frozen=True)
class WinningWindow:
    """A window with its most probable class, in pixels of the resized image."""

    label: str
    score: float
    probability: float
    cell: tuple[int, int]
    box: Box

    def document(self) -> dict[str, Any]:
        facts = {"class": self.label, "score": self.score, "probability": self.probability}
        return facts | {"cell": list(self.cell), "box": list(self.box)}


@dataclass(frozen=True)
class Agreement:
    """The map compared to `count` explicit windows: the largest difference of scores, and the number with equal
    class."""

    count: int
    difference: float
    same_class: int

    def document(self) -> dict[str, Any]:
        return {"windows": self.count, "largest_difference": self.difference, "same_class": self.same_class}


@dataclass(frozen=True)
class ScoreMap:
    """An image `pixels` (C, H, W) and its class scores `scores` (K, h, w). `agreement` None: all are explicit
    windows."""

    image: str
    pixels: Tensor
    scores: Tensor
    winners: tuple[WinningWindow, ...]
    agreement: Agreement | None
    temperature: float = 1.0  # of probabilities, where they are calibrated

    @property
    def probabilities(self) -> Tensor:
        return (self.scores / self.temperature).softmax(0)

    def document(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "size": list(self.pixels.shape[1:]),
            "map": list(self.scores.shape[1:]),
            "agreement": self.agreement and self.agreement.document(),
            "windows": [winner.document() for winner in self.winners],
        }


@dataclass(frozen=True)
class Convolved:
    """A classifier in fully convolutional form, the files it was written to, and its score maps of images."""

    loaded: LoadedNetwork
    conversion: FullyConvolutional
    window: Window
    maps: tuple[ScoreMap, ...] = ()
    files: tuple[Path, ...] = ()

    def document(self) -> dict[str, Any]:
        return network_facts(self.loaded) | {
            "files": [str(path) for path in self.files],
            "input": self.window.input,
            **self.window.document(),
            "padded_layers": list(self.window.padded),
            "global_layers": list(self.window.global_layers),
            "layers": self.layer_table().rows,
            "images": [score_map.document() for score_map in self.maps],
        }

    def table(self) -> Table:
        """For CSV and Markdown: a row per window of the images or, without images, per converted layer."""
        if not self.maps:
            return self.layer_table()
        columns = (
            *(Column(key, key) for key in ("image", "class")),
            Column("score", "score", number=True, show="{:.2f}".format),
            Column("probability", "probability", number=True, show=percent),
            *(Column(key, key, number=True) for key in ("row", "column", "x0", "y0", "x1", "y1")),
        )
        rows = []
        for shot in self.maps:
            for winner in shot.winners:
                places = zip(("row", "column", "x0", "y0", "x1", "y1"), (*winner.cell, *winner.box), strict=True)
                rows.append({"image": shot.image, **winner.document(), **dict(places)})
        return Table(columns, rows)

    def layer_table(self) -> Table:
        """The converted layers."""
        columns = (Column("layer", "layer"), Column("before", "before"), Column("after", "after", wraps=True))
        before = {row.name: row.text for row in layer_rows(self.conversion.before)}
        after = {row.name: row.text for row in layer_rows(self.conversion.after)}
        rows = [
            {"layer": old.name, "before": before[old.name], "after": after[new.name] if new else "removed"}
            for old, new in self.conversion.changes
        ]
        return Table(columns, rows)

    def window_table(self) -> Table:
        """The windows of the images."""
        columns = (
            Column("image", "image", wraps=True),
            Column("class", "class", wraps=True),
            Column("score", "score", number=True, show="{:.2f}".format),
            Column("probability", "probability", number=True, show=percent),
            Column("box", "window (x0, y0, x1, y1)", show=lambda box: ", ".join(map(str, box))),
        )
        rows = [{"image": shot.image, **winner.document()} for shot in self.maps for winner in shot.winners]
        return Table(columns, rows)

    def text(self) -> str:
        lines = [render(self.layer_table()), "", *map(wrapped, self.facts())]
        if self.maps:
            lines += ["", render(self.window_table()), "", *map(wrapped, self.comparisons())]
        return "\n".join([*lines, *([""] if self.files else []), *map(str, self.files)])

    def facts(self) -> list[str]:
        """Step and window, and the reasons why the map differs from explicit windows."""
        seen, field = self.window.size, self.window.field
        cut = "" if seen == field else f", cut to the input of {sizes(self.window.input)}"
        lines = [
            f"step    {sizes(self.window.step)} px, the product of the strides",
            f"window  {sizes(seen)} px, the receptive field of a cell ({sizes(field)}){cut}",
        ]
        if padded := self.window.padded:
            lines.append(
                f"{_counted(padded, 'layer pads', 'layers pad')}: explicit windows are padded with zeros, "
                "but the map reads the pixels around them, so scores differ"
            )
        if everywhere := self.window.global_layers:
            lines.append(
                f"{_counted(everywhere, 'layer depends', 'layers depend')} on the whole image ({everywhere[0]}), so "
                "scores differ from those of explicit windows"
            )
        if self.window.exact:
            lines.append("no layer pads, so each cell has the same scores as its explicit window")
        return lines

    def comparisons(self) -> list[str]:
        """How much the maps differ from explicit windows."""
        lines = []
        for shot in self.maps:
            rows, columns = shot.scores.shape[1:]
            line = f"{Path(shot.image).name}: a map of {rows}x{columns} cells"
            if (close := shot.agreement) is None:
                lines.append(f"{line}, each an explicit window")
                continue
            line += f"; in {close.count} explicit windows scores differ by at most {close.difference:.2g}, and "
            lines.append(f"{line}{close.same_class} have the same class")
        if not self.window.exact and any(shot.agreement for shot in self.maps):
            lines.append("--windows classifies every window separately")
        return lines


def convolve(
    loaded: LoadedNetwork,
    images: Sequence[Path] = (),
    size: int | None = None,
    explicit: bool = False,
    device: torch.device = CPU,
) -> Convolved:
    """The fully convolutional form of a classifier and, with weights, its score maps of images. Writes nothing.

    size: the longer side to which images are resized, in px; explicit: through the classifier itself, window by window.
    UsageError for a network that cannot be converted and for images smaller than its input.
    """
    conversion = convert(loaded.plan)
    if images:
        check_channels(loaded)
    result = Convolved(loaded, conversion, window(conversion.after))
    if not images:
        return result
    pixels = [_read(path, loaded.preprocessing, size) for path in images]
    for path, shot in zip(images, pixels, strict=True):
        _check_size(result, path, shot, explicit, device)
    classifier, dense = scores_of(loaded).to(device), _converted_scores(loaded, conversion).to(device)
    maps = []
    for path, shot in zip(images, pixels, strict=True):
        if explicit:
            scores, agreement = _all_windows(classifier, result.window, shot.to(device)), None
        else:
            with torch.no_grad():
                scores = dense.map(shot.unsqueeze(0).to(device))[0]
            agreement = _compare(classifier, result.window, shot.to(device), scores)
        score_map = ScoreMap(str(path), shot, scores.cpu(), (), agreement, classifier.temperature)
        maps.append(replace(score_map, winners=_winners(score_map, result.window, class_names(loaded))))
    return replace(result, maps=tuple(maps))


def write_network(result: Convolved, path: Path) -> Convolved:
    """Write the network's spec to `path` and, if it has weights, a checkpoint beside it. CnnError if that fails."""
    make_folder(path.parent)
    document = result.conversion.after.document()
    text = yaml.safe_dump(document, default_flow_style=None, sort_keys=False, width=120, allow_unicode=True)
    write_text(path, text)
    files = [path]
    if result.loaded.weights is not None:
        network = restore(result.loaded)
        after = result.conversion.after
        converted = build_plan(after)
        converted.load_state_dict(_renamed(result.conversion, network.state_dict()))
        source = {"weights": f"converted from {result.loaded.weights}"}
        of_run = result.loaded.metadata
        temperature = of_run.temperature if of_run else None
        names, images = class_names(result.loaded), result.loaded.preprocessing
        metadata = Metadata(after.document(), names, images, {}, source, temperature)
        files.append(path.with_suffix(".safetensors"))
        save_weights(files[-1], converted, metadata)
    return replace(result, files=(*result.files, *files))


def _renamed(conversion: FullyConvolutional, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[old].reshape(shape) for old, (name, shape) in conversion.renamed().items()}


def _converted_scores(loaded: LoadedNetwork, conversion: FullyConvolutional) -> Scores:
    network = build_plan(conversion.after)
    network.load_state_dict(_renamed(conversion, restore(loaded).state_dict()))
    return Scores(add_normalization(network, loaded.preprocessing), conversion.after).eval()


def _read(path: Path, preprocessing: Preprocessing, longer: int | None) -> Tensor:
    """An image file as (C, H, W) in [0, 1], at its own resolution or with its longer side resized."""
    pixels = decode_image(path, preprocessing.input[0]).unsqueeze(0)
    if longer is not None:
        height, width = (max(1, round(side * longer / max(pixels.shape[2:]))) for side in pixels.shape[2:])
        pixels = preprocess(pixels, Preprocessing((pixels.shape[1], height, width)))
    return pixels[0].float().div_(255)


def _check_size(result: Convolved, path: Path, pixels: Tensor, explicit: bool, device: torch.device) -> None:
    """UsageError for an image smaller than a window, CnnError for one that does not fit in memory."""
    height, width = pixels.shape[1:]
    least = result.window.input
    if height < least[0] or width < least[1]:
        raise UsageError(
            f"{path} has {height}x{width} pixels, fewer than a window of {sizes(least)}; enlarge it with --size, the "
            "longer side in pixels"
        )
    plan = result.conversion.after
    need = inference(_at_size(plan, height, width)).total
    if not explicit and need > (free := free_memory(device)):
        raise CnnError(
            f"{path} of {height}x{width} pixels needs about {format_bytes(need)} of memory, but only "
            f"{format_bytes(free)} are free; choose a smaller --size, or --windows"
        )


def _at_size(plan: Plan, height: int, width: int) -> Plan:
    return draft_document(plan.document(), plan.spec.origin, (plan.input[0], height, width)).checked()


@torch.no_grad()
def _windows(classifier: Scores, window: Window, pixels: Tensor, cells: Sequence[tuple[int, int]]) -> Tensor:
    """The classifier's scores (K, n) of the explicit windows of these cells."""
    (height, width), (down, across) = window.input, window.step
    scores = []
    starts = range(0, len(cells), _BATCH)
    for start in progress_bar(starts, len(starts), "computing windows"):
        corners = [(row * down, column * across) for row, column in cells[start : start + _BATCH]]
        crops = torch.stack([pixels[:, y : y + height, x : x + width] for y, x in corners])
        scores.append(classifier(crops))
    return torch.cat(scores).T.contiguous()


def _all_windows(classifier: Scores, window: Window, pixels: Tensor) -> Tensor:
    """The classifier's scores (K, h, w) of all windows."""
    rows, columns = window.count(*pixels.shape[1:])
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    return _windows(classifier, window, pixels, cells).view(-1, rows, columns)


def _compare(classifier: Scores, window: Window, pixels: Tensor, scores: Tensor) -> Agreement:
    """Compare the map to explicit windows at regular intervals."""
    fits = window.count(*pixels.shape[1:])
    rows, columns = (min(a, b) for a, b in zip(fits, scores.shape[1:], strict=True))
    cells = [(row, column) for row in evenly_spaced(rows, _SAMPLE) for column in evenly_spaced(columns, _SAMPLE)]
    exact = _windows(classifier, window, pixels, cells)
    ours = torch.stack([scores[:, row, column] for row, column in cells], 1)
    same = int((exact.argmax(0) == ours.argmax(0)).sum())
    return Agreement(len(cells), float((exact - ours).abs().max()), same)


def _winners(score_map: ScoreMap, window: Window, classes: Sequence[str]) -> tuple[WinningWindow, ...]:
    """The windows with the highest scores, after non-maximum suppression.

    Ranked by scores, since probabilities are relative and can be near 1 even for windows without an object.
    """
    best, labels = score_map.scores.max(0)
    probabilities = score_map.probabilities.amax(0)
    cells = [(row, column) for row in range(best.shape[0]) for column in range(best.shape[1])]
    boxes = torch.tensor([window.box(*cell) for cell in cells], dtype=torch.float32)
    kept = nms(boxes, best.flatten(), _OVERLAP)[:_WINNERS].tolist()
    return tuple(
        WinningWindow(classes[int(labels[at])], float(best[at]), float(probabilities[at]), at, window.box(*at))
        for at in (cells[i] for i in kept)
    )


def _counted(names: Sequence[str], one: str, several: str) -> str:
    return f"{len(names)} {one if len(names) == 1 else several}"
