"""Significance tests and confidence intervals of the difference of two networks, on the same images or over seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance

import numpy as np

from cnn_cli.tasks.uncertainty import LEVEL, Array, Interval, draws, percentiles

_RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """B − A of a metric, with its interval and the p-value of no difference. `test` names the test.

    only_a, only_b: images that only one classifies correctly, or objects that only one detects.
    """

    value: float
    interval: Interval
    p: float
    test: str
    only_a: int | None = None
    only_b: int | None = None


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact p-value of McNemar's test, from the numbers of images that only A and only B classify correctly.

    >>> mcnemar(1, 6), mcnemar(0, 0)
    (0.125, 1.0)
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def paired_shares(only_a: int, only_b: int, n: int) -> Interval:
    """The interval of the difference of two proportions of the same n images (Agresti and Min 2005): Wald's, with half
    an image added to each cell."""
    z, total = NormalDist().inv_cdf((1 + LEVEL) / 2), n + 2
    a, b = (only_a + 0.5) / total, (only_b + 0.5) / total
    half = z * math.sqrt(max(0.0, a + b - (b - a) ** 2) / total)
    return max(-1.0, b - a - half), min(1.0, b - a + half)


def compare_right(a: Array, b: Array) -> Difference:
    """(n,), (n,) bool: which images A and B classify correctly."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    interval = paired_shares(only_a, only_b, len(a))
    p = mcnemar(only_a, only_b)
    return Difference((only_b - only_a) / max(1, len(a)), interval, p, "McNemar's exact test", only_a, only_b)


def compare_sums(a: Array, b: Array, figure: Callable[[Array], Array]) -> Difference:
    """(n, …), (n, …): counts that are summed over images; figure: sums (…, …) → (…), the metric."""
    return compare_weighted(len(a), *(lambda w, one=one: figure(np.tensordot(w, one, 1)) for one in (a, b)))


def compare_weighted(n: int, a: Callable[[Array], Array], b: Callable[[Array], Array]) -> Difference:
    """a, b: weights (r, n) of the images → (r,) a metric; NaN if it is undefined. The bootstrap draws the same images
    for both.

    The p-value is twice the fraction of resamples on the other side of 0.
    """
    values = np.concatenate([b(weights) - a(weights) for weights in draws(n, _RESAMPLES)])
    values = values[~np.isnan(values)]
    below, above = ((values <= 0).sum() + 1, (values >= 0).sum() + 1)
    p = float(min(1.0, 2 * min(below, above) / (len(values) + 1)))
    every = np.ones((1, n), np.int64)
    return Difference(float((b(every) - a(every))[0]), percentiles(values), p, "bootstrap over images")


def compare_groups(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Welch's t test of the scores of several seeds each, at least two."""
    from scipy.special import stdtr, stdtrit  # scipy.stats takes a second longer to import

    value = fmean(b) - fmean(a)
    parts = [variance(a) / len(a), variance(b) / len(b)]
    error = math.sqrt(sum(parts))
    if not error:
        return Difference(value, (value, value), float(value == 0), "Welch's t test over seeds")
    freedom = sum(parts) ** 2 / sum(s * s / (n - 1) for s, n in zip(parts, (len(a), len(b)), strict=True))
    p = 2 * float(stdtr(freedom, -abs(value) / error))
    half = error * float(stdtrit(freedom, (1 + LEVEL) / 2))
    return Difference(value, (value - half, value + half), p, "Welch's t test over seeds")
