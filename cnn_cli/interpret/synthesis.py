"""Feature visualization as a page: an input for each class or channel, with the value of the objective."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError
from cnn_cli.interpret.ascent import (
    Ascent,
    Canvas,
    Maximized,
    Objective,
    channel_numbers,
    channels_of,
    choose_units,
    maximize,
)
from cnn_cli.interpret.pictured import CPU, Pictured, Target, provenance, write_page
from cnn_cli.interpret.scores import Scores, class_index, class_names, probabilities, scores_of
from cnn_cli.pictures import image
from cnn_cli.pictures.grid import Cell, contact_sheet, picture, room
from cnn_cli.pictures.page import Page, compose_page
from cnn_cli.progress import progress_bar
from cnn_cli.tables import Column, Table, percent, render

_FAINT = 0.5  # images with a smaller range of values are shown with stretched contrast


@dataclass(frozen=True)
class UnitRequest:
    """The options of `cnn synthesize`: classes, or channels of a layer."""

    classes: Sequence[str] = ()
    all_classes: bool = False
    layer: str | None = None
    channels: str | None = None


@dataclass(frozen=True)
class Units:
    """The units to maximize: classes, or channels of a layer, by index and name, and the picture's title."""

    objective: Objective
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    title: str
    layer: str | None = None


def units_of(loaded: LoadedNetwork, scores: Scores, request: UnitRequest) -> Units:
    """The classes or channels; UsageError if none or both are named, or one does not exist."""
    known, classes, layer = class_names(loaded), request.classes, request.layer
    if layer is not None and request.channels is not None and not classes and not request.all_classes:
        row = choose_units(loaded, layer)
        chosen = channel_numbers(request.channels, row.output_shape[0])
        unit = "channel" if len(row.output_shape) == 3 else "unit"
        subject = f"{unit} {chosen[0]}" if len(chosen) == 1 else f"{unit}s"
        title = _title(len(chosen), f"{subject} of layer {layer} ({row.type})")
        return Units(channels_of(scores, row), chosen, tuple(f"{unit} {n}" for n in chosen), title, layer)
    if layer is None and request.channels is None and (classes or request.all_classes):
        indices = range(len(known)) if request.all_classes else [class_index(c, known) for c in classes]
        scored = f"the score of class {known[indices[0]]}" if len(indices) == 1 else "class scores"
        return Units(scores, tuple(indices), tuple(known[k] for k in indices), _title(len(indices), scored))
    raise UsageError(
        "choose what to maximize: --all-classes, --class NAME, or --layer NAME with --channels 0-15 "
        "(classes or channels, not both)"
    )


def _title(count: int, maximized: str) -> str:
    return f"the input that maximizes {maximized}" if count == 1 else f"inputs that maximize {maximized}"


@dataclass(frozen=True)
class Visualization:
    """One input: the unit that it maximizes, the unit's value, the probability of a class, why the unit is dead."""

    index: int
    name: str
    value: float
    dead: str | None
    confidence: float | None = None

    def document(self) -> dict[str, Any]:
        facts = asdict(self)
        return facts if self.confidence is not None else {k: v for k, v in facts.items() if k != "confidence"}

    def caption(self, contrast: float) -> str:
        if self.dead:
            return self.dead
        value = image.number(self.value)
        reached = f"activation {value}" if self.confidence is None else f"{percent(self.confidence)}, score {value}"
        return reached + (f"; contrast ×{contrast:.2g}" if contrast > 1 else "")


@dataclass(frozen=True)
class Synthesis:
    """Inputs that maximize units: `pixels` (N, C, H, W), and the facts of each."""

    ascent: Ascent
    units: Units
    pixels: Tensor
    images: tuple[Visualization, ...]

    def document(self) -> dict[str, Any]:
        facts = {"layer": self.units.layer, "size": list(self.pixels.shape[1:]), "ascent": asdict(self.ascent)}
        return facts | {"images": [v.document() for v in self.images]}

    def text(self) -> str:
        classes = any(v.confidence is not None for v in self.images)
        columns = (
            Column("name", "class" if classes else "unit", wraps=True),
            Column("value", "score" if classes else "activation", number=True, show=image.number),
            *([Column("confidence", "probability", number=True, show=percent)] if classes else []),
            Column("dead", "", wraps=True),
        )
        return render(Table(columns, [v.document() for v in self.images]))


