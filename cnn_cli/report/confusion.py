"""The confusion matrix, whose cells link to their images; with many classes, the most frequent confusions instead."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnn_cli.interpret.mistakes import Mistakes
from cnn_cli.pictures.grid import picture
from cnn_cli.pictures.html import Html, Section, element, embedded, folded, join, thumbnail
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.tables import counted, percent
from cnn_cli.tasks.classification_result import MAX_MATRIX
from cnn_cli.tasks.segmentation_result import SegmentationResult
from cnn_cli.tasks.uncertainty import Array
from cnn_cli.training.outcomes import ClassOutcomes

SIDE = 96  # largest side of an embedded image in px
_PER_CELL = 12
_PAIRS = 40  # confusions listed if there are too many classes
_WORST = 24  # mistakes shown


class Album:
    """Embeds images, at most `most` of them, and counts them."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0

    def image(self, outcomes: ClassOutcomes, index: int) -> Html:
        """An image with its number, true and predicted class."""
        names, right = outcomes.images.classes, bool(outcomes.right[index])
        true, predicted = names[outcomes.true[index]], names[outcomes.predicted[index]]
        self.count += 1
        shown = embedded(thumbnail(picture(outcomes.images.pixels(index)), SIDE), f"{true}, predicted as {predicted}")
        words = element("span", predicted, class_="right" if right else "wrong")
        confidence = f" {percent(float(outcomes.confidence[index]))}"
        name = Path(outcomes.images.names[index]).name
        below = [] if right else [element("br"), f"true: {true}"]
        return element("li", shown, words, confidence, below, element("br"), element("small", name))

    def images(self, outcomes: ClassOutcomes, indices: Sequence[int], most: int) -> Html:
        chosen = list(indices)[: max(0, min(most, self.most - self.count))]
        return element("ul", (self.image(outcomes, i) for i in chosen), class_="thumbs")


def confusion_section(facts: RunFacts, album: Album) -> Section | None:
    """The matrix in images or, for masks, in pixels; None if the result has none."""
    if facts.result is None or "confusion_matrix" not in facts.result.document():
        return None
    document = facts.result.document()
    classes, counts = document["classes"], np.array(document["confusion_matrix"], dtype=np.int64)
    outcomes = facts.outcomes if isinstance(facts.outcomes, ClassOutcomes) else None
    if len(classes) > MAX_MATRIX:
        return Section(facts.id("confusion"), "Confusions", _pairs(outcomes, classes, counts, album))
    is_pixels = isinstance(facts.result, SegmentationResult)
    grid = _matrix(facts, classes, counts, linked=outcomes is not None, shares=is_pixels)
    unit = "pixels" if is_pixels else "images"
    words = (
        f"Rows: true classes; columns: predicted ones. Blue: correct {unit}; orange: confusions, as shares of the row."
    )
    if outcomes is None:
        return Section(facts.id("confusion"), "Confusion matrix", [element("p", words, class_="soft"), grid])
    hint = element(
        "p",
        "Select a cell to see its images: mistakes with the highest loss, correct images with the lowest confidence.",
        class_="hint",
    )
    panels = [_panel(facts, outcomes, i, j, album) for i, j in zip(*np.nonzero(counts), strict=True)]
    body = element("div", grid, element("div", hint, panels, class_="cells"), class_="matrix")
    return Section(facts.id("confusion"), "Confusion matrix", [element("p", words, class_="soft"), body])


