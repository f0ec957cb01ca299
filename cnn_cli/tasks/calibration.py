"""Calibration of probabilities: the expected calibration error (ECE), and the temperature that reduces it.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", 2017.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

BINS = 15
_UNIT = 2**32  # confidences are summed as integers in units of 1/_UNIT, so that the order does not matter
_COLDEST, _HOTTEST = 0.01, 100.0


class Bin(TypedDict):
    """A bin of confidence from `low` to `high` with `n` predictions; confidence and accuracy are None if n is 0."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Reliability:
    """By bins of equal width on (0, 1]: how many images, or pixels, were predicted with such a confidence, the sum of
    these confidences, and how many predictions were correct."""

    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    correct: tuple[int, ...]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean |confidence − accuracy| of the bins, weighted by their counts."""
        gaps = [abs(p - hits) for p, hits in zip(self.confidences, self.correct, strict=True)]
        return sum(gaps) / max(1, sum(self.counts))

    def document(self) -> list[Bin]:
        width = 1 / len(self.counts)
        return [
            {
                "low": i * width,
                "high": (i + 1) * width,
                "n": n,
                "confidence": p / n if n else None,
                "accuracy": hits / n if n else None,
            }
            for i, (n, p, hits) in enumerate(zip(self.counts, self.confidences, self.correct, strict=True))
        ]


@dataclass(frozen=True)
class Calibration:
    """The reliability of the probabilities, and of those at `temperature` if there is one."""

    plain: Reliability
    temperature: float | None = None
    tempered: Reliability | None = None

    def document(self) -> dict[str, Any]:
        facts = {"ece": self.plain.error, "reliability": self.plain.document()}
        if self.tempered:
            facts |= {"temperature": self.temperature, "calibrated_ece": self.tempered.error}
            facts["calibrated_reliability"] = self.tempered.document()
        return facts

    def text(self) -> str:
        line = f"expected calibration error {self.plain.error:.2%}"
        if self.tempered:
            line += f", {self.tempered.error:.2%} at the calibrated temperature {self.temperature:.3f}"
        return line

    def draw(self, path: Path, title: str, counted: str) -> None:
        """The reliability diagram. counted: what is predicted, `images`."""
        from cnn_cli.pictures import reliability_plot

        diagrams, errors = {"confidence": self.plain.document()}, {"confidence": self.plain.error}
        if self.tempered:
            name = f"calibrated (temperature {self.temperature:.3f})"
            diagrams[name], errors[name] = self.tempered.document(), self.tempered.error
        reliability_plot.reliability_diagram(diagrams, errors, path, title, counted)


def read_calibration(document: Mapping[str, Any]) -> Calibration | None:
    """The calibration in eval.json; None if it has none."""
    plain = read_reliability(document.get("reliability"))
    tempered = read_reliability(document.get("calibrated_reliability"))
    return Calibration(plain, document.get("temperature"), tempered) if plain else None


def read_reliability(rows: Sequence[Bin] | None) -> Reliability | None:
    """The inverse of document()."""
    if rows is None:
        return None
    counts = tuple(row["n"] for row in rows)
    confidences = tuple(row["n"] * (row["confidence"] or 0.0) for row in rows)
    return Reliability(counts, confidences, tuple(round(row["n"] * (row["accuracy"] or 0.0)) for row in rows))


def no_bins(device: torch.device) -> Tensor:
    """(2, 3, BINS) zeros, to which the results of both_bins() are added."""
    return torch.zeros(2, 3, BINS, dtype=torch.int64, device=device)


def both_bins(
    log_probabilities: Tensor, correct: Tensor, temperature: float | None, valid: Tensor | None = None
) -> Tensor:
    """(2, 3, BINS): count_bins() of the probabilities, and of those at the temperature; zeros without one."""
    plain = count_bins(log_probabilities, correct, valid)
    if temperature is None:
        return torch.stack([plain, torch.zeros_like(plain)])
    return torch.stack([plain, count_bins(tempered(log_probabilities, temperature), correct, valid)])


def count_bins(log_probabilities: Tensor, correct: Tensor, valid: Tensor | None = None) -> Tensor:
    """(N, K, …), (N, …) → (3, BINS) int64: predictions, confidences in 1/_UNIT, correct predictions. Never synchronizes
    with the device. valid: (N, …) bool, the predictions that count; all by default."""
    confidence = log_probabilities.float().amax(1).exp().clamp(0, 1).flatten()
    bins = ((confidence * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    values = torch.stack([torch.ones_like(bins), (confidence * _UNIT).long(), correct.flatten().long()])
    if valid is not None:
        values *= valid.flatten()
    return torch.zeros(3, BINS, dtype=torch.int64, device=bins.device).index_add_(1, bins, values)


def calibration_of(bins: Tensor, temperature: float | None) -> Calibration:
    """bins: sums of both_bins()."""
    plain, calibrated = (reliability_of(one) for one in bins)
    return Calibration(plain, temperature, None if temperature is None else calibrated)


def reliability_of(bins: Tensor) -> Reliability:
    counts, confidences, correct = bins.tolist()
    return Reliability(tuple(counts), tuple(c / _UNIT for c in confidences), tuple(correct))


def tempered(log_probabilities: Tensor, temperature: float) -> Tensor:
    """Log-probabilities at a temperature; above 1 they are less confident. Predictions do not change."""
    return (log_probabilities / temperature).log_softmax(1)


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """(n, K), (n,) → the temperature with the smallest negative log-likelihood, found by Newton's method on 1/T.

    The log-likelihood is concave in 1/T. If it has no maximum, as when all predictions are correct, the temperature is
    bounded.
    """
    scores = log_probabilities.double().clamp_min(-1e6)
    true = scores.gather(1, labels.view(-1, 1)).mean()
    low, high, sharpness = 1 / _HOTTEST, 1 / _COLDEST, 1.0
    for _ in range(100):
        shares = (scores * sharpness).softmax(1)
        mean = (shares * scores).sum(1)
        slope = float(mean.mean() - true)  # of the negative log-likelihood, by 1/T
        curvature = float(((shares * scores.square()).sum(1) - mean.square()).mean())
        low, high = (sharpness, high) if slope < 0 else (low, sharpness)
        step = sharpness - slope / curvature if curvature > 0 else high
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - sharpness) <= 1e-12 * sharpness:
            break
        sharpness = following
    return 1 / sharpness


def likelihood_loss(log_probabilities: Tensor, labels: Tensor) -> float:
    """The mean negative log-likelihood, in double precision."""
    return float(torch.nn.functional.nll_loss(log_probabilities.double(), labels))
