"""Counts that add up: everything is worked out from one confusion matrix of whole numbers and one sum of losses."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def confusion(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """(n,), (n,) int64 → (K, K) int64 counts: row = true class, column = predicted. Matrices of batches add up."""
    cells = labels * classes + predictions
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=labels.device)
    return counts.index_add_(0, cells, torch.ones_like(cells)).view(classes, classes)  # bincount would wait for a GPU


def measures(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> dict[str, Any]:
    """From counts: n, accuracy, balanced_accuracy, macro_f1 and per_class [{class, n, precision, recall, f1}].

    As scikit-learn defines them, with 0 for a quotient by 0. The two means count the classes that occur: as true labels
    for the balanced accuracy, as true or predicted ones for F1.
    """
    rows = [sum(row) for row in matrix]
    columns = [sum(column) for column in zip(*matrix, strict=True)]
    n, correct = sum(rows), [matrix[i][i] for i in range(len(classes))]
    per_class: list[dict[str, Any]] = [
        {
            "class": name,
            "n": rows[i],
            "precision": _ratio(correct[i], columns[i]),
            "recall": _ratio(correct[i], rows[i]),
            "f1": _ratio(2 * correct[i], rows[i] + columns[i]),
        }
        for i, name in enumerate(classes)
    ]
    return {
        "n": n,
        "accuracy": _ratio(sum(correct), n),
        "balanced_accuracy": _mean([c["recall"] for c in per_class if c["n"]]),
        "macro_f1": _mean([c["f1"] for i, c in enumerate(per_class) if rows[i] + columns[i]]),
        "per_class": per_class,
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
