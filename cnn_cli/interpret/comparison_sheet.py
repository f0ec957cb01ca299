"""A sheet of the images that only one of two runs predicts correctly."""

from pathlib import Path

import numpy as np

from cnn_cli.interpret.box_mistakes import COLORS
from cnn_cli.pictures import image
from cnn_cli.pictures.box_drawing import DrawnBox, enlargement, with_boxes
from cnn_cli.pictures.grid import Cell, contact_sheet, picture
from cnn_cli.pictures.page import Page, Panel, compose_page
from cnn_cli.tables import counted, percent
from cnn_cli.training.outcomes import BoxOutcomes, ClassOutcomes, MaskOutcomes, Outcomes
from cnn_cli.training.run_comparison import Candidate, RunComparison, sides

BETTER = {
    "accuracy": "only {} is right",
    "mIoU": "{} has the higher mean IoU",
    "AP": "only {} detects an object, drawn with its class",
}


def draw_sides(comparison: RunComparison, other: Candidate, limit: int) -> Page | None:
    """The sheet of images that only the first run or only the `other` run gets right; None if there are none."""
    first = comparison.candidates[0]
    stack = []
    for winner, loser, indices in zip(
        (first, other), (other, first), sides(first.outcomes[0], other.outcomes[0]), strict=True
    ):
        if indices:
            cells = [draw_cell(winner, loser, i) for i in indices[:limit]]
            heading = f"{BETTER[comparison.metric].format(winner.letter)}: {counted(len(indices), 'image')}"
            panel, _ = contact_sheet(cells)
            stack.append(Panel(panel.body, panel.rows, panel.columns, heading, panel.captions))
    if not stack:
        return None
    lines = [f"{one.letter}: {one.name}, {comparison.metric} {percent(one.scores[0], 2)}" for one in (first, other)]
    return compose_page([stack], f"{first.letter} and {other.letter} on the same images", lines, None)


def draw_cell(winner: Candidate, loser: Candidate, index: int) -> Cell:
    """An image with both runs' predictions, and its name."""
    right, wrong = winner.outcomes[0], loser.outcomes[0]
    captions = (_outcome(winner.letter, right, index), _outcome(loser.letter, wrong, index))
    name = Path(right.images.names[index]).name
    shown = picture(right.images.pixels(index))
    if isinstance(right, BoxOutcomes) and isinstance(wrong, BoxOutcomes):
        shown = _with_objects(shown, right, wrong, index)
    return Cell(shown, (*captions, name), image.INK)


def _with_objects(shown: image.Array, right: BoxOutcomes, wrong: BoxOutcomes, index: int) -> image.Array:
    """The true boxes of an image, with a label if only the first run detects the object."""
    objects, boxes = right.objects, []
    for i in np.flatnonzero((objects.images == index) & (objects.flags == 0)).tolist():
        only = right.detected[i] and not wrong.detected[i]
        name = right.images.classes[objects.labels[i]] if only else ""
        boxes.append(DrawnBox(objects.boxes[i].tolist(), 0, name, COLORS["hits"] if only else image.PANEL))
    return with_boxes(shown, boxes, enlargement(*shown.shape[:2]))


def _outcome(letter: str, one: Outcomes, index: int) -> str:
    if isinstance(one, MaskOutcomes):
        return f"{letter}: mean IoU {percent(float(one.ious[index]))}"
    if isinstance(one, BoxOutcomes):
        own = (one.objects.images == index) & (one.objects.flags == 0)
        return f"{letter}: {one.detected[own].sum()} of {own.sum()} objects detected"
    assert isinstance(one, ClassOutcomes)
    name = one.images.classes[one.predicted[index]]
    return f"{letter}: {name} {percent(float(one.confidence[index]))}"