def show_synthesis(
    loaded: LoadedNetwork,
    request: UnitRequest,
    ascent: Ascent,
    target: Target,
    size: int | None = None,
    device: torch.device = CPU,
) -> Pictured[Synthesis]:
    """Maximize classes or channels and draw the inputs.

    `size` is the side of the images in px, by default that of the network's input. UsageError for a size that the
    network does not accept, and for more images than a picture holds.
    """
    scores = scores_of(loaded).to(device)
    units = units_of(loaded, scores, request)
    shape = (loaded.plan.input[0], size or loaded.plan.input[1], size or loaded.plan.input[2])
    rows, columns = room((shape[1], shape[2]))
    if len(units.numbers) > rows * columns:
        raise UsageError(
            f"{len(units.numbers):,} images of {shape[1]}x{shape[2]}, but a picture holds {rows * columns}; "
            "choose fewer classes or channels"
        )
    channels = (units.layer, request.channels or "") if units.layer else ()
    path = target.path(loaded, "synthesis", *(channels or (("classes",) if request.all_classes else units.names[:3])))
    canvas = Canvas(shape, background(loaded), device)
    _try_size(loaded, units.objective, canvas)
    watch = partial(progress_bar, total=ascent.steps, description="optimizing")
    result = _result(scores, units, ascent, maximize(scores, units.objective, units.numbers, canvas, ascent, watch))
    title = f"{loaded.plan.network}: {units.title}"
    return write_page(loaded, result, draw_synthesis(result, title, provenance(loaded)), path)


def background(loaded: LoadedNetwork) -> tuple[float, ...]:
    """The background: the mean that the network subtracts; else black or, in color, mid-gray."""
    channels = loaded.plan.input[0]
    return loaded.preprocessing.mean or ((0.0,) if channels == 1 else (0.5,) * channels)


def draw_synthesis(result: Synthesis, title: str, provenance: str) -> Page:
    """A cell per image, row by row; faint images are shown with stretched contrast, as the caption says."""
    cells = []
    for pixels, visualization in zip(result.pixels.cpu(), result.images, strict=True):
        shown, contrast = stretched(pixels)
        cells.append(Cell(picture(shown), (visualization.name, visualization.caption(contrast))))
    return compose_page([contact_sheet(cells)[0]], title, [result.ascent.title, provenance], None)


def stretched(pixels: Tensor) -> tuple[Tensor, float]:
    """(C, H, W) in [0, 1] → the image, stretched to [0, 1] if its range is small; and the factor."""
    low, high = float(pixels.min()), float(pixels.max())
    if not 1e-3 < high - low < _FAINT:
        return pixels, 1.0
    return (pixels - low) / (high - low), 1 / (high - low)


@torch.no_grad()
def _result(scores: Scores, units: Units, ascent: Ascent, maximized: Maximized) -> Synthesis:
    module = scores.network.get_submodule(units.layer) if units.layer else None
    confidences: list[float | None] = [None] * len(units.numbers)
    if not units.layer:
        shares = torch.cat([probabilities(scores, part) for part in torch.split(maximized.pixels, 16)])
        confidences = [float(row[number]) for row, number in zip(shares, units.numbers, strict=True)]
    images = []
    for i, (number, name) in enumerate(zip(units.numbers, units.names, strict=True)):
        dead = "dead: no gradient reaches the image" if maximized.dead[i] else None
        if not dead and maximized.values[i] <= 0 and isinstance(module, torch.nn.ReLU | torch.nn.ReLU6):
            dead = "dead: it stays at 0"
        images.append(Visualization(number, name, maximized.values[i], dead, confidences[i]))
    return Synthesis(ascent, units, maximized.pixels, tuple(images))


def _try_size(loaded: LoadedNetwork, objective: Objective, canvas: Canvas) -> None:
    """UsageError if the network does not accept images of this size."""
    try:
        with torch.no_grad():
            objective(torch.zeros(1, *canvas.shape, device=canvas.device))
    except (RuntimeError, ValueError):
        own, size = ("x".join(map(str, shape)) for shape in (loaded.plan.input, canvas.shape))
        raise UsageError(
            f"--size {canvas.shape[1]}: {loaded.plan.network} takes {own}, and its output cannot be computed for "
            f"{size}; leave out --size, or choose an earlier layer"
        ) from None
