"""Intervals and paired tests over evaluation items; all intervals are at the 95 % level, all tests two-sided."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, permutation_test
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
RESAMPLES = 9999


def proportion_interval(k: int, n: int) -> tuple[float, float]:
    """Wilson score interval of k successes in n > 0 trials (1927), which stays in [0, 1] and serves k = 0 and n too."""
    low, high = proportion_confint(k, n, alpha=1 - CONFIDENCE, method="wilson")
    return float(low), float(high)


def mean_interval(values: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """BCa bootstrap interval (Efron 1987) of the mean of (n,) values; one point if they are all the same."""
    values = np.asarray(values, dtype=float)
    return ratio_interval(values, np.ones_like(values), seed)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """BCa bootstrap interval of sum(numerators) / sum(denominators), such as nats a token, over (n,) items.

    Items are drawn whole, each numerator with its denominator. One point if the ratio is the same in all items.
    """
    numerators, denominators = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    point = float(numerators.sum() / denominators.sum())
    if np.allclose(numerators, point * denominators, rtol=1e-12, atol=0):
        return point, point
    interval = bootstrap(
        (numerators, denominators),
        lambda above, below, axis: above.sum(axis) / below.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def mcnemar(base: ArrayLike, other: ArrayLike) -> float:
    """Exact McNemar test of two (n,) booleans on the same items: p of as uneven a split of those that changed."""
    base, other = np.asarray(base, dtype=bool), np.asarray(other, dtype=bool)
    table = [[np.sum(base & other), np.sum(base & ~other)], [np.sum(~base & other), np.sum(~base & ~other)]]
    return float(mcnemar_test(table, exact=True).pvalue)


def paired_permutation(base: ArrayLike, other: ArrayLike, seed: int = 0) -> float:
    """Permutation test of the mean difference of two (n,) scores on the same items, swapping within items.

    Exact where 2^n is no more than `RESAMPLES`, else by that many random swaps.
    """
    result = permutation_test(
        (np.asarray(base, dtype=float), np.asarray(other, dtype=float)),
        lambda first, second, axis: np.mean(second - first, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's (1979) step-down adjustment of a family of m ≥ 1 p-values: (m,), in the order given."""
    return np.asarray(multipletests(p_values, method="holm")[1])
