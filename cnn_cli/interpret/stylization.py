"""A stylized image as a picture, and a page with the source images, the losses, and intermediate images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.decoding import decode_image
from cnn_cli.data.preprocessing import Preprocessing, preprocess
from cnn_cli.device import free_memory
from cnn_cli.errors import CnnError, UsageError
from cnn_cli.interpret.activations import choose_layer, feature_maps_until, untouched
from cnn_cli.interpret.inputs import check_channels
from cnn_cli.interpret.pictured import CPU, Target, network_facts, provenance, restored
from cnn_cli.interpret.style import (
    Snapshot,
    StyleLayers,
    StyleTransfer,
    average_pooled,
    style_layers,
    transfer_bytes,
    transfer_style,
)
from cnn_cli.pictures import image
from cnn_cli.pictures.grid import Cell, captioned_grid, picture
from cnn_cli.pictures.page import Page, compose_page
from cnn_cli.progress import progress_bar
from cnn_cli.tables import Column, Table, counted, format_bytes, render

_THUMBNAIL = 256  # px, longer side of the images on the page


@dataclass(frozen=True)
class StyleRequest:
    """The options of `cnn stylize`. `content` None: texture synthesis. `size`: longer side in px."""

    style: Path
    content: Path | None = None
    size: int = 256
    content_layer: str | None = None
    style_layers: Sequence[str] = ()
    weight: float = 1.0
    steps: int = 200
    start: str = "content"
    seed: int = 0


@dataclass(frozen=True)
class LayerLoss:
    """The relative loss of a layer, `content` or `style`, at the start and at the end."""

    layer: str
    loss: str
    start: float
    end: float


@dataclass(frozen=True)
class Stylization:
    """A stylized image with the losses of its layers; `picture` and `sheet` are the output files."""

    loaded: LoadedNetwork
    request: StyleRequest
    snapshots: tuple[Snapshot, ...]
    losses: tuple[LayerLoss, ...]
    memory: int
    picture: Path
    sheet: Path

    @property
    def pixels(self) -> Tensor:
        """(C, H, W) in [0, 1]."""
        return self.snapshots[-1].pixels

    def document(self) -> dict[str, Any]:
        request = self.request
        return network_facts(self.loaded) | {
            "picture": str(self.picture),
            "sheet": str(self.sheet),
            "content": request.content and str(request.content),
            "style": str(request.style),
            "size": list(self.pixels.shape[1:]),
            "style_weight": request.weight,
            "steps": request.steps,
            "seed": request.seed,
            "memory": self.memory,
            "layers": [vars(loss) for loss in self.losses],
        }

    def table(self) -> Table:
        """The relative losses."""
        three = "{:.3f}".format
        columns = (
            Column("layer", "layer"),
            Column("loss", "loss"),
            Column("start", "at the start", number=True, show=three),
            Column("end", "at the end", number=True, show=three),
        )
        return Table(columns, [vars(loss) for loss in self.losses])

    def text(self) -> str:
        return f"{render(self.table())}\n\n{self.picture}\n{self.sheet}"


def stylize(
    loaded: LoadedNetwork, request: StyleRequest, target: Target, device: torch.device = CPU
) -> tuple[Stylization, Page]:
    """Optimize the pixels and draw the page. Writes nothing.

    UsageError for unknown layers, settings without effect, and sizes that do not suit the network or the memory.
    """
    plan, channels = loaded.plan, check_channels(loaded)
    style = read_scaled(request.style, channels, request.size).to(device)
    content = read_scaled(request.content, channels, request.size).to(device) if request.content else None
    size = (content if content is not None else style).shape[2:]
    network = average_pooled(restored(loaded, request.seed)).to(device)
    layers = _layers(loaded, network, request, (size[0], size[1]))
    transfer = StyleTransfer(layers, request.weight, request.steps, request.start, request.seed)
    memory = transfer_bytes(plan, layers, (size[0], size[1]))
    if memory > (free := free_memory(device)):
        raise CnnError(
            f"{size[1]}x{size[0]} pixels need about {format_bytes(memory)} of memory, and {format_bytes(free)} are "
            "free; choose a smaller --size"
        )
    words = [p.stem for p in (request.content, request.style) if p]
    path = target.path(loaded, "stylized" if request.content else "texture", *words)
    sheet = path.with_name(f"{path.stem}-steps.png")
    image.check_target(sheet, target.overwrites(loaded))
    watch = partial(progress_bar, total=request.steps, description=f"optimizing (about {format_bytes(memory)})")
    with untouched(network):
        _try_sizes(network, layers, [style] if content is None else [content, style])
        snapshots = transfer_style(network, transfer, content, style, (size[0], size[1]), watch)
    losses = _losses(transfer, snapshots)
    result = Stylization(loaded, request, tuple(snapshots), losses, memory, path, sheet)
    return result, draw_stylization(result, content, style)


def _layers(loaded: LoadedNetwork, network: nn.Module, request: StyleRequest, size: tuple[int, int]) -> StyleLayers:
    layers = style_layers(loaded.plan, size)
    if request.content_layer:
        layers = replace(layers, content=choose_layer(loaded, network, request.content_layer))
    if request.style_layers:
        layers = replace(layers, style=tuple(choose_layer(loaded, network, name) for name in request.style_layers))
    return layers


@torch.no_grad()
def _try_sizes(network: nn.Module, layers: StyleLayers, images: Sequence[Tensor]) -> None:
    """UsageError if an image is too small for the layers."""
    for pixels in images:
        try:
            feature_maps_until(network, (layers.content, *layers.style), pixels)
        except (RuntimeError, ValueError):
            size = f"{pixels.shape[3]}x{pixels.shape[2]}"
            raise UsageError(f"the network cannot take an image of {size} pixels; choose a larger --size") from None


def write_stylization(result: Stylization, sheet: Page) -> None:
    """Write the picture, pixel for pixel, and the page. CnnError if they cannot be written."""
    from PIL import Image

    image.save(Image.fromarray(picture(result.pixels)), result.picture)
    image.save(sheet.image, result.sheet)


def read_scaled(path: Path, channels: int, longer: int) -> Tensor:
    """An image file as (1, C, h, w) in [0, 1], its longer side resized to `longer` px. CnnError names a bad file."""
    pixels = decode_image(path, channels).unsqueeze(0)
    height, width = pixels.shape[2:]
    scale = longer / max(height, width)
    shape = (channels, max(1, round(height * scale)), max(1, round(width * scale)))
    return preprocess(pixels, Preprocessing(shape)).float().div_(255).contiguous()


def draw_stylization(result: Stylization, content: Tensor | None, style: Tensor) -> Page:
    """The source images, then the image after several numbers of steps."""
    request = result.request
    cells = (
        [Cell(_thumbnail(content), ("content", request.content.name))]
        if content is not None and request.content
        else []
    )
    cells.append(Cell(_thumbnail(style), ("style", request.style.name)))
    for shot in result.snapshots:
        shares = [f"style {sum(shot.losses.style) / len(shot.losses.style):.3f}"]
        shares += [f"content {shot.losses.content:.3f}"] if shot.losses.content is not None else []
        cells.append(Cell(_thumbnail(shot.pixels.unsqueeze(0)), (f"step {shot.step}", ", ".join(shares))))
    kind = "style transfer" if content is not None else "texture synthesis"
    style_names = ", ".join(loss.layer for loss in result.losses if loss.loss == "style")
    content_names = "".join(f"content layer {loss.layer}; " for loss in result.losses if loss.loss == "content")
    settings = f"style weight {request.weight:g}; " if content is not None else ""
    lines = [
        f"{content_names}style layers {style_names}; {settings}{counted(request.steps, 'step')} of L-BFGS",
        f"losses: style 1 at the start{'; content 1 for a blank feature map' * (content is not None)}",
        provenance(result.loaded, request.seed),
    ]
    return compose_page([captioned_grid([cells])[0]], f"{result.loaded.plan.network}: {kind}", lines, None)


def _thumbnail(pixels: Tensor) -> image.Array:
    """(1, C, h, w) → (256, 256, 3) uint8: reduced to fit, centered on white."""
    height, width = pixels.shape[2:]
    scale = _THUMBNAIL / max(height, width)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(pixels, shape, mode="bilinear", antialias=True)[0]
    top, left = (_THUMBNAIL - shape[0]) // 2, (_THUMBNAIL - shape[1]) // 2
    sides = (left, _THUMBNAIL - shape[1] - left, top, _THUMBNAIL - shape[0] - top)
    return picture(F.pad(small.clamp(0, 1), sides, value=1.0))


def _losses(transfer: StyleTransfer, snapshots: Sequence[Snapshot]) -> tuple[LayerLoss, ...]:
    first, last = snapshots[0].losses, snapshots[-1].losses
    rows = []
    if first.content is not None and last.content is not None:
        rows.append(LayerLoss(transfer.layers.content, "content", first.content, last.content))
    style = zip(transfer.layers.style, first.style, last.style, strict=True)
    return (*rows, *(LayerLoss(name, "style", start, end) for name, start, end in style))
