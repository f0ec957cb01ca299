"""What only one of two runs gets right, as pictures."""

from pathlib import Path

from cnn_cli.pictures import image
from cnn_cli.pictures.grid import Cell, contact_sheet, picture
from cnn_cli.pictures.page import Page, Panel, compose_page
from cnn_cli.tables import percent
from cnn_cli.training.outcomes import ClassOutcomes, MaskOutcomes, Outcomes
from cnn_cli.training.run_comparison import Candidate, RunComparison, sides


def draw_sides(comparison: RunComparison, other: Candidate, limit: int) -> Page | None:
    """A sheet of images that only the first run gets right, and of those that only `other` does; None without any."""
    first = comparison.candidates[0]
    stack = []
    for winner, loser, indices in zip(
        (first, other), (other, first), sides(first.outcomes[0], other.outcomes[0]), strict=True
    ):
        if indices:
            cells = [_cell(winner, loser, i) for i in indices[:limit]]
            better = "only {} is right" if comparison.metric == "accuracy" else "{} has the higher mean IoU"
            heading = f"{better.format(winner.letter)}: {len(indices):,} images"
            panel, _ = contact_sheet(cells)
            stack.append(Panel(panel.body, panel.rows, panel.columns, heading, panel.captions))
    if not stack:
        return None
    lines = [f"{one.letter}: {one.name}, {comparison.metric} {percent(one.scores[0], 2)}" for one in (first, other)]
    return compose_page([stack], f"{first.letter} and {other.letter} on the same images", lines, None)


def _cell(winner: Candidate, loser: Candidate, index: int) -> Cell:
    right, wrong = winner.outcomes[0], loser.outcomes[0]
    words = (_said(winner.letter, right, index), _said(loser.letter, wrong, index))
    name = Path(right.images.names[index]).name
    return Cell(picture(right.images.pixels(index)), (*words, name), image.INK)


def _said(letter: str, one: Outcomes, index: int) -> str:
    if isinstance(one, MaskOutcomes):
        return f"{letter}: mean IoU {percent(float(one.ious[index]))}"
    assert isinstance(one, ClassOutcomes)
    name = one.images.classes[one.predicted[index]]
    return f"{letter}: {name} {percent(float(one.confidence[index]))}"
