"""95% confidence intervals: Wilson's score interval for proportions, the bootstrap for other metrics.

The bootstrap repeatedly draws as many images as there are, with replacement, and computes the metric of these (Efron
and Tibshirani 1993). The seed is fixed, so that the same result has the same interval.
"""

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0

Array = np.ndarray[Any, np.dtype[Any]]
Interval = tuple[float, float]
MatrixFigure = Callable[[Array, Array, Array], Array]  # (n, K) hits, images, predictions → (n,)


def wilson(successes: int, trials: int) -> Interval | None:
    """Wilson's score interval of a proportion (Wilson 1927); None without trials.

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    if not trials:
        return None
    z, share = NormalDist().inv_cdf((1 + LEVEL) / 2), successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    low = 0.0 if successes == 0 else middle - half
    return low, 1.0 if successes == trials else middle + half


def draws(n: int, resamples: int = RESAMPLES) -> Iterator[Array]:
    """Batches (100, n): how often each of n images is drawn in each resample."""
    drawn, shares = np.random.default_rng(SEED), np.full(n, 1 / n)
    for _ in range(math.ceil(resamples / 100)):
        yield drawn.multinomial(n, shares, size=100)


def resample(counts: Array) -> Array:
    """(n, d) counts of images → (RESAMPLES, d): their sums over images drawn with replacement."""
    return np.concatenate([weights @ counts for weights in draws(len(counts))])


def percentiles(values: Array) -> Interval:
    """The interval that contains the middle 95% of resampled metrics; NaN, an undefined metric, is left out."""
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap_matrix(matrix: Array, figure: MatrixFigure) -> Interval | None:
    """The interval of a metric of a confusion matrix (K, K) of images; None without images."""
    count, (true, predicted) = int(matrix.sum()), np.nonzero(matrix)
    if not count:
        return None
    drawn = np.random.default_rng(SEED).multinomial(count, matrix[true, predicted] / count, size=RESAMPLES)
    hits = true == predicted
    sums = [(drawn[:, hits], true[hits]), (drawn, true), (drawn, predicted)]
    return percentiles(figure(*(_class_sums(counts, classes, len(matrix)) for counts, classes in sums)))


def _class_sums(counts: Array, classes: Array, size: int) -> Array:
    """(n, cells) counts of cells, and the class of each cell → (n, size): the sums by class."""
    sums = np.zeros((len(counts), size), dtype=counts.dtype)
    if len(classes):
        order = np.argsort(classes, kind="stable")
        present, starts = np.unique(classes[order], return_index=True)
        sums[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
    return sums


def show(interval: Interval | None) -> str:
    """`90.66% to 91.77%`."""
    return f"{interval[0]:.2%} to {interval[1]:.2%}" if interval else "no images"
