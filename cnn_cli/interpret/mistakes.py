"""The images behind the accuracy: misclassified ones, confused classes, and the least confident predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.interpret.mistake_lists import (
    IMAGE,
    INDEX,
    LOSS,
    PREDICTED,
    SHARE,
    TRUE,
    split_facts,
    split_name,
    text_of,
)
from cnn_cli.interpret.pictured import provenance
from cnn_cli.pictures import image
from cnn_cli.pictures.grid import ACCENT, Cell, contact_sheet, picture
from cnn_cli.pictures.page import Page, Panel, compose_page
from cnn_cli.tables import Column, Table, TableRow, counted, percent
from cnn_cli.training.outcomes import ClassOutcomes

_INDICES = 6  # images listed per pair of confused classes


@dataclass(frozen=True)
class Mistakes:
    """The outcomes of a split, and how many images each list shows."""

    loaded: LoadedNetwork
    outcomes: ClassOutcomes
    limit: int

    @property
    def worst(self) -> list[int]:
        """All mistakes by loss, largest first."""
        wrong = np.flatnonzero(~self.outcomes.right)
        return [int(i) for i in wrong[np.argsort(-self.outcomes.losses[wrong], kind="stable")]]

    @property
    def least_confident(self) -> list[int]:
        """The images whose predicted class has the lowest probability, correct or not."""
        return [int(i) for i in np.argsort(self.outcomes.confidence, kind="stable")[: self.limit]]

    @property
    def most_confident(self) -> list[int]:
        """The images whose predicted class has the highest probability, correct or not."""
        return [int(i) for i in np.argsort(-self.outcomes.confidence, kind="stable")[: self.limit]]

    def row(self, index: int) -> TableRow:
        """The JSON row of an image."""
        o, classes = self.outcomes, self.outcomes.images.classes
        return {
            "index": index,
            "image": o.images.names[index],
            "true": classes[o.true[index]],
            "predicted": classes[o.predicted[index]],
            "confidence": float(o.confidence[index]),
            "loss": float(o.losses[index]),
        }

    def pairs(self) -> list[TableRow]:
        """Pairs of classes by the number of images of one that are predicted as the other."""
        o, classes = self.outcomes, self.outcomes.images.classes
        cells, counts = np.unique(np.stack([o.true, o.predicted], 1)[~o.right], axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [
            {
                "true": classes[cells[i][0]],
                "predicted": classes[cells[i][1]],
                "n": int(counts[i]),
                "share": float(counts[i] / (o.true == cells[i][0]).sum()),
                "indices": np.flatnonzero((o.true == cells[i][0]) & (o.predicted == cells[i][1])).tolist(),
            }
            for i in order
        ]

    def classes(self) -> list[TableRow]:
        """For each class its mistakes, the class most often predicted instead, and the worst mistake."""
        o, names = self.outcomes, self.outcomes.images.classes
        rows, taken = [], {pair["true"]: pair["predicted"] for pair in reversed(self.pairs())}
        first = {int(o.true[i]): i for i in reversed(self.worst)}
        for k, name in enumerate(names):
            own = o.true == k
            rows.append(
                {
                    "class": name,
                    "n": int(own.sum()),
                    "errors": int((own & ~o.right).sum()),
                    "share": float((own & ~o.right).sum() / max(1, own.sum())),
                    "confused_with": taken.get(name),
                    "worst": None if k not in first else o.images.names[first[k]],
                }
            )
        return rows

    def document(self) -> dict[str, Any]:
        o = self.outcomes
        return split_facts(self.loaded, o.images, "classification") | {
            "errors": int((~o.right).sum()),
            "mistakes": [self.row(i) for i in self.worst],
            "confused_pairs": self.pairs(),
            "least_confident": [self.row(i) for i in self.least_confident],
            "most_confident": [self.row(i) for i in self.most_confident],
            "per_class": self.classes(),
        }

    def headline(self) -> str:
        images, wrong = self.outcomes.images, int((~self.outcomes.right).sum())
        share = percent(wrong / max(1, len(images)))
        are = "is" if wrong == 1 else "are"
        return f"{wrong:,} of {counted(len(images), 'image')} of {split_name(images)} {are} misclassified ({share})"

    def table(self) -> Table:
        """All mistakes, largest loss first."""
        return self._table(self.worst)

    def _table(self, indices: list[int]) -> Table:
        confidence = Column("confidence", "confidence", number=True, show=percent)
        return Table((INDEX, IMAGE, TRUE, PREDICTED, confidence, LOSS), [self.row(i) for i in indices])

    def text(self) -> str:
        lists = {
            "worst mistakes, by loss": self._table(self.worst[: self.limit]),
            "most frequent confusions": self._pair_table(),
            "least confident": self._table(self.least_confident),
            "per class": self._class_table(),
        }
        return text_of(self.headline(), lists, self.outcomes.images.data)

    def _pair_table(self) -> Table:
        columns = (
            TRUE,
            PREDICTED,
            Column("n", "images", number=True),
            SHARE,
            Column("indices", "indices", wraps=True, show=_first_indices),
        )
        return Table(columns, self.pairs()[: self.limit])

    def _class_table(self) -> Table:
        columns = (
            Column("class", "class", wraps=True),
            Column("n", "images", number=True),
            Column("errors", "wrong", number=True),
            Column("share", "share", number=True, show=percent),
            Column("confused_with", "most often predicted as", wraps=True),
            Column("worst", "worst mistake", wraps=True),
        )
        return Table(columns, self.classes())


def _first_indices(indices: Sequence[int]) -> str:
    return ", ".join([*map(str, indices[:_INDICES]), *["…"] * (len(indices) > _INDICES)])


def draw_mistakes(mistakes: Mistakes) -> Page:
    """A sheet of the worst mistakes and the least confident predictions, each with its predicted and true class."""
    stack: list[Panel] = []
    for heading, indices in (
        ("worst mistakes, largest loss first", mistakes.worst[: mistakes.limit]),
        ("least confident predictions", mistakes.least_confident),
    ):
        if indices:
            panel, _ = contact_sheet([_cell(mistakes, i) for i in indices])
            stack.append(Panel(panel.body, panel.rows, panel.columns, heading, panel.captions))
    lines = [mistakes.headline(), provenance(mistakes.loaded)]
    return compose_page([stack], f"{mistakes.loaded.plan.network}: mistakes", lines, None)


def _cell(mistakes: Mistakes, index: int) -> Cell:
    row = mistakes.row(index)
    ink = image.INK if row["true"] == row["predicted"] else ACCENT
    words = (f"{row['predicted']} {percent(row['confidence'])}", f"true class: {row['true']}", Path(row["image"]).name)
    return Cell(picture(mistakes.outcomes.images.pixels(index)), words, ink)
