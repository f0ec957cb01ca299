"""Segmentation maps as pictures: a color per class, overlays on images, and a legend."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from cnn_cli.pictures import image
from cnn_cli.pictures.page import Caption, Panel

VOID_COLOR = (224, 224, 192)  # as in PASCAL VOC
DIFFERENCE = (227, 26, 28)
_SWATCH, _ROW, _WIDTH = 20, 30, 220  # px of the legend


@cache
def palette() -> image.Array:
    """(256, 3) uint8: PASCAL VOC's colormap, black for class 0. A class index's bits alternate over red, green and
    blue."""
    colors = np.zeros((256, 3), np.uint8)
    for i in range(256):
        for bit in range(8):
            colors[i, bit % 3] |= (i >> bit & 1) << (7 - bit // 3)
    colors[255] = VOID_COLOR
    return colors


def colored(labels: image.Array) -> image.Array:
    """(H, W) classes → (H, W, 3) uint8."""
    colors: image.Array = palette()[labels]
    return colors


def background(classes: Sequence[str]) -> list[int]:
    """The background classes, which overlays do not color."""
    return [i for i, name in enumerate(classes) if name.lower() == "background"]


def overlaid(pixels: image.Array, labels: image.Array, keep: Sequence[int] = ()) -> image.Array:
    """(H, W, 3) uint8: half image, half class color; pixels of the classes `keep` show the image alone."""
    blend = ((pixels.astype(np.uint16) + colored(labels)) // 2).astype(np.uint8)
    return np.where(np.isin(labels, list(keep))[..., None], pixels, blend)


def differing(pixels: image.Array, true: image.Array, predicted: image.Array, void: int) -> image.Array:
    """(H, W, 3) uint8: red where the prediction is wrong, elsewhere the image in pale gray; void in its color."""
    gray = (pixels.mean(2, keepdims=True) / 3 + 170).astype(np.uint8).repeat(3, 2)
    result = np.where((true != predicted)[..., None], np.array(DIFFERENCE, np.uint8), gray)
    return np.where((true == void)[..., None], np.array(VOID_COLOR, np.uint8), result).astype(np.uint8)


def legend(classes: Sequence[str], void: bool) -> Panel:
    """A panel with each class's color."""
    names = [*classes[:40], *(["void"] if void else [])]
    colors = [*palette()[: len(names) - void].tolist(), *([list(VOID_COLOR)] if void else [])]
    return legend_of(dict(zip(names, colors, strict=True)))


def legend_of(colors: Mapping[str, Sequence[int]]) -> Panel:
    """A panel with named colors."""
    body = np.full((_ROW * len(colors), _WIDTH, 3), image.rgb(image.PAPER), np.uint8)
    captions = []
    for i, (name, color) in enumerate(colors.items()):
        body[i * _ROW : i * _ROW + _SWATCH, :_SWATCH] = color
        captions.append(Caption(_SWATCH + 10, i * _ROW, name, 18, image.INK, "la"))
    return Panel(body, captions=tuple(captions))
