"""Filters during training: the first convolution is saved after every epoch, and drawn as a film strip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from cnn_cli.errors import CnnError, UsageError
from cnn_cli.files import write_bytes
from cnn_cli.language.plan import Plan
from cnn_cli.pictures import image
from cnn_cli.pictures.page import Axis, Bar, Page, Panel, compose_page

FRAMES, STRIP = "filters-by-epoch.safetensors", "filters-by-epoch.png"
_FILTERS = 32  # filters and channels saved per frame: as many as a strip can show
_CHANNELS = 3
_COLUMNS = 24  # frames in a strip
_ROWS = 20  # filters in a strip


@dataclass(frozen=True)
class Frame:
    """The first convolution after an epoch (0: before training): weights (O, I, H, W) float32 of its first filters."""

    epoch: float
    weights: image.Array


def first_convolution(network: nn.Module) -> str | None:
    return next((n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)), None)


def check_film(plan: Plan) -> None:
    """UsageError for a network without a convolution."""
    if not any(layer.type == "Conv2d" for layer in plan.layers):
        raise UsageError(
            f"{plan.network} has no convolution, so there are no filters to save; leave out --filters-every-epoch"
        )


def begin_film(run: Path, network: nn.Module) -> None:
    """Save the first frame, before training; from then on `add_frame` saves one per epoch."""
    _keep(run, 0, network, {})


def add_frame(run: Path, epoch: float, network: nn.Module) -> None:
    """Save the frame of an epoch, if `begin_film` was called for this run. Repeating an epoch replaces its frame."""
    if (run / FRAMES).is_file():
        tensors = safetensors.torch.load((run / FRAMES).read_bytes())
        _keep(run, epoch, network, {k: v for k, v in tensors.items() if float(k) < epoch})


def _keep(run: Path, epoch: float, network: nn.Module, before: dict[str, torch.Tensor]) -> None:
    name = first_convolution(network)
    weights = network.get_parameter(f"{name}.weight").detach().cpu().float()[:_FILTERS, :_CHANNELS]
    frames = before | {str(epoch): weights.contiguous()}
    write_bytes(run / FRAMES, safetensors.torch.save(frames, metadata={"layer": str(name)}))


def frames_of(run: Path) -> tuple[str, list[Frame]]:
    """The layer's name, and its saved frames. CnnError if a run has none or they cannot be read."""
    path = run / FRAMES
    if not path.is_file():
        raise CnnError(f"{run} has no saved filters; train it again with --filters-every-epoch")
    try:
        with safetensors.safe_open(path, "pt") as file:
            layer = (file.metadata() or {}).get("layer", "")
            frames = [Frame(_number(key), file.get_tensor(key).numpy()) for key in sorted(file.keys(), key=float)]
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CnnError(f"{path} cannot be read ({error}); delete it and train again") from None
    return layer, frames


def _number(key: str) -> float:
    """The epoch of a key, which may be fractional."""
    return float(key) if "." in key else int(key)


def write_film(run: Path, network: str, color: bool, path: Path) -> tuple[Page, str, list[float]]:
    """Write a run's strip → the page, the layer's name and the saved epochs. CnnError as in `frames_of`."""
    layer, frames = frames_of(run)
    drawn = draw_film(layer, frames, network, color)
    image.save(drawn.image, path)
    return drawn, layer, [frame.epoch for frame in frames]


def draw_film(layer: str, frames: Sequence[Frame], network: str, color: bool) -> Page:
    """A strip: a row per filter, a column per epoch; the filters that changed most, on one scale.

    `color`: the channels are the image's red, green and blue; else the first channel is shown.
    """
    shown = [frames[i] for i in image.evenly_spaced(len(frames), _COLUMNS)]
    values = np.stack([f.weights for f in shown], 1)  # (O, T, I, H, W)
    change = np.linalg.norm((values[:, -1] - values[:, 0]).reshape(len(values), -1), axis=1)
    order = np.argsort(-change, kind="stable")[:_ROWS]
    scale = float(np.abs(values[order]).max())
    tiles = image.color(values[order], scale) if color else image.signed(values[order, :, 0], scale)
    count, times, height, width, _ = tiles.shape
    folds = image.columns_for(count, (height, (times + 1) * width), most=4)
    grid = image.fit(math.ceil(count / folds), times, (height, width), folds)
    epochs = tuple(str(f.epoch) for f in shown)
    columns, panels = Axis("epoch", epochs[0], epochs[-1], epochs), []
    for first in range(0, count, grid.rows):
        numbers = tuple(map(str, order[first : first + grid.rows].tolist()))
        body = image.tiled(tiles[first : first + grid.rows], grid)
        panels.append(Panel(body, Axis("filter", numbers[0], numbers[-1], numbers), columns))
    bar = Bar(image.ramp(color), image.number(-scale), "0", image.number(scale), "weight, one scale for all")
    most = (
        f"the {count} filters that changed most"
        if count < len(values)
        else "all filters, those that changed most first"
    )
    channel = "" if color or values.shape[2] == 1 else " (their first channel)"
    return compose_page(
        panels,
        network,
        [f"layer {layer}: {most}{channel}", "a row for each filter, a column for each epoch; 0 is before training"],
        bar,
    )