def _matrix(facts: RunFacts, classes: Sequence[str], counts: Array, linked: bool, shares: bool) -> Html:
    total = np.maximum(counts.sum(1, keepdims=True), 1)
    share = counts / total
    off = share - np.diag(share.diagonal())
    most = max(float(off.max()), 1e-12)
    head = element("tr", element("td"), (element("th", element("span", name), scope="col") for name in classes))
    rows = []
    for i, name in enumerate(classes):
        cells = []
        for j, other in enumerate(classes):
            strength = share[i, j] if i == j else (off[i, j] / most) ** 0.5
            text: str | Html = (percent(float(share[i, j])) if shares else f"{counts[i, j]:,}") if counts[i, j] else "·"
            if linked and counts[i, j]:
                label = f"{name} predicted as {other}: {counted(int(counts[i, j]), 'image')}"
                text = element("a", text, href=f"#{facts.id(f'cell-{i}-{j}')}", aria_label=label, title=label)
            kind = "hit" if i == j else "miss"
            cells.append(element("td", text, class_=kind, style=f"--share:{strength:.3f}" if counts[i, j] else None))
        rows.append(element("tr", element("th", name, scope="row"), cells))
    caption = element("caption", "Confusion matrix: rows true, columns predicted", class_="hidden")
    whole = element("table", caption, element("thead", head), element("tbody", rows), class_="confusion")
    return element("div", whole, class_="scroll", tabindex=0, role="group", aria_label="Confusion matrix")


def _panel(facts: RunFacts, outcomes: ClassOutcomes, i: int, j: int, album: Album) -> Html:
    """The images of a cell, which are hidden until its link is followed."""
    indices, words = _cell_images(outcomes, i, j)
    shown = album.images(outcomes, indices, _PER_CELL)
    back = element("a", "Close", href=f"#{facts.id('confusion')}")
    note = f"{min(len(indices), _PER_CELL):,} of {len(indices):,} are shown. " if len(indices) > _PER_CELL else ""
    return element(
        "div",
        element("h3", words),
        shown,
        element("p", note, back, class_="soft"),
        class_="cell",
        id=facts.id(f"cell-{i}-{j}"),
    )


def _cell_images(outcomes: ClassOutcomes, i: int, j: int) -> tuple[list[int], str]:
    """The images of a cell, worst mistake or least confident hit first, and their heading."""
    names = outcomes.images.classes
    own = np.flatnonzero((outcomes.true == i) & (outcomes.predicted == j))
    order = outcomes.confidence[own] if i == j else -outcomes.losses[own]
    share = percent(len(own) / max(1, int((outcomes.true == i).sum())))
    words = f"{names[i]}, correct" if i == j else f"{names[i]} predicted as {names[j]}"
    return [
        int(n) for n in own[np.argsort(order, kind="stable")]
    ], f"{words}: {counted(len(own), 'image')}, {share} of the class"


def _pairs(outcomes: ClassOutcomes | None, classes: Sequence[str], counts: Array, album: Album) -> Html:
    """The most frequent confusions, each with a link to its images."""
    cells = [(int(counts[i, j]), int(i), int(j)) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
    cells = sorted(cells, key=lambda cell: (-cell[0], cell[1:]))
    words = (
        f"A matrix of {len(classes):,} classes is too large to read: the most frequent of {len(cells):,} confusions."
    )
    parts: list[Html] = [element("p", words, class_="note")]
    for n, i, j in cells[:_PAIRS]:
        if outcomes is None:
            parts.append(element("p", f"{classes[i]} predicted as {classes[j]}: {n:,}"))
        else:
            indices, title = _cell_images(outcomes, i, j)
            parts.append(folded(title, album.images(outcomes, indices, _PER_CELL)))
    return join(parts)


def mistakes_section(facts: RunFacts, album: Album) -> Section | None:
    """The mistakes with the largest loss, and the least confident predictions."""
    if not isinstance(facts.outcomes, ClassOutcomes):
        return None
    mistakes = Mistakes(facts.loaded, facts.outcomes, _WORST)
    worst = mistakes.worst[:_WORST]
    parts: list[Html] = [element("p", f"{mistakes.headline()}.", class_="soft")]
    if worst:
        parts += [element("h3", "Largest loss first"), album.images(facts.outcomes, worst, _WORST)]
    parts += [element("h3", "Least confident predictions"), album.images(facts.outcomes, mistakes.least_confident, 12)]
    return Section(facts.id("mistakes"), "Worst mistakes", parts)
