"""Intervals and paired tests over evaluation items; all intervals are at the 95 % level, all tests two-sided."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import bootstrap, norm, t
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
RESAMPLES = 9999
SWAPS = 99_999  # of a permutation test: Holm's correction of a whole table needs p-values well below 1e-4
Z = float(norm.ppf((1 + CONFIDENCE) / 2))
Floats = NDArray[np.float64]


def proportion_interval(k: float, n: float) -> tuple[float, float]:
    """Wilson score interval of k successes in n > 0 trials (1927), which stays in [0, 1] and serves k = 0 and n too."""
    low, high = proportion_confint(k, n, alpha=1 - CONFIDENCE, method="wilson")
    # Not 7e-18, and not 1 but for a rounding.
    return 0.0 if k == 0 else float(low), 1.0 if k == n else float(high)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """BCa bootstrap interval (Efron 1987) of sum(numerators) / sum(denominators), such as nats a token; (n,) items.

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


@dataclass(frozen=True)
class Sample:
    """The items behind a score, or behind the mean of the scores of L languages.

    Each language's score is a ratio of sums over all seeds and items, of ones for a mean or a share, of tokens for nats
    a token. Items at one place are one question, in L languages and answered by S seeds, and so not independent.

    Attributes:
        numerators: (L, S, n).
        denominators: (L, S, n); where the score is not defined for an item, 0 in both.
    """

    numerators: Floats
    denominators: Floats

    @property
    def scores(self) -> Floats:
        """Each language's score, (L,)."""
        return np.asarray(self.numerators.sum((1, 2)) / self.denominators.sum((1, 2)))

    @property
    def value(self) -> float:
        """The mean of the languages' scores."""
        return math.fsum(self.scores) / len(self.scores)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of items in each language, (L,)."""
        return np.asarray((self.denominators > 0).any(1).sum(1))

    @property
    def seeds(self) -> int:
        """S."""
        return int(self.numerators.shape[1])

    @property
    def is_share(self) -> bool:
        """Whether every item is 0 or 1 and counts as one, or not at all."""
        return bool(np.isin(self.numerators, (0, 1)).all() and np.isin(self.denominators, (0, 1)).all())

    @property
    def weights(self) -> Floats:
        """How much each question has to say, (n,); adds up to 1."""
        of_item = self.denominators.mean(1)
        return np.asarray((of_item / of_item.sum(1, keepdims=True)).mean(0))

    @property
    def deviations(self) -> Floats:
        """What each seed's answer to each question adds to the error of the value, to first order.

        (S, n); (num - score * den) / sum(den), averaged over languages. Sums over n and averages over S to 0.
        """
        size = self.denominators.sum(2, keepdims=True).mean(1, keepdims=True)
        return np.asarray(((self.numerators - self.scores[:, None, None] * self.denominators) / size).mean(0))


def variance(deviations: Floats, weights: Floats) -> tuple[float, float]:
    """Variance of a score, for other seeds and other items than these, and its degrees of freedom.

    Seeds and items are crossed random effects: the variance is that of the seeds' means + that of the items' means -
    that of their interaction, which both contain; never less than that of the items' means. Degrees of freedom are
    Satterthwaite's (1946), for which the items count as a normal sample with their kurtosis: a hundred answers of which
    three are wrong tell the variance as badly as six normal ones. They are never fewer than those of the part that has
    the fewest, as they never are in a sum; with a part taken off, his formula falls to 1 where seeds hardly differ.

    Resampling seeds and items instead (the hierarchical bootstrap) covers between 83 and 99 % with three seeds, whose
    extremes alone hold the true mean 75 times in 100. With two seeds this does not cover either (85 to 97 %).

    Args:
        deviations: (S, n), `Sample.deviations` or the difference of two such.
        weights: (n,), `Sample.weights`.
    """
    seeds, n = len(deviations), int((weights > 0).sum())
    if n < 2:
        return math.nan, math.nan
    of_seed, of_item = deviations.sum(1), deviations.mean(0)
    items = float(of_item @ of_item) * n / (n - 1)
    fourth = float((of_item**4).sum())
    free = min(n - 1, 2 * items**2 / (fourth - items**2 / n)) if fourth > items**2 / n else n - 1.0
    if seeds == 1:
        return items, free
    rest = deviations - of_item - of_seed[:, None] * weights
    between = float(of_seed @ of_seed) / ((seeds - 1) * seeds)
    mixed = float((rest**2).sum()) / ((seeds - 1) * seeds) * n / (n - 1)
    total = between + items - mixed
    if total <= items:
        return items, free
    parts = between**2 / (seeds - 1) + items**2 / free + mixed**2 / ((seeds - 1) * (n - 1))
    return total, max(total**2 / parts, min(seeds - 1.0, free))


def interval(sample: Sample) -> tuple[float, float]:
    """Interval of a sample's value over seeds and items, both random (`variance`).

    Student's t; for shares Wilson's interval with the number of items that has the same variance (Korn and Graubard,
    1998), which is never taken to be less than if all answers were independent (Agresti and Coull, 1998).
    """
    spread, free = variance(sample.deviations, sample.weights)
    if not sample.is_share:
        return _t_interval(sample.value, spread, free)
    sizes = sample.sizes
    moderate = (sample.scores * sizes + 2) / (sizes + 4)
    shown = _at_least(spread, moderate * (1 - moderate) / (sizes + 4), sample.seeds)
    n = _items(moderate.mean() * (1 - moderate.mean()) / shown, free, sizes)
    return proportion_interval(sample.value * n, n)


def difference_interval(base: Sample, other: Sample) -> tuple[float, float]:
    """Interval of other - base, on the same items, over seeds and items, both random (`variance`).

    Where both have several seeds these are the same ones; else one of them has a single one.

    Student's t; for shares Tango's interval (`paired_shares_interval`), with several languages or seeds on the number
    of items that has the same variance, which is never taken to be less than if all answers were independent (with half
    an item more in each cell of the table: Agresti and Min, 2005).
    """
    difference = other.value - base.value
    spread, free = variance(other.deviations - base.deviations, other.weights)
    if not (base.is_share and other.is_share):
        return _t_interval(difference, spread, free)
    sizes = other.sizes
    changed = other.numerators - base.numerators
    gained, lost = (np.maximum(sign * changed, 0).sum((1, 2)) / changed.shape[1] for sign in (1, -1))
    n = float(sizes.mean())
    if changed[..., 0].size > 1:
        up, down = (gained + 0.5) / (sizes + 2), (lost + 0.5) / (sizes + 2)
        shown = _at_least(spread, (up + down - (up - down) ** 2) / (sizes + 2), changed.shape[1])
        n = _items((up.mean() + down.mean() - (up.mean() - down.mean()) ** 2) / shown, free, sizes)
    return paired_shares_interval(float((lost / sizes).mean()) * n, float((gained / sizes).mean()) * n, n)


def _at_least(spread: float, simple: Floats, seeds: int) -> float:
    """A variance, but at least that of languages and seeds that are independent.

    Without any variation no more is known than from one language and seed. `simple` are the languages' variances, (L,),
    of one seed and independent items.
    """
    return float(simple.mean()) if spread == 0 else max(spread, float(simple.mean()) / len(simple) / seeds)


def _items(n: float, freedom: float, sizes: NDArray[np.int64]) -> float:
    """The number of items of a known variance that n items of an estimated variance are worth; of one item, one."""
    return n * (Z / _quantile(freedom)) ** 2 if sizes.max() > 1 else 1.0


def _quantile(freedom: float) -> float:
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def _t_interval(value: float, spread: float, freedom: float) -> tuple[float, float]:
    half = _quantile(freedom) * math.sqrt(spread)
    return value - half, value + half


def paired_shares_interval(lost: float, gained: float, n: float) -> tuple[float, float]:
    """Score interval of a difference of two shares of the same n items (Tango, Statistics in Medicine 17, 1998).

    The difference is (gained - lost) / n: items right with the second only, and with the first only. Its lower limit
    above -margin is Tango's test of non-inferiority, whose size stays below 2.5 % where that of a t test reaches 12 %.
    """
    difference = (gained - lost) / n

    def score(delta: float) -> float:
        a, b = 2 * n, -gained - lost + (2 * n - gained + lost) * delta
        c = -lost * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 4 * a * c, 0)) - b) / (2 * a)
        return (gained - lost - n * delta) / math.sqrt(max(n * (2 * q + delta * (1 - delta)), 1e-300))

    low = brentq(lambda delta: score(delta) - Z, -1, difference) if difference > -1 else -1
    high = brentq(lambda delta: score(delta) + Z, difference, 1) if difference < 1 else 1
    return float(low), float(high)


def is_kept(low: float, high: float, margin: float, better: str) -> bool:
    """Whether a metric did not get worse by the margin or more: a test of non-inferiority of size 2.5 %, one-sided.

    Args:
        low: of the interval of the difference to base.
        high: of the same.
        margin: > 0.
        better: "↑" or "↓"; "" if neither is known to be better: then it must not change by the margin either way.
    """
    return (better == "↓" or low > -margin) and (better == "↑" or high < margin)


def mcnemar(base: ArrayLike, other: ArrayLike) -> float:
    """Exact McNemar test of two (n,) booleans on the same items: p of as uneven a split of those that changed."""
    base, other = np.asarray(base, dtype=bool), np.asarray(other, dtype=bool)
    table = [[np.sum(base & other), np.sum(base & ~other)], [np.sum(~base & other), np.sum(~base & ~other)]]
    return float(mcnemar_test(table, exact=True).pvalue)


def null_deviations(base: Sample, other: Sample) -> tuple[Floats, Floats]:
    """The (n,) deviations of base and of other (its seeds' mean) from what they score together, over the languages.

    What they score together stays the same when a question's results are swapped, so that `paired_permutation` of these
    is exact for ratios, too. They add up to other - base where the denominators are equal.
    """
    above = np.stack([base.numerators.mean(1), other.numerators.mean(1)])
    below = np.stack([base.denominators.mean(1), other.denominators.mean(1)])
    size = below.sum((0, 2))[:, None]
    common = above.sum((0, 2))[:, None] / size
    first, second = ((above - common * below) / (size / 2)).mean(1)
    return first, second


def paired_permutation(base: ArrayLike, other: ArrayLike, seed: int = 0) -> Floats:
    """Permutation test of the difference of two sums over the same items, swapping within items.

    Exact where all 2^n swaps are no more than `SWAPS`, else by that many random ones. (scipy's permutation_test draws
    the swaps for each test anew and takes some hundred times as long for the tests of a table.)

    Args:
        base: (n,), or (n, T) for T tests on the same swaps.
        other: the same.

    Returns:
        (), or (T,).
    """
    difference = np.asarray(other, dtype=float) - np.asarray(base, dtype=float)
    columns = difference.reshape(len(difference), -1)
    columns = columns[columns.any(axis=1)]
    n, total = len(columns), columns.sum(0)
    reach = np.abs(total) - 1e-9 * np.abs(columns).sum(0)  # as far out, but for rounding

    def as_far(swapped: NDArray[np.generic]) -> NDArray[np.int64]:
        return np.asarray((np.abs(total - 2 * (swapped.astype(float) @ columns)) >= reach).sum(0))

    if 2**n <= SWAPS:
        p = as_far((np.arange(2**n)[:, None] >> np.arange(n)) & 1) / 2**n
    else:
        rng, count = np.random.default_rng(seed), np.ones(columns.shape[1])
        for start in range(0, SWAPS, 1000):
            size = min(1000, SWAPS - start)
            bits = np.frombuffer(rng.bytes(size * -(-n // 8)), dtype=np.uint8).reshape(size, -1)
            count += as_far(np.unpackbits(bits, axis=1, count=n))
        p = count / (SWAPS + 1)
    return np.asarray(p.reshape(difference.shape[1:]))


def seeds_test(base: Sample, other: Sample) -> float:
    """Student's t test of other - base over seeds and items, both random (`variance`)."""
    spread, free = variance(other.deviations - base.deviations, other.weights)
    difference = other.value - base.value
    if spread == 0:
        return float(difference == 0)
    if math.isnan(spread):  # a single item
        return 1.0
    return float(2 * t.sf(abs(difference) / math.sqrt(spread), free))


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's (1979) step-down adjustment of a family of m ≥ 1 p-values: (m,), in the order given."""
    return np.asarray(multipletests(p_values, method="holm")[1])
