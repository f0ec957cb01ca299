"""The images behind the AP: missed objects and wrong detections, by kind of error."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.boxes import original_corners
from cnn_cli.interpret.mistake_lists import (
    IMAGE,
    INDEX,
    PREDICTED,
    SHARE,
    TRUE,
    split_facts,
    split_name,
    text_of,
)
from cnn_cli.interpret.pictured import provenance
from cnn_cli.pictures import image
from cnn_cli.pictures.box_drawing import DrawnBox, enlargement, with_boxes
from cnn_cli.pictures.class_map import legend_of
from cnn_cli.pictures.grid import Cell, captioned_grid, picture
from cnn_cli.pictures.page import Page, compose_page
from cnn_cli.tables import Column, Table, TableRow, counted
from cnn_cli.tasks.average_precision import Array
from cnn_cli.tasks.detection_errors import ERROR_TITLES, KINDS, NOTHING_CORRECT
from cnn_cli.training.outcomes import BoxOutcomes

# Colors that the color-blind can distinguish (Okabe and Ito 2008).
COLORS = {
    "hits": "#009e73",
    "missed": "#d55e00",
    "doubled": "#56b4e9",
    "wrong_class": "#cc79a7",
    "badly_placed": "#e69f00",
    "background": "#f0e442",
}
_ACROSS, _MOST_ROWS = 2, 6  # pairs of pictures on the sheet


@dataclass(frozen=True)
class BoxMistakes:
    """The outcomes of a split, and how many entries each list shows."""

    loaded: LoadedNetwork
    outcomes: BoxOutcomes
    limit: int

    @property
    def worst(self) -> list[int]:
        """The images with errors, by the number of errors, then by the scores of the false detections."""
        o = self.outcomes
        false = o.classified.kinds > 0
        scores = np.bincount(o.detections.images[false], o.detections.scores[false], minlength=len(o.images))
        errors = np.sum([self._counts[name] for name in ERROR_TITLES], 0)
        order = np.lexsort((-scores, -errors))
        return [int(i) for i in order if errors[i]]

    @cached_property
    def _counts(self) -> dict[str, Array]:
        """For each kind of error and for missed objects: their number in each image, (n,)."""
        o, n = self.outcomes, len(self.outcomes.images)
        counts = {
            name: np.bincount(o.detections.images[o.classified.kinds == i], minlength=n) for i, name in enumerate(KINDS)
        }
        return counts | {"missed": np.bincount(o.objects.images[o.classified.missed], minlength=n)}

    def row(self, index: int) -> TableRow:
        """The JSON row of an image."""
        o = self.outcomes
        objects = int(((o.objects.images == index) & (o.objects.flags == 0)).sum())
        counts = {name: int(values[index]) for name, values in self._counts.items()}
        return {"index": index, "image": o.images.names[index], "objects": objects, **counts}

    @cached_property
    def mistakes(self) -> list[TableRow]:
        """All errors: the false detections, highest score first, then the missed objects, by image. Boxes are in pixels
        of the original images."""
        o, classes = self.outcomes, self.outcomes.images.classes
        detected, true, errors = o.detections, o.objects, o.classified
        false = np.flatnonzero(errors.kinds > 0)
        rows = []
        for i in false[np.argsort(-detected.scores[false], kind="stable")]:
            meant = errors.objects[i]
            known = {"true": classes[true.labels[meant]], "iou": float(errors.overlaps[i])} if meant >= 0 else {}
            facts = {"predicted": classes[detected.labels[i]], "score": float(detected.scores[i])}
            rows.append(self._error(KINDS[errors.kinds[i]], int(detected.images[i]), detected.boxes[i], facts | known))
        for i in errors.missed:
            rows.append(self._error("missed", int(true.images[i]), true.boxes[i], {"true": classes[true.labels[i]]}))
        return rows

    def _error(self, kind: str, index: int, box: Array, facts: TableRow) -> TableRow:
        o = self.outcomes
        height, width = o.sizes[index].tolist()
        (corners,) = original_corners(torch.from_numpy(box)[None], (height, width), self.loaded.preprocessing).tolist()
        unknown = dict.fromkeys(("predicted", "true", "score", "iou"))
        sides = {name: round(value, 2) for name, value in zip(("x0", "y0", "x1", "y1"), corners, strict=True)}
        return {"index": index, "image": o.images.names[index], "error": kind, **unknown, **facts, **sides}

    def pairs(self) -> list[TableRow]:
        """Pairs of classes by the number of objects of one that are detected as the other."""
        o, classes = self.outcomes, self.outcomes.images.classes
        wrong = np.flatnonzero(o.classified.kinds == KINDS.index("wrong_class"))
        true = o.objects.labels[o.classified.objects[wrong]]
        cells, counts = np.unique(np.stack([true, o.detections.labels[wrong]], 1), axis=0, return_counts=True)
        objects = o.precision.counts[0]
        return [
            {
                "true": classes[cells[i][0]],
                "predicted": classes[cells[i][1]],
                "n": int(counts[i]),
                "share": min(1.0, float(counts[i] / max(1, objects[cells[i][0]]))),
            }
            for i in np.argsort(-counts, kind="stable")
        ]

    def classes(self) -> list[TableRow]:
        """For each class the number of objects, of detected and missed ones, and of wrong detections."""
        o = self.outcomes
        missed, kinds, labels = o.objects.labels[o.classified.missed], o.classified.kinds, o.detections.labels
        return [
            {
                "class": name,
                "objects": int(o.precision.counts[0, k]),
                "missed": int((missed == k).sum()),
                **{kind: int(((kinds == i) & (labels == k)).sum()) for i, kind in enumerate(KINDS)},
            }
            for k, name in enumerate(o.images.classes)
        ]

    def document(self) -> dict[str, Any]:
        return split_facts(self.loaded, self.outcomes.images, "detection") | {
            "errors": self.outcomes.classified.count().document(),
            "mistakes": [
                {k: v for k, v in row.items() if k not in ("x0", "y0", "x1", "y1")}
                | {"box": [row[k] for k in ("x0", "y0", "x1", "y1")]}
                for row in self.mistakes
            ],
            "images": [self.row(i) for i in self.worst],
            "confused_pairs": self.pairs(),
            "per_class": self.classes(),
        }

    def headline(self) -> str:
        o, errors = self.outcomes, self.outcomes.classified.count()
        objects = int(o.precision.counts[0].sum())
        where = f"{counted(len(o.images), 'image')} of {split_name(o.images)}"
        if not errors.hits:
            return f"{where}: none of {counted(objects, 'object')} is detected at any score threshold"
        threshold = f"at a score threshold of {errors.score:.2f} (best F1)"
        hits = f"{errors.hits:,} of {counted(objects, 'object')} detected {threshold}"
        counts = sorted(((getattr(errors, name), title) for name, (title, _) in ERROR_TITLES.items()), reverse=True)
        lines = [f"{where}: {hits}", ", ".join(f"{n:,} {title}" for n, title in counts)]
        if wrong := objects - errors.hits - errors.missed:
            only = "only detections of another class, or with an IoU below 0.5"
            lines.append(f"neither detected nor missed: {counted(wrong, 'object')} with {only}")
        return "\n".join(lines)

    def table(self) -> Table:
        """All errors."""
        return self._table(self.mistakes)

    def _table(self, rows: list[TableRow]) -> Table:
        columns = (
            INDEX,
            IMAGE,
            Column("error", "error", show=lambda kind: ERROR_TITLES[kind][0]),
            PREDICTED,
            TRUE,
            Column("score", "score", number=True, show="{:.2f}".format),
            Column("iou", "IoU", number=True, show="{:.2f}".format),
            *(Column(side, side, number=True, show="{:.0f}".format) for side in ("x0", "y0", "x1", "y1")),
        )
        return Table(columns, rows)

    def text(self) -> str:
        false = [row for row in self.mistakes if row["error"] != "missed"]
        lists = {
            "worst images, by number of errors": Table((INDEX, IMAGE, *_counts()), self._rows()),
            "wrong detections, highest score first": self._table(false[: self.limit]),
            "most frequent confusions": Table(
                (TRUE, PREDICTED, Column("n", "objects", number=True), SHARE), self.pairs()[: self.limit]
            ),
            "per class": Table((Column("class", "class", wraps=True), *_counts()), list(map(_brief, self.classes()))),
        }
        return text_of(self.headline(), lists, self.outcomes.images.data)

    def _rows(self) -> list[TableRow]:
        return [_brief(self.row(i)) for i in self.worst[: self.limit]]


def _brief(row: TableRow) -> TableRow:
    """A row of counts, with detected and all objects in one cell: `3 of 5`."""
    return row | {"hits": f"{row['hits']:,} of {row['objects']:,}"}


def _counts() -> tuple[Column, ...]:
    titles = {"hits": "correct"} | {name: title for name, (title, _) in ERROR_TITLES.items()}
    return tuple(Column(key, title, number=True) for key, title in titles.items())


def draw_box_mistakes(mistakes: BoxMistakes) -> Page:
    """The worst images with their true boxes and detections, colored by kind of error."""
    shown = mistakes.worst[: min(mistakes.limit, _ACROSS * _MOST_ROWS)]
    cells = [cell for index in shown or [0] for cell in draw_pair(mistakes, index)]
    across = 2 * (_ACROSS if len(shown) > 1 else 1)
    headings = ("true boxes", "detections") * (across // 2)
    panel, _ = captioned_grid([cells[i : i + across] for i in range(0, len(cells), across)], headings)
    names = {"hits": "correct"} | {name: title for name, (title, _) in ERROR_TITLES.items()}
    legend = legend_of({names[kind]: image.rgb(color) for kind, color in COLORS.items()})
    errors = mistakes.outcomes.classified.count()
    shown_detections = f"detections with a score of at least {errors.score:.2f}" if errors.hits else NOTHING_CORRECT
    lines = [f"most errors first; {shown_detections}", provenance(mistakes.loaded)]
    return compose_page([panel, legend], f"{mistakes.loaded.plan.network}: detection errors", lines, None)


def draw_pair(mistakes: BoxMistakes, index: int) -> list[Cell]:
    """An image with its true boxes, and again with its detections."""
    o, classes, row = mistakes.outcomes, mistakes.outcomes.images.classes, mistakes.row(index)
    own = np.flatnonzero((o.objects.images == index) & (o.objects.flags == 0))
    chosen = np.flatnonzero((o.detections.images == index) & (o.classified.kinds >= 0))
    kinds = dict.fromkeys(own.tolist(), "missed")
    for i in chosen[
        np.argsort(-o.classified.kinds[chosen])
    ]:  # hits last, so that an object with a hit is shown as detected
        kinds[int(o.classified.objects[i])] = KINDS[o.classified.kinds[i]]
    true = [
        DrawnBox(o.objects.boxes[i].tolist(), 0, classes[o.objects.labels[i]], COLORS[kinds[i]]) for i in own.tolist()
    ]
    detections = [
        DrawnBox(
            o.detections.boxes[i].tolist(),
            0,
            f"{classes[o.detections.labels[i]]} {o.detections.scores[i]:.2f}",
            COLORS[KINDS[o.classified.kinds[i]]],
        )
        for i in chosen[np.argsort(o.detections.scores[chosen])]
    ]
    pixels = o.images.pixels(index)
    zoom = enlargement(*pixels.shape[-2:])
    errors = [f"{row[name]} {title}" for name, (title, _) in ERROR_TITLES.items() if row[name]]
    return [
        Cell(with_boxes(picture(pixels), true, zoom), (Path(row["image"]).name, "")),
        Cell(with_boxes(picture(pixels), detections, zoom), (", ".join(errors) or "no errors",)),
    ]
