"""A sheet of training samples, classes side by side, with masks as colors and boxes with their classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnn_cli.pictures import image
from cnn_cli.pictures.box_drawing import DrawnBox, with_boxes
from cnn_cli.pictures.class_map import background, legend, overlaid
from cnn_cli.pictures.grid import Cell, captioned_grid, room
from cnn_cli.pictures.page import Page, Panel, compose_page

_SIDE = 220  # px of an image with boxes, which are drawn after enlarging, so that their lines are thin


@dataclass(frozen=True)
class Sample:
    """An image (H, W, 3) uint8 and its name, with its mask (H, W) or its boxes, which are None for other tasks."""

    pixels: image.Array
    name: str
    labels: image.Array | None = None
    boxes: Sequence[DrawnBox] | None = None


def compose_sheet(
    columns: Sequence[tuple[str, Sequence[Sample]]],
    classes: Sequence[str],
    void: bool,
    title: str,
    lines: Sequence[str],
) -> tuple[Page, int]:
    """A column of samples per class (with a name) or image → a page, and how many columns it shows.

    void: whether masks have void pixels.
    """
    keep = background(classes)
    drawn = [[Cell(_drawn(s, keep), _caption(s, name)) for s in samples] for name, samples in columns]
    height, width = drawn[0][0].body.shape[:2]
    deep = max(map(len, drawn))
    rows, across = room((height, width))
    blocks = [drawn[i : i + across] for i in range(0, len(drawn), across)][: max(1, rows // deep)]
    panels = [_panel(block, np.full((height, width, 3), image.rgb(image.PAPER), np.uint8)) for block in blocks]
    masks = columns[0][1][0].labels is not None
    return compose_page([panels, *([legend(classes, void)] if masks else [])], title, lines, None), sum(
        map(len, blocks)
    )


def _caption(sample: Sample, name: str) -> tuple[str, ...]:
    """The caption: class and image. Boxes have labels of their own."""
    return (name, sample.name) if name and sample.boxes is None else (sample.name,)


def _drawn(sample: Sample, keep: Sequence[int]) -> image.Array:
    pixels = sample.pixels
    if sample.labels is not None:
        return overlaid(pixels, sample.labels, keep)
    if sample.boxes is not None:
        return with_boxes(pixels, sample.boxes, max(1, _SIDE // max(pixels.shape[:2])))
    return pixels


def _panel(block: Sequence[Sequence[Cell]], blank: image.Array) -> Panel:
    """Classes side by side, the samples of each in a column."""
    deep = max(map(len, block))
    rows = [[cells[i] if i < len(cells) else Cell(blank) for cells in block] for i in range(deep)]
    return captioned_grid(rows)[0]
