"""Feature maps as a page: the strongest maps of each layer, beside the image and the prediction.

Blue is negative, white is zero and red is positive, as for weights; every layer has its own scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError
from cnn_cli.interpret.activations import choose_layer
from cnn_cli.interpret.box_cell import BoxCell, cell_of
from cnn_cli.interpret.box_scores import BoxScores, choose_box, layer_before
from cnn_cli.interpret.feature_maps import Maps, default_layers, maps_of
from cnn_cli.interpret.inputs import Inputs
from cnn_cli.interpret.pictured import CPU, Target, network_facts, provenance, restored
from cnn_cli.interpret.scores import Scores, class_names, probabilities, scores_by
from cnn_cli.pictures import image
from cnn_cli.pictures.fonts import font
from cnn_cli.pictures.grid import picture
from cnn_cli.pictures.page import Bar, Caption, Page, Panel, compose_page, cut
from cnn_cli.progress import progress_bar
from cnn_cli.tables import counted, percent, wrapped

_LARGEST = 320  # px per side of a map; larger ones are reduced
_TALLEST = 1700  # px for one row of maps per layer, so that any number of layers fits a picture
_LAYERS = 12  # on one page
_WIDE, _HIGH = 1400, 1150  # px for all maps of a page
_CLEAR = 104  # px per side up to which maps are enlarged, with several layers
_LEAST, _GREATEST = 48, 200  # px per side of a map, with one layer
_GAP = 8  # px between maps
_CAPTION = 17  # px under a map for the number of its channel
_VALUE = 84  # px for the number of a channel and its value
_LEFT = 280  # px for the image and the prediction under it
_LETTERS = 16  # px of the prediction
_MAPS = 256  # maps of one layer on a page
_TRUE_CLASS = "#2166ac"


@dataclass(frozen=True)
class Drawing:
    """A page of maps; for each layer (the last panels) its grid, its scale, and the number of maps shown."""

    page: Page
    grids: tuple[image.Grid, ...]
    scales: tuple[float, ...]
    shown: tuple[int, ...]


@dataclass(frozen=True)
class ImageFeatures:
    """The feature maps of one image, as drawn and written."""

    name: str
    path: Path
    maps: tuple[Maps, ...]
    drawing: Drawing
    cell: BoxCell | None = None  # the chosen box of a detector

    def document(self) -> dict[str, Any]:
        layers = [
            {
                "layer": m.layer,
                "type": m.type,
                "shape": list(m.values.shape),
                "scale": scale,
                "shown": list(m.order[:shown]),
                "zero": list(m.zero),
                "flat": list(m.constant),
                "saturated": list(m.saturated),
                **(self.cell.document_at(m.layer, m.values) if self.cell else {}),
            }
            for m, scale, shown in zip(self.maps, self.drawing.scales, self.drawing.shown, strict=True)
        ]
        body = list(self.drawing.page.body)
        box = {"box": self.cell.document()} if self.cell else {}
        return {"image": self.name, "picture": str(self.path), "body": body, **box, "layers": layers}


@dataclass(frozen=True)
class Features:
    """The feature maps of several images, one picture per image."""

    loaded: LoadedNetwork
    provenance: str
    images: tuple[ImageFeatures, ...]

    @property
    def dead(self) -> dict[str, list[int]]:
        """A line per layer with the number of channels that are zero everywhere in all images."""
        layers = range(len(self.images[0].maps))
        sets = {self.images[0].maps[i].layer: [set(shot.maps[i].zero) for shot in self.images] for i in layers}
        return {layer: sorted(set.intersection(*zeros)) for layer, zeros in sets.items()}

    def document(self) -> dict[str, Any]:
        layers = [{"layer": name, "zero_on_all_images": channels} for name, channels in self.dead.items()]
        pictures = [shot.document() for shot in self.images]
        return network_facts(self.loaded) | {"origin": self.provenance, "pictures": pictures, "layers": layers}

    def text(self) -> str:
        cells = [line for shot in self.images if shot.cell for line in shot.cell.lines()[:1]]
        lines = [*(str(shot.path) for shot in self.images), *map(wrapped, cells), self.provenance]
        count = len(self.images)
        where = "this image" if count == 1 else f"each of the {count} images"
        for m in self.images[0].maps:
            if dead := self.dead[m.layer]:
                are = "channels is" if len(dead) == 1 else "channels are"
                lines.append(f"layer {m.layer}: {len(dead)} of {len(m.values)} {are} zero everywhere in {where}")
        return "\n".join(lines)


def draw_maps(
    maps: Sequence[Maps],
    pixels: Tensor,
    title: str,
    lines: Sequence[str],
    prediction: Panel | None = None,
    per_channel: bool = False,
    cell: BoxCell | None = None,
) -> Drawing:
    """The image (C, H, W) and the prediction on the left, a section for each layer on the right.

    One scale per layer, so that its channels can be compared; with `per_channel` one per channel, so that weak ones are
    visible. cell: of a detected box, marked on the image and on all maps.
    """
    sections = [_section(m, len(maps), per_channel, cell) for m in maps]
    scaling = "each channel by its own largest" if per_channel else "one scale per layer"
    bar = Bar(image.ramp(), "−scale", "0", "scale", f"activation, {scaling}")
    left = [_image_panel(pixels, cell), *([prediction] if prediction else [])]
    drawn = compose_page([left, [panel for panel, *_ in sections]], title, lines, bar)
    return Drawing(drawn, *(tuple(s[i] for s in sections) for i in (1, 2, 3)))  # type: ignore[arg-type]


def _image_panel(pixels: Tensor, cell: BoxCell | None) -> Panel:
    values, n = image.reduced(pixels.numpy(), _LARGEST)
    shot = picture(torch.from_numpy(np.ascontiguousarray(values)))
    zoom = max(1, _LEFT // max(shot.shape[:2]))
    heading = f"image, {'x'.join(map(str, pixels.shape))}" + (f", at 1/{n} of its size" if n > 1 else "")
    shown = shot.repeat(zoom, 0).repeat(zoom, 1)
    return Panel(cell.on_image(shown) if cell else shown, heading=heading)


def _section(
    maps: Maps, sections: int, per_channel: bool, cell: BoxCell | None
) -> tuple[Panel, image.Grid, float, int]:
    """The panel of a layer: as many of its strongest maps as fit, numbered."""
    values, n = image.reduced(maps.values, min(_LARGEST, _TALLEST // sections))
    count, (height, width) = len(maps.order), values.shape[1:]
    grid = _grid(count, (height, width), sections, _VALUE if cell else 2 * _CAPTION)
    order = list(maps.order[: grid.rows * grid.columns])
    shown = len(order)
    scale = float(np.abs(maps.values[order]).max())
    scales = np.abs(values[order]).max((1, 2), keepdims=True) if per_channel else scale
    body = image.tiled(image.wrap(image.signed(values[order], scales), grid.columns), grid)
    captions = []
    at_cell = cell.values_at(maps.values) if cell else None
    for i, channel in enumerate(order):
        x, y = grid.corner(i, (height, width))
        place = (x + width * grid.zoom / 2, y + height * grid.zoom + 2)
        words = f"{channel}" if at_cell is None else f"{channel}: {image.number(float(at_cell[channel]))}"
        captions.append(Caption(*place, words, _CAPTION - 4, image.SOFT))
        if cell:
            tile = body[y : y + height * grid.zoom, x : x + width * grid.zoom]
            tile[:] = cell.on_map(tile, grid.zoom / n, maps.values.shape[1:])
    title = heading(maps, shown, scale, n, " at the cell" if cell else "")
    return Panel(body, heading=title, captions=tuple(captions)), grid, scale, shown


def _grid(count: int, tile: tuple[int, int], sections: int, caption: int) -> image.Grid:
    """The grid of a layer's maps. caption: its width in px.

    A single layer has the clearest grid that fits all maps, or as many as are legible. Several layers have rows of maps
    of about the same size in the same columns, so that a channel is easy to follow down the page.
    """
    count, high = min(count, _MAPS), _HIGH // sections
    if sections > 1:
        zoom = max(1, min(image.LARGEST_ZOOM, _CLEAR // max(tile)))
        wide = max(_CLEAR, tile[1] * zoom)
        columns = max(1, (_WIDE - _GAP) // (wide + _GAP))
        rows = max(1, (high - _GAP) // (tile[0] * zoom + _GAP + _CAPTION))
        return image.Grid(min(rows, -(-count // columns)), min(columns, count), zoom, _GAP, _CAPTION, wide)
    least, most = (max(1, side // max(tile)) for side in (max(_LEAST, caption), _GREATEST))
    for zoom in range(min(most, image.LARGEST_ZOOM), least - 1, -1):
        wide = max(tile[1] * zoom, caption)
        columns = max(1, (_WIDE - _GAP) // (wide + _GAP))
        rows = max(1, (high - _GAP) // (tile[0] * zoom + _GAP + _CAPTION))
        if rows * columns >= count:
            break
    pleasant = image.columns_for(count, (tile[0] * zoom + _CAPTION, wide), most=columns)
    columns = min(columns, max(pleasant, -(-count // rows)))
    return image.Grid(min(rows, -(-count // columns)), columns, zoom, _GAP, _CAPTION, wide)


def heading(maps: Maps, shown: int, scale: float, n: int = 1, where: str = "") -> str:
    """`relu1 (ReLU): 32 maps of 26x26, the 13 strongest; scale 2.31; 3 zero everywhere`."""
    count, height, width = maps.values.shape
    text = f"{maps.layer} ({maps.type}): {counted(count, 'map')} of {height}x{width}"
    text += f", the {shown} strongest{where}" if shown < count else ""
    text += f", at 1/{n} of their size" if n > 1 else ""
    marks = ((maps.zero, "zero everywhere"), (maps.constant, "constant"), (maps.saturated, "saturated"))
    facts = (f"{len(channels)} {mark}" for channels, mark in marks if channels)
    return "; ".join([text, f"scale {image.number(scale)}", *facts])


def prediction_panel(network: Scores, pixels: Tensor, classes: Sequence[str], label: int | None) -> Panel:
    """A panel of the most probable classes of an image (C, H, W) with bars; the true class is marked.

    CnnError if the outputs are not finite.
    """
    shares = probabilities(network, pixels.unsqueeze(0))[0].cpu()
    rows = min(5, len(classes))
    body = np.full((rows * 2 * _LETTERS + 2 * _LETTERS, _LEFT, 3), image.rgb(image.PAPER), np.uint8)
    captions = []
    for i, k in enumerate(shares.topk(rows).indices.tolist()):
        y, share = i * 2 * _LETTERS, float(shares[k])
        bar = slice(y + _LETTERS + 5, y + _LETTERS + 10)
        body[bar] = image.rgb(image.PANEL)
        body[bar, : round(share * _LEFT)] = image.rgb(_TRUE_CLASS if k == label else image.SOFT)
        words, ink = classes[k] + " ✓" * (k == label), image.SOFT if i else image.INK
        name = cut(words, font(_LETTERS, text=words), 0.7 * _LEFT, middle=True)
        captions += [Caption(0, y, name, _LETTERS, ink, "la"), Caption(_LEFT, y, percent(share), _LETTERS, ink, "ra")]
    return Panel(body, heading="prediction", captions=tuple(captions))


def show_features(
    loaded: LoadedNetwork,
    inputs: Inputs,
    layers: Sequence[str],
    target: Target,
    seed: int = 0,
    per_channel: bool = False,
    device: torch.device = CPU,
    box: int | None = None,
) -> Features:
    """Draw a picture of each image's feature maps, by default of `default_layers`.

    box: for a detector, the number of the detected box whose cell is marked in the maps; the default layer is then the
    one before the cell's scores.
    """
    network = restored(loaded, seed).to(device)
    cell, before = _cell(loaded, network, inputs, box)
    chosen = [choose_layer(loaded, network, name) for name in dict.fromkeys(layers or before)]
    chosen = chosen or default_layers(network, loaded.plan) or [choose_layer(loaded, network)]
    if len(chosen) > _LAYERS:
        raise UsageError(f"{len(chosen)} layers, but one picture holds {_LAYERS}; name fewer")
    kind = "features" if target.output else "-".join(("features", *layers, *([] if box is None else [f"box-{box}"])))
    paths = target.paths(loaded, kind, inputs.names)
    images = []
    for i, path in enumerate(progress_bar(paths, len(paths), "drawing")):
        maps = maps_of(network, loaded.plan, inputs.pixels[i], chosen)
        maps = [replace(m, order=cell.strongest(m.values)) for m in maps] if cell else maps
        label = inputs.labels[i]
        truth = "" if label is None else f", true class: {class_names(loaded)[label]}"
        lines = [f"feature maps of {inputs.names[i]}{truth}", *(cell.lines() if cell else []), provenance(loaded, seed)]
        prediction = _prediction(loaded, network, inputs.pixels[i].to(device), label)
        drawing = draw_maps(maps, inputs.pixels[i], loaded.plan.network, lines, prediction, per_channel, cell)
        image.save(drawing.page.image, path)
        images.append(ImageFeatures(inputs.names[i], path, tuple(maps), drawing, cell))
    return Features(loaded, provenance(loaded, seed), tuple(images))


def _cell(
    loaded: LoadedNetwork, network: nn.Module, inputs: Inputs, box: int | None
) -> tuple[BoxCell | None, list[str]]:
    """The cell of the box, and the layer before its scores. UsageError unless the network is a detector."""
    if box is None:
        return None, []
    if not loaded.plan.detects:
        raise UsageError("--box is for detectors; leave it out")
    if len(inputs.names) > 1:
        raise UsageError(f"--box chooses a box of one image; name one image, not {len(inputs.names)}")
    scores = BoxScores(network.eval(), loaded)
    chosen = choose_box(scores, inputs.pixels.to(next(network.parameters()).device), box, None, inputs.names[0])
    before = layer_before(scores, chosen.cell)
    return cell_of(scores, chosen), [before] if before else []


def _prediction(loaded: LoadedNetwork, network: nn.Module, pixels: Tensor, label: int | None) -> Panel | None:
    """The prediction panel of an image; None for untrained weights and for outputs other than class scores."""
    classes = class_names(loaded)
    plan = loaded.plan
    if not loaded.weights or plan.named_outputs or len(plan.output) != 1 or max(2, plan.output[0]) != len(classes):
        return None
    return prediction_panel(scores_by(network, loaded), pixels, classes, label)
