"""Score maps as pictures: the image with the highest-scoring windows, and a heat map for each of their classes."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnn_cli.analysis.sliding_window import Box, Window
from cnn_cli.interpret.pictured import provenance
from cnn_cli.interpret.score_maps import Convolved, ScoreMap
from cnn_cli.interpret.scores import class_names
from cnn_cli.layers import sizes
from cnn_cli.pictures import image
from cnn_cli.pictures.fonts import font
from cnn_cli.pictures.grid import ACCENT, Cell, captioned_grid, picture
from cnn_cli.pictures.page import Bar, Page, compose_page
from cnn_cli.tables import percent

_SIDE = (380, 760)  # px, longer side of an image on the page
_CLASSES = 3  # with a heat map
_OPACITY = 0.75


def draw_score_map(result: Convolved, score_map: ScoreMap) -> Page:
    """The page of one image."""
    shown, classes = picture(score_map.pixels), class_names(result.loaded)
    wins = [f"{n}: {winner.label} {percent(winner.probability)}" for n, winner in enumerate(score_map.winners, 1)]
    boxes = [(str(n), winner.box) for n, winner in enumerate(score_map.winners, 1)]
    cells = [Cell(_framed(shown, boxes), ("windows with the highest scores", *wins))]
    for label in list(dict.fromkeys(winner.label for winner in score_map.winners))[:_CLASSES]:
        shares = score_map.probabilities[classes.index(label)]
        own = [(str(n), w.box) for n, w in enumerate(score_map.winners, 1) if w.label == label]
        heat = _spread(shares, result.window, shown.shape[:2]).nan_to_num(0).numpy()
        over = image.overlay_heat(shown, heat, _OPACITY)
        cells.append(Cell(_framed(over, own[:1]), (label, f"at most {percent(float(shares.max()))}")))
    rows, columns = score_map.scores.shape[1:]
    window = result.window
    lines = [
        f"{rows}x{columns} cells; step {sizes(window.step)} px, window {sizes(window.size)} px; {_accuracy(score_map)}",
        provenance(result.loaded),
    ]
    panel, _ = captioned_grid([cells])
    steps = image.heat(np.linspace(0, 1, 255))
    title = f"{result.loaded.plan.network}: class scores over {Path(score_map.image).name}"
    return compose_page(
        [panel], title, lines, Bar(steps, "0", "0.5", "1", "probability of the class in a cell's window")
    )


def _accuracy(score_map: ScoreMap) -> str:
    close = score_map.agreement
    if close is None:
        return "every window computed separately"
    return f"scores differ from explicit windows by at most {close.difference:.2g}"


def _spread(shares: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """(h, w) → (H, W): each pixel has the value of the cell with the nearest window; NaN outside all windows."""
    axes = []
    for n in (0, 1):
        middle = window.start[n] + window.size[n] / 2
        at = ((torch.arange(size[n]) + 0.5 - middle) / window.step[n] + 0.5).floor().long()
        axes.append(torch.where((at >= 0) & (at < shares.shape[n]), at, -1))
    rows, columns = axes
    values = shares[rows.clamp_min(0)][:, columns.clamp_min(0)]
    return torch.where((rows >= 0)[:, None] & (columns >= 0), values, torch.nan)


def _framed(shown: image.Array, boxes: list[tuple[str, Box]]) -> image.Array:
    """The image, enlarged if it is small, with numbered boxes."""
    from PIL import Image, ImageDraw

    height, width = shown.shape[:2]
    longer = max(height, width)
    scale: float = max(1, math.ceil(_SIDE[0] / longer)) if longer < _SIDE[1] else _SIDE[1] / longer
    size = (round(width * scale), round(height * scale))
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    canvas = Image.fromarray(shown).resize(size, way)
    draw, letters = ImageDraw.Draw(canvas), font(20, True)
    for number, box in boxes:
        x0, y0, x1, y1 = (round(edge * scale) for edge in box)
        draw.rectangle((x0, y0, min(x1, size[0]) - 1, min(y1, size[1]) - 1), outline=ACCENT, width=3)
        ends = draw.textbbox((x0 + 7, y0 + 3), number, letters)
        draw.rectangle((x0, y0, ends[2] + 6, ends[3] + 4), fill=ACCENT)
        draw.text((x0 + 7, y0 + 3), number, image.PAPER, letters)
    return np.asarray(canvas)
