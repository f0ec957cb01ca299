"""What layers make of an image, as a page: their maps, the strongest first, with the image beside them.

Blue is negative, white is zero and red is positive, as for weights; every layer has a scale of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.errors import UsageError
from cnn_cli.interpret.capture import choose_layer
from cnn_cli.interpret.inputs import Inputs
from cnn_cli.interpret.maps import Maps, default_layers, maps_of
from cnn_cli.interpret.progress_bar import tracked
from cnn_cli.interpret.provenance import origin, places, restored
from cnn_cli.interpret.scores import Scores, class_names, percent, probabilities
from cnn_cli.pictures import image
from cnn_cli.pictures.captioned_grid import picture
from cnn_cli.pictures.page import Bar, Caption, Page, Panel, font, page

_LARGEST = 320  # px a side of one map; larger ones are reduced
_TALLEST = 1700  # px for the maps of one row of each layer, so that any number of layers stays within a picture
_LAYERS = 12  # on one page
_WIDE, _HIGH = 1400, 1150  # px for all maps of a page
_CLEAR = 104  # px a side of a map among several layers, at most where it is enlarged
_LEAST, _GREATEST = 48, 200  # px a side of a map where one layer has the page
_GAP = 8  # px between maps
_CAPTION = 17  # px under a map for the number of its channel
_LEFT = 280  # px for the image and what stands under it
_OPINION = 16  # px of the words under the image
_MAPS = 256  # maps of one layer on a page
_STRONG = "#2166ac"


@dataclass(frozen=True)
class Drawing:
    """Maps as a page: for each layer (the last panels) its grid, its scale, and how many of its maps are shown."""

    page: Page
    grids: tuple[image.Grid, ...]
    scales: tuple[float, ...]
    shown: tuple[int, ...]


def draw_maps(
    maps: Sequence[Maps],
    pixels: Tensor,
    title: str,
    lines: Sequence[str],
    opinion: Panel | None = None,
    per_channel: bool = False,
) -> Drawing:
    """The image (C, H, W) on the left, over the network's `opinion` of it; a section for each layer on the right.

    One scale a layer, so that its channels can be compared; with `per_channel` each has its own, so that weak ones can
    be seen.
    """
    sections = [_section(m, len(maps), per_channel) for m in maps]
    whose = "each channel by its own largest" if per_channel else "one scale for each layer"
    bar = Bar(image.ramp(), "−scale", "0", "scale", f"output, {whose}")
    left = [_image_panel(pixels), *([opinion] if opinion else [])]
    drawn = page([left, [s[0] for s in sections]], title, lines, bar)
    return Drawing(drawn, *(tuple(s[i] for s in sections) for i in (1, 2, 3)))  # type: ignore[arg-type]


def _image_panel(pixels: Tensor) -> Panel:
    values, n = image.reduced(pixels.numpy(), _LARGEST)
    shot = picture(torch.from_numpy(np.ascontiguousarray(values)))
    zoom = max(1, _LEFT // max(shot.shape[:2]))
    heading = f"image, {'×'.join(map(str, pixels.shape))}" + (f", at 1/{n} of its size" if n > 1 else "")
    return Panel(shot.repeat(zoom, 0).repeat(zoom, 1), heading=heading)


def _section(maps: Maps, sections: int, per_channel: bool) -> tuple[Panel, image.Grid, float, int]:
    """One layer: as many of its strongest maps as there is room for, numbered."""
    values, n = image.reduced(maps.values, min(_LARGEST, _TALLEST // sections))
    count, (height, width) = len(maps.order), values.shape[1:]
    grid = _grid(count, (height, width), sections)
    order = list(maps.order[: grid.rows * grid.columns])
    shown = len(order)
    scale = float(np.abs(maps.values[order]).max())
    scales = np.abs(values[order]).max((1, 2), keepdims=True) if per_channel else scale
    body = image.tiled(image.wrap(image.signed(values[order], scales), grid.columns), grid)
    captions = []
    for i, channel in enumerate(order):
        x, y = grid.corner(i, (height, width))
        place = (x + width * grid.zoom / 2, y + height * grid.zoom + 2)
        captions.append(Caption(*place, f"{channel}", _CAPTION - 4, image.SOFT))
    return Panel(body, heading=heading(maps, shown, scale, n), captions=tuple(captions)), grid, scale, shown


def _grid(count: int, tile: tuple[int, int], sections: int) -> image.Grid:
    """For one layer the clearest grid that has room for all maps, or for as many as can be read.

    For several, rows of maps of about the same size in the same columns, so that a channel can be followed down.
    """
    count, high = min(count, _MAPS), _HIGH // sections
    if sections > 1:
        zoom = max(1, min(image.LARGEST_ZOOM, _CLEAR // max(tile)))
        wide = max(_CLEAR, tile[1] * zoom)
        columns = max(1, (_WIDE - _GAP) // (wide + _GAP))
        rows = max(1, (high - _GAP) // (tile[0] * zoom + _GAP + _CAPTION))
        return image.Grid(min(rows, -(-count // columns)), min(columns, count), zoom, _GAP, _CAPTION, wide)
    least, most = (max(1, side // max(tile)) for side in (_LEAST, _GREATEST))
    for zoom in range(min(most, image.LARGEST_ZOOM), least - 1, -1):
        wide = max(tile[1] * zoom, _CAPTION * 2)
        columns = max(1, (_WIDE - _GAP) // (wide + _GAP))
        rows = max(1, (high - _GAP) // (tile[0] * zoom + _GAP + _CAPTION))
        if rows * columns >= count:
            break
    pleasant = image.columns_for(count, (tile[0] * zoom + _CAPTION, wide), most=columns)
    columns = min(columns, max(pleasant, -(-count // rows)))
    return image.Grid(min(rows, -(-count // columns)), columns, zoom, _GAP, _CAPTION, wide)


def heading(maps: Maps, shown: int, scale: float, n: int = 1) -> str:
    """`relu1 (ReLU): 32 maps of 26×26, shown the 13 strongest; scale 2.31; 3 zero everywhere`."""
    count, height, width = maps.values.shape
    text = f"{maps.layer} ({maps.type}): {count} map{'s' * (count > 1)} of {height}×{width}"
    text += f", shown the {shown} strongest" if shown < count else ""
    text += f", at 1/{n} of their size" if n > 1 else ""
    facts = (f"{len(which)} {what}" for which, what in _facts(maps) if which)
    return "; ".join([text, f"scale {image.number(scale)}", *facts])


def _facts(maps: Maps) -> tuple[tuple[tuple[int, ...], str], ...]:
    return ((maps.silent, "zero everywhere"), (maps.flat, "without any pattern"), (maps.saturated, "saturated"))


def opinion_panel(network: Scores, pixels: Tensor, classes: Sequence[str], label: int | None) -> Panel:
    """What the network says to an image (C, H, W): the likeliest classes with bars, the true one with a mark.

    CnnError where it says nothing, since it puts out no numbers.
    """
    shares = probabilities(network, pixels.unsqueeze(0))[0]
    letters, rows = font(_OPINION), min(5, len(classes))
    body = np.full((rows * 2 * _OPINION + 2 * _OPINION, _LEFT, 3), image.rgb(image.PAPER), np.uint8)
    captions = []
    for i, k in enumerate(shares.topk(rows).indices.tolist()):
        y, share = i * 2 * _OPINION, float(shares[k])
        body[y + _OPINION + 5 : y + _OPINION + 10] = image.rgb(image.PANEL)
        body[y + _OPINION + 5 : y + _OPINION + 10, : round(share * _LEFT)] = image.rgb(
            _STRONG if k == label else image.SOFT
        )
        name, ink = classes[k] + " ✓" * (k == label), image.INK if not i else image.SOFT
        while name and letters.getlength(name) > 0.7 * _LEFT:
            name = name[:-2] + "…"
        captions += [Caption(0, y, name, _OPINION, ink, "la"), Caption(_LEFT, y, percent(share), _OPINION, ink, "ra")]
    return Panel(body, heading="what the network says", captions=tuple(captions))


def show_features(
    loaded: LoadedNetwork,
    inputs: Inputs,
    layers: Sequence[str] = (),
    output: Path | None = None,
    seed: int = 0,
    per_channel: bool = False,
    force: bool = False,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Write a picture of each image's maps → what `cnn visualize-features --json` prints.

    `layers` as `cnn summary` names them; without any, as `default_layers` has it. Paths as in `places`.
    """
    network = restored(loaded, seed).to(device or torch.device("cpu"))
    chosen = [choose_layer(loaded, network, name) for name in dict.fromkeys(layers)] or default_layers(
        network, loaded.plan
    )
    if not chosen:
        chosen = [choose_layer(loaded, network)]  # which says what is missing
    if len(chosen) > _LAYERS:
        raise UsageError(f"{len(chosen)} layers are named, and one picture takes {_LAYERS}; name fewer")
    paths = places(loaded, "features", inputs.names, output, force)
    came, count, pictures = origin(loaded, seed), len(paths), []
    silent: dict[str, set[int]] = {}
    for i, path in enumerate(tracked(paths, count, "drawing")):
        maps = maps_of(network, loaded.plan, inputs.pixels[i], chosen)
        for m in maps:
            silent[m.layer] = silent.get(m.layer, set(m.silent)) & set(m.silent)
        opinion, words = _opinion(loaded, network, inputs, i)
        drawing = draw_maps(maps, inputs.pixels[i], loaded.plan.network, [words, came], opinion, per_channel)
        image.save(drawing.page.image, path)
        pictures.append(_document(inputs.names[i], path, maps, drawing))
    always = [{"layer": name, "zero_on_all_images": sorted(channels)} for name, channels in silent.items()]
    return {
        "network": loaded.plan.network,
        "checkpoint": loaded.weights and str(loaded.weights),
        "origin": came,
        "pictures": pictures,
        "layers": always,
    }


