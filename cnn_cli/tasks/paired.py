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

    only_a, only_b: images that one alone classifies rightly, or objects that one alone detects.
    """

    value: float
    interval: Interval
    p: float
    test: str
    only_a: int | None = None
    only_b: int | None = None


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact p-value of McNemar's test: that images which one alone gets right are as often of A as of B.

    >>> mcnemar(1, 6), mcnemar(0, 0)
    (0.125, 1.0)
    """
    n, term, total = only_a + only_b, 1, 0  # whole numbers of any size
    for i in range(min(only_a, only_b) + 1):
        total += term
        term = term * (n - i) // (i + 1)
    return min(1.0, 2 * total / (1 << n))


def paired_shares(only_a: int, only_b: int, n: int, level: float = LEVEL) -> Interval:
    """The interval of the difference of two shares of the same n images (Agresti and Min 2005): Wald's, with half an
    image more in each cell."""
    z, total = NormalDist().inv_cdf((1 + level) / 2), n + 2
    a, b = (only_a + 0.5) / total, (only_b + 0.5) / total
    half = z * math.sqrt(max(0.0, a + b - (b - a) ** 2) / total)
    return b - a - half, b - a + half


def compare_right(a: Array, b: Array) -> Difference:
    """(n,), (n,) bool: which images A and B classify rightly."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    interval = paired_shares(only_a, only_b, len(a))
    p = mcnemar(only_a, only_b)
    return Difference((only_b - only_a) / max(1, len(a)), interval, p, "McNemar's exact test", only_a, only_b)


def compare_sums(a: Array, b: Array, figure: Callable[[Array], Array]) -> Difference:
    """(n, …), (n, …): what adds up over images; figure: sums (…, …) → (…)."""
    return compare_weighted(len(a), *(lambda w, one=one: figure(np.tensordot(w, one, 1)) for one in (a, b)))


def compare_weighted(n: int, a: Callable[[Array], Array], b: Callable[[Array], Array]) -> Difference:
    """a, b: weights (r, n) of the images → (r,) a figure; NaN where it is not defined. The bootstrap draws the same
    images of both.

    The p-value is twice the share of resamples on the other side of 0.
    """
    values = np.concatenate([b(weights) - a(weights) for weights in draws(n, _RESAMPLES)])
    values = values[~np.isnan(values)]
    below, above = ((values <= 0).sum() + 1, (values >= 0).sum() + 1)
    p = float(min(1.0, 2 * min(below, above) / (len(values) + 1)))
    every = np.ones((1, n), np.int64)
    return Difference(float((b(every) - a(every))[0]), percentiles(values), p, "bootstrap over images")


def compare_groups(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Difference:
    """The scores of several seeds each: Welch's t test, which needs two of both."""
    value = fmean(b) - fmean(a)
    parts = [variance(a) / len(a), variance(b) / len(b)]
    error = math.sqrt(sum(parts))
    if not error:
        return Difference(value, (value, value), float(value == 0), "Welch's t test over seeds")
    freedom = sum(parts) ** 2 / sum(s * s / (n - 1) for s, n in zip(parts, (len(a), len(b)), strict=True))
    p = 2 * _t_tail(abs(value) / error, freedom)
    low, high = 0.0, 1e9
    for _ in range(200):  # the quantile, by bisection
        middle = (low + high) / 2
        low, high = (middle, high) if 2 * _t_tail(middle, freedom) > 1 - level else (low, middle)
    return Difference(value, (value - high * error, value + high * error), p, "Welch's t test over seeds")


def _t_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's t distribution, t ≥ 0: half a regularized incomplete beta function."""
    return 0.5 * _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """By its continued fraction, with Lentz's method (Press et al., Numerical Recipes, section 6.4)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 1000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / _not_zero(1 + step * d), _not_zero(1 + step / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return math.exp(front) * fraction / a


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300
