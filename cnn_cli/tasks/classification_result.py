"""Metrics of classification, from a confusion matrix and a sum of losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from cnn_cli.data.dataset import CLASSIFICATION
from cnn_cli.tables import Column, Table, TableRow, percent, render, side_by_side, wrapped
from cnn_cli.tasks.base import Draw, largest_confusions
from cnn_cli.tasks.calibration import Calibration, read_calibration
from cnn_cli.tasks.uncertainty import LEVEL, Array, bootstrap_matrix, show, wilson

MAX_MATRIX = 20  # classes up to which the whole confusion matrix is shown, rather than its largest cells


@dataclass(frozen=True)
class ClassificationResult:
    """`matrix` has a row for each true class and a column for each predicted one."""

    split: str
    loss: float
    matrix: list[list[int]]
    classes: tuple[str, ...]
    calibration: Calibration | None = None

    metric = "accuracy"

    @property
    def n(self) -> int:
        return sum(map(sum, self.matrix))

    @property
    def score(self) -> float:
        return _ratio(sum(self.matrix[i][i] for i in range(len(self.matrix))), self.n)

    def document(self) -> dict[str, Any]:
        """The metrics as scikit-learn defines them, with 0 for a division by 0.

        The two means are over the classes that occur: as true labels for the balanced accuracy, as true or predicted
        ones for F1.
        """
        per_class = class_figures(self.matrix, self.classes)
        predicted = [sum(column) for column in zip(*self.matrix, strict=True)]
        return {
            "task": CLASSIFICATION,
            "split": self.split,
            "n": self.n,
            "loss": self.loss,
            "accuracy": self.score,
            "balanced_accuracy": _mean([c["recall"] for c in per_class if c["n"]]),
            "macro_f1": _mean([c["f1"] for c, count in zip(per_class, predicted, strict=True) if c["n"] + count]),
            "per_class": per_class,
            "confusion_matrix": self.matrix,
            "classes": list(self.classes),
            "intervals": self.intervals,
            **(self.calibration.document() if self.calibration else {}),
        }

    @cached_property
    def intervals(self) -> dict[str, Any]:
        """95% intervals: Wilson's of the accuracy, bootstrap over images of the means over classes."""
        matrix = np.array(self.matrix, dtype=np.int64)
        return {
            "level": LEVEL,
            "accuracy": wilson(int(matrix.trace()), self.n),
            "balanced_accuracy": bootstrap_matrix(matrix, _balanced_accuracy),
            "macro_f1": bootstrap_matrix(matrix, _macro_f1),
        }

    def headline(self) -> str:
        """`accuracy 91.23%   macro F1 0.912   loss 0.2531`."""
        d = self.document()
        differs = abs(d["balanced_accuracy"] - d["accuracy"]) > 5e-5
        balanced = [f"balanced {percent(d['balanced_accuracy'], 2)}"] if differs else []
        others = [f"macro F1 {d['macro_f1']:.3f}", f"loss {d['loss']:.4f}"]
        return side_by_side([f"accuracy {percent(d['accuracy'], 2)}", *balanced, *others])

    def text(self) -> str:
        parts = ["\n".join([self.headline(), *self._evidence()]), render(self.table())]
        return "\n\n".join([*parts, _confusions(self.matrix, self.classes)])

    def _evidence(self) -> list[str]:
        """The interval of the accuracy, and the calibration error."""
        lines = [f"95% interval of the accuracy: {show(self.intervals['accuracy'])}"]
        lines += [wrapped(self.calibration.text())] if self.calibration else []
        return lines

    def table(self) -> Table:
        columns = (
            Column("class", "class", wraps=True),
            Column("n", "images", number=True),
            *(
                Column(k, k.replace("f1", "F1"), number=True, show="{:.3f}".format)
                for k in ("precision", "recall", "f1")
            ),
            Column("recall_low", "recall from", number=True, show="{:.3f}".format),
            Column("recall_high", "to (95%)", number=True, show="{:.3f}".format),
        )
        rows = class_figures(self.matrix, self.classes)
        for row in rows:
            row["recall_low"], row["recall_high"] = row["recall_interval"] or (None, None)
        return Table(columns, rows)

    def pictures(self) -> dict[str, Draw]:
        drawn: dict[str, Draw] = {"confusion_matrix": self._draw}
        return drawn | ({"reliability": partial(self.calibration.draw, counted="images")} if self.calibration else {})

    def _draw(self, path: Path, title: str) -> None:
        from cnn_cli.pictures import plots

        plots.confusion_picture(self.matrix, self.classes, path, f"{title}: {self.score:.2%}")


def read_result(document: Mapping[str, Any]) -> ClassificationResult:
    """A result from eval.json."""
    loss = float("inf") if document["loss"] is None else document["loss"]
    return ClassificationResult(
        document["split"],
        loss,
        document["confusion_matrix"],
        tuple(document["classes"]),
        read_calibration(document),
    )


def class_figures(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[TableRow]:
    """[{class, n, precision, recall, f1, recall_interval}] as in scikit-learn, with 0 for a division by 0."""
    predicted = [sum(column) for column in zip(*matrix, strict=True)]
    return [
        {
            "class": name,
            "n": sum(matrix[i]),
            "precision": _ratio(matrix[i][i], predicted[i]),
            "recall": _ratio(matrix[i][i], sum(matrix[i])),
            "f1": _ratio(2 * matrix[i][i], sum(matrix[i]) + predicted[i]),
            "recall_interval": wilson(matrix[i][i], sum(matrix[i])),
        }
        for i, name in enumerate(classes)
    ]


def _confusions(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    if len(classes) > MAX_MATRIX:
        return f"most frequent confusions\n{render(_largest_confusions(matrix, classes))}"
    columns = (
        Column("name", "true \\ predicted", wraps=True),
        *(Column(str(i), str(i), number=True) for i in range(len(classes))),
    )
    rows = [
        {"name": name if name == str(i) else f"{i} {name}", **{str(j): n or "·" for j, n in enumerate(matrix[i])}}
        for i, name in enumerate(classes)
    ]
    return f"confusion matrix\n{render(Table(columns, rows))}"


def _largest_confusions(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Table:
    cells = largest_confusions(matrix, MAX_MATRIX)
    rows = [{"true": classes[i], "predicted": classes[j], "n": n} for n, i, j in cells]
    columns = (Column("true", "true", wraps=True), Column("predicted", "predicted", wraps=True))
    return Table((*columns, Column("n", "images", number=True)), rows)


def _balanced_accuracy(hits: Array, true: Array, predicted: Array) -> Array:
    """The balanced accuracy of n confusion matrices from their counts (n, K) by class → (n,)."""
    return _mean_share(hits, true)


def _macro_f1(hits: Array, true: Array, predicted: Array) -> Array:
    return _mean_share(2 * hits, true + predicted)


def _mean_share(parts: Array, wholes: Array) -> Array:
    """Means (n,) over the classes that occur."""
    shares = np.divide(parts, wholes, out=np.zeros(parts.shape), where=wholes > 0)
    return np.asarray(shares.sum(1) / (wholes > 0).sum(1))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