def _opinion(loaded: LoadedNetwork, network: nn.Module, inputs: Inputs, i: int) -> tuple[Panel | None, str]:
    """The panel and the line of words on image number i; no panel where the network has no list of classes."""
    classes, label = class_names(loaded), inputs.labels[i]
    truth = f", true class {classes[label]}" if label is not None else ""
    fits = len(loaded.plan.output) == 1 and max(2, loaded.plan.output[0]) == len(classes)
    if not fits or not loaded.weights:
        return None, f"{inputs.names[i]}{truth}"
    return opinion_panel(Scores(network, loaded.plan), inputs.pixels[i], classes, label), f"{inputs.names[i]}{truth}"


def _document(name: str, path: Path, maps: Sequence[Maps], drawing: Drawing) -> dict[str, Any]:
    layers = [
        {
            "layer": m.layer,
            "type": m.type,
            "shape": list(m.values.shape),
            "scale": scale,
            "shown": list(m.order[:shown]),
            "zero": list(m.silent),
            "flat": list(m.flat),
            "saturated": list(m.saturated),
        }
        for m, scale, shown in zip(maps, drawing.scales, drawing.shown, strict=True)
    ]
    return {"image": name, "picture": str(path), "body": list(drawing.page.body), "layers": layers}


def report(document: dict[str, Any]) -> str:
    """The document for people: the pictures, where the weights come from, and channels that never say anything."""
    count = len(document["pictures"])
    which = "this image" if count == 1 else f"each of the {count} images"
    lines = [*(p["picture"] for p in document["pictures"]), document["origin"]]
    shapes = {a["layer"]: a["shape"] for a in document["pictures"][0]["layers"]}
    for layer in document["layers"]:
        if silent := layer["zero_on_all_images"]:
            of = shapes[layer["layer"]][0]
            lines.append(f"layer {layer['layer']}: {len(silent)} of {of} channels are zero everywhere in {which}")
    return "\n".join(lines)
