"""Every figure against scikit-learn, which counts in its own way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_cli.tasks.classification import count_pairs
from cnn_cli.tasks.classification_result import ClassificationResult


def confusion(labels: torch.Tensor, predictions: torch.Tensor, classes: int) -> torch.Tensor:
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    count_pairs(matrix, labels, predictions)
    return matrix


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 6), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60))
def test_measures_are_scikit_learns(classes: int, pairs: list[tuple[int, int]]) -> None:
    from sklearn import metrics

    true = [t % classes for t, _ in pairs]
    predicted = [p % classes for _, p in pairs]
    matrix = confusion(torch.tensor(true), torch.tensor(predicted), classes).tolist()
    labels = list(range(classes))
    assert matrix == metrics.confusion_matrix(true, predicted, labels=labels).tolist()
    found = ClassificationResult("test", 0.0, matrix, tuple(f"c{i}" for i in labels)).document()
    precision, recall, f1, n = metrics.precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
    assert [c["class"] for c in found["per_class"]] == [f"c{i}" for i in labels]
    assert [c["n"] for c in found["per_class"]] == n.tolist()
    for key, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert [c[key] for c in found["per_class"]] == pytest.approx(expected.tolist())
    assert found["n"] == len(pairs)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, predicted))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(true, predicted, average="macro", zero_division=0))
    occurring = [r for r, count in zip(recall, n, strict=True) if count]
    assert found["balanced_accuracy"] == pytest.approx(sum(occurring) / len(occurring))


def test_matrices_of_batches_add_up() -> None:
    true, predicted = torch.randint(0, 4, (2, 101), generator=torch.Generator().manual_seed(0))
    parts = [confusion(t, p, 4) for t, p in zip(true.split(7), predicted.split(7), strict=True)]
    assert torch.stack(parts).sum(0).equal(confusion(true, predicted, 4))


def test_no_image_at_all() -> None:
    assert ClassificationResult("test", 0.0, [[0, 0], [0, 0]], ("a", "b")).score == 0
