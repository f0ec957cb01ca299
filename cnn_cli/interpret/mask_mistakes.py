"""The images behind the mIoU: those with the worst masks, and the classes confused in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.masks import VOID
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
from cnn_cli.interpret.scores import scores_of
from cnn_cli.pictures import class_map
from cnn_cli.pictures.grid import Cell, captioned_grid, picture
from cnn_cli.pictures.page import Page, compose_page
from cnn_cli.tables import Column, Table, TableRow, counted, percent
from cnn_cli.training.outcomes import MaskOutcomes

_MOST_ROWS = 8


@dataclass(frozen=True)
class MaskMistakes:
    """The outcomes of a split, and how many images each list shows."""

    loaded: LoadedNetwork
    outcomes: MaskOutcomes
    limit: int

    @property
    def worst(self) -> list[int]:
        """The images by mean IoU, lowest first; those without a valid pixel are left out."""
        counted = np.flatnonzero(self.outcomes.valid)
        return [int(i) for i in counted[np.argsort(self.outcomes.ious[counted], kind="stable")]]

    def row(self, index: int) -> TableRow:
        """The JSON row of an image; without a confusion if no pixel is wrong."""
        o, classes = self.outcomes, self.outcomes.images.classes
        true, predicted = (classes[k] for k in o.pairs[index])
        confused = bool(o.wrong[index])
        return {
            "index": index,
            "image": o.images.names[index],
            "miou": float(o.ious[index]),
            "loss": float(o.losses[index]),
            "true": true if confused else None,
            "predicted": predicted if confused else None,
            "share": float(o.wrong[index] / o.valid[index]),
        }

    def pairs(self) -> list[TableRow]:
        """Pairs of confused classes by pixels; `worst` is the image whose main confusion is the pair with most
        pixels."""
        o, classes = self.outcomes, self.outcomes.images.classes
        cells = [(int(n), i, j) for i, row in enumerate(o.matrix) for j, n in enumerate(row) if n and i != j]
        rows = []
        for n, i, j in sorted(cells, key=lambda cell: (-cell[0], cell[1:])):
            own = np.where((o.pairs == (i, j)).all(1), o.wrong, 0)
            worst = o.images.names[int(own.argmax())] if own.any() else None
            facts = {"true": classes[i], "predicted": classes[j], "pixels": n}
            rows.append(facts | {"share": n / int(o.matrix[i].sum()), "worst": worst})
        return rows

    def document(self) -> dict[str, Any]:
        o = self.outcomes
        return split_facts(self.loaded, o.images, "segmentation") | {
            "images": [self.row(i) for i in self.worst],
            "confused_pairs": self.pairs(),
        }

    def table(self) -> Table:
        """All images, lowest mean IoU first."""
        return self._table(self.worst)

    def _table(self, indices: list[int]) -> Table:
        columns = (
            INDEX,
            IMAGE,
            Column("miou", "mean IoU", number=True, show=percent),
            LOSS,
            Column("true", "confused most: true", wraps=True),
            PREDICTED,
            Column("share", "of its pixels", number=True, show=percent),
        )
        return Table(columns, [self.row(i) for i in indices])

    def headline(self) -> str:
        return f"{counted(len(self.outcomes.images), 'image')} of {split_name(self.outcomes.images)}"

    def text(self) -> str:
        pixels, worst = Column("pixels", "pixels", number=True), Column("worst", "most of them in", wraps=True)
        lists = {
            "worst images, by mean IoU": self._table(self.worst[: self.limit]),
            "most frequent confusions": Table((TRUE, PREDICTED, pixels, SHARE, worst), self.pairs()[: self.limit]),
        }
        return text_of(self.headline(), lists, self.outcomes.images.data)


@torch.no_grad()
def draw_mask_mistakes(mistakes: MaskMistakes) -> Page:
    """A row per worst image: image, true mask, predicted mask, differences."""
    o, scores = mistakes.outcomes, scores_of(mistakes.loaded)
    rows = []
    for index in mistakes.worst[: min(mistakes.limit, _MOST_ROWS)]:
        pixels, row = o.images.pixels(index), mistakes.row(index)
        shown, true = picture(pixels), o.images.split.targets[index].cpu().numpy()
        predicted = scores.logits(pixels.unsqueeze(0)).argmax(1)[0].numpy().astype(np.uint8)
        confused = f"{row['true']} as {row['predicted']}: {percent(row['share'])}" if row["true"] else "no wrong pixels"
        rows.append(
            [
                Cell(shown, (Path(row["image"]).name, f"mean IoU {percent(row['miou'])}")),
                Cell(class_map.colored(true)),
                Cell(class_map.colored(predicted)),
                Cell(class_map.differing(shown, true, predicted, VOID), (confused,)),
            ]
        )
    panel, _ = captioned_grid(rows, ("image", "true", "predicted", "differs"))
    void = any((o.images.split.targets[i] == VOID).any() for i in mistakes.worst[: len(rows)])
    legend = class_map.legend(o.images.classes, bool(void))
    lines = ["lowest mean IoU first", provenance(mistakes.loaded)]
    return compose_page([panel, legend], f"{mistakes.loaded.plan.network}: worst masks", lines, None)
