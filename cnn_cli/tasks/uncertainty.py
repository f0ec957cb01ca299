"""95% confidence intervals: Wilson's score interval for proportions, the bootstrap for other metrics.

The bootstrap draws as many images as there are, with replacement, computes the figure anew, and repeats (Efron and
Tibshirani 1993). Its draws come from a fixed seed, so that the same result has the same interval.
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


def wilson(successes: int, trials: int, level: float = LEVEL) -> Interval | None:
    """Wilson's score interval of a share (Wilson 1927); None without trials.

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    if not trials:
        return None
    z, share = NormalDist().inv_cdf((1 + level) / 2), successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    low = 0.0 if successes == 0 else middle - half
    return low, 1.0 if successes == trials else middle + half


def draws(n: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[Array]:
    """Batches (100, n): how often each of n images is drawn in each resample."""
    drawn, shares = np.random.default_rng(seed), np.full(n, 1 / n)
    for _ in range(math.ceil(resamples / 100)):
        yield drawn.multinomial(n, shares, size=100)


def resample(counts: Array, resamples: int = RESAMPLES, seed: int = SEED) -> Array:
    """(n, d) figures of images that add up → (resamples, d): their sums over images drawn with replacement."""
    return np.concatenate([weights @ counts for weights in draws(len(counts), resamples, seed)])[:resamples]


def percentiles(values: Array, level: float = LEVEL) -> Interval:
    """The interval that holds the middle `level` of resampled figures; NaN, of a resample without any, is left out."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_matrix(matrix: Array, figure: MatrixFigure, resamples: int = RESAMPLES) -> Interval | None:
    """The interval of a figure of a confusion matrix (K, K) of images; None without any."""
    count, (true, predicted) = int(matrix.sum()), np.nonzero(matrix)
    if not count:
        return None
    drawn = np.random.default_rng(SEED).multinomial(count, matrix[true, predicted] / count, size=resamples)
    hits = true == predicted
    sums = [(drawn[:, hits], true[hits]), (drawn, true), (drawn, predicted)]
    return percentiles(figure(*(_class_sums(counts, classes, len(matrix)) for counts, classes in sums)))


def _class_sums(counts: Array, classes: Array, size: int) -> Array:
    """(n, cells) counts of cells, each of a class → (n, size): their sums by class."""
    sums = np.zeros((len(counts), size), dtype=counts.dtype)
    if len(classes):
        order = np.argsort(classes, kind="stable")
        present, starts = np.unique(classes[order], return_index=True)
        sums[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
    return sums


def show(interval: Interval | None) -> str:
    """`90.66% to 91.77%`."""
    return f"{interval[0]:.2%} to {interval[1]:.2%}" if interval else "no images"
