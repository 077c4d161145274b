"""Intervals and paired tests over evaluation items. All intervals are at the 95 % level; all tests are two-sided."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr, stdtr, stdtrit
from scipy.stats import bootstrap
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
RESAMPLES = 9999
SWAPS = 99_999  # of a permutation test, if there are more
CHUNK = 1000  # swaps at a time
HALF = 0.5  # of an item: smooths the jump of an interval between no and one differing answer
# Correlation of the half items between languages and seeds. For means over six languages (docs/measures/coverage.md)
# the coverage is too high with 1/3. With 0 it is too low if questions are equally hard in all languages.
ALIKE = 1 / 5
TAIL = (1 - CONFIDENCE) / 2  # level of a one-sided test
FAMILY_WISE = 0.05  # level of all tests of a family together
Floats = NDArray[np.float64]


def proportion_interval(k: float, n: float) -> tuple[float, float]:
    """Wilson score interval (1927) of k successes in n > 0 trials; it stays in [0, 1], also for k = 0 and k = n."""
    low, high = proportion_confint(k, n, alpha=1 - CONFIDENCE, method="wilson")
    # Exactly 0 and 1, without rounding errors such as 7e-18.
    return 0.0 if k == 0 else float(low), 1.0 if k == n else float(high)


def harmonic_items(first: Sequence[float], second: Sequence[float | None]) -> list[float | None]:
    """Spread the harmonic mean of two means over their n items, so that it has an interval and paired tests.

    With means a and b, H = 2ab/(a+b) is linear in each mean to first order (delta method). Item i with values x and y
    gets H + 2 (b/(a+b))² (x - a) + 2 (a/(a+b))² (y - b) n/m, where m items have a y; without y the last term is 0. The
    mean of these values is H. A single one may lie outside of the range of x and y.

    Args:
        first: x of each item, from 0.
        second: y of each item, from 0; None if it is unknown.

    Returns:
        One value per item; None for each if no y is known.
    """
    known = [value for value in second if value is not None]
    if not known:
        return [None] * len(first)
    a, b = math.fsum(first) / len(first), math.fsum(known) / len(known)
    if a + b == 0:
        return [0.0] * len(first)
    slope, other = 2 * (b / (a + b)) ** 2, 2 * (a / (a + b)) ** 2 * len(first) / len(known)
    return [
        2 * a * b / (a + b) + slope * (x - a) + (0.0 if y is None else other * (y - b))
        for x, y in zip(first, second, strict=True)
    ]


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """BCa bootstrap interval (Efron 1987) of sum(numerators) / sum(denominators), such as nats per token; (n,) items.

    Items are drawn whole, each numerator with its denominator. The percentiles are widened by the ratio of a t interval
    to a normal interval for n items (Hesterberg, The American Statistician 69, 2015). Without this, the coverage with
    24 items is about 92 %. The interval is a point if all items have the same ratio.
    """
    numerators, denominators = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    point = float(numerators.sum() / denominators.sum())
    if np.allclose(numerators, point * denominators, rtol=1e-12, atol=0):
        return point, point
    n = len(numerators)
    # With two items the level would be 1, for which BCa is not defined: they get the range of the resamples.
    confidence = min(2 * float(ndtr(math.sqrt(n / (n - 1)) * _quantile(n - 1.0))) - 1, 1 - 1e-12)
    interval = bootstrap(
        (numerators, denominators),
        lambda above, below, axis: above.sum(axis) / below.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Sample:
    """The items behind a score, or behind the mean of the scores of L languages.

    Each language's score is a ratio of sums over all S seeds and n items. The denominators are ones for a mean or a
    share, and numbers of tokens for nats per token. Index i is the same question in all languages and seeds, so these
    items are not independent.

    Attributes:
        numerators: (L, S, n).
        denominators: (L, S, n). Both are 0 for an item without a score.
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
        """Whether every item is 0 or 1, and has weight 1 or does not count."""
        return bool(np.isin(self.numerators, (0, 1)).all() and np.isin(self.denominators, (0, 1)).all())

    @property
    def weights(self) -> Floats:
        """Weight of each question, (n,); the weights add up to 1."""
        of_item = self.denominators.mean(1)
        return np.asarray((of_item / of_item.sum(1, keepdims=True)).mean(0))

    @property
    def counts(self) -> Floats:
        """Denominator of each language's score, mean over seeds, (L,); for a share it is the number of items."""
        return np.asarray(self.denominators.sum(2).mean(1))

    @property
    def of_languages(self) -> Floats:
        """First-order contribution of each answer to the error of its language's score, (L, S, n).

        It is (num - score * den) / sum(den). Summed over n and averaged over S it is 0.
        """
        error = self.numerators - self.scores[:, None, None] * self.denominators
        return np.asarray(error / self.counts[:, None, None])

    @property
    def deviations(self) -> Floats:
        """First-order contribution of each seed's answer to each question to the error of the value, (S, n)."""
        return np.asarray(self.of_languages.mean(0))


@dataclass(frozen=True)
class Components:
    """The components of a score's variance: seeds and items are crossed random effects.

    Attributes:
        items: variance of the items' means over the seeds; it includes the interaction of seeds and items.
        between: variance of the seeds' means; it includes the same interaction, and is 0 for a single seed.
        mixed: variance of the interaction.
        seeds: S.
        n: number of items.
        freedom: degrees of freedom of `items`.
    """

    items: float
    between: float
    mixed: float
    seeds: int
    n: int
    freedom: float

    @property
    def of_seeds(self) -> float:
        """Variance that other seeds add to the variance of the items; never negative."""
        return max(0.0, self.between - self.mixed)

    def spread(self, items: float, quantile: float) -> float:
        """Variance of the items and of other seeds together, scaled so that `quantile` is right for their sum.

        The right quantile of the sum is the mean of both t quantiles, weighted by the variances (Cochran and Cox,
        Experimental Designs, 1957, section 4.14). It changes without a jump between seeds that agree and seeds that
        differ. With Satterthwaite's degrees of freedom instead, the coverage with three seeds is 92 % if the seeds
        vary as much as the items' means.

        Args:
            items: variance of the items, possibly smoothed.
            quantile: quantile of t, for the items.
        """
        total = items + self.of_seeds
        if self.of_seeds == 0:
            return total
        weighted = (quantile * items + _quantile(self.seeds - 1.0) * self.of_seeds) / total
        return total * (weighted / quantile) ** 2


def components(deviations: Floats, weights: Floats) -> Components:
    """Split the variance of a score between items and seeds.

    The degrees of freedom account for kurtosis: a hundred answers with three wrong ones estimate the variance as poorly
    as six normal observations.

    Args:
        deviations: (S, n), `Sample.deviations` or the difference of two of them.
        weights: (n,), `Sample.weights`; at least two of them are positive.
    """
    seeds, n = len(deviations), int((weights > 0).sum())
    of_seed, of_item = deviations.sum(1), deviations.mean(0)
    items = float(of_item @ of_item) * n / (n - 1)
    heavy = float((of_item**4).sum()) - items**2 / n
    freedom = min(n - 1.0, 2 * items**2 / heavy) if heavy > 0 else n - 1.0
    if seeds == 1:
        return Components(items, 0.0, 0.0, 1, n, freedom)
    rest = deviations - of_item - of_seed[:, None] * weights
    between = float(of_seed @ of_seed) / ((seeds - 1) * seeds)
    mixed = float((rest**2).sum()) / ((seeds - 1) * seeds) * n / (n - 1)
    return Components(items, between, mixed, seeds, n, freedom)


def half_width(deviations: Floats, weights: Floats) -> float:
    """Half the width of an interval over items, and over seeds if there are several; nan for a single item.

    With a single seed the interval does not cover other seeds. A hierarchical bootstrap of seeds and items has a
    coverage between 83 and 99 % with three seeds, because the range of three seeds contains the true mean in only 75 %
    of all cases.

    Args:
        deviations: (S, n), `Sample.deviations` or the difference of two of them.
        weights: (n,), `Sample.weights`.
    """
    if (weights > 0).sum() < 2:
        return math.nan
    parts = components(deviations, weights)
    quantile = _quantile(parts.freedom)
    return quantile * math.sqrt(parts.spread(parts.items, quantile))


def interval(sample: Sample) -> tuple[float, float]:
    """Interval of a sample's value over items, and over seeds if there are several (`half_width`).

    Numbers have Student's t. Shares have Wilson's interval with the effective number of items, which gives the same
    variance (Korn and Graubard, 1998), smoothed (`_items`). For one language and one seed it is Wilson's interval.
    """
    if not sample.is_share:
        return _around(sample.value, half_width(sample.deviations, sample.weights))
    sizes = sample.counts
    smooth = (sample.scores * sizes + HALF) / (sizes + 2 * HALF)
    half_items, mean = HALF * ((1 - smooth) ** 2 + smooth**2), float(smooth.mean())
    n = _items(sample.deviations, sample.weights, sizes, 2 * HALF, smooth * (1 - smooth), half_items, mean * (1 - mean))
    return proportion_interval(sample.value * n, n)


def difference_interval(base: Sample, other: Sample) -> tuple[float, float]:
    """Interval of other - base over the same items, and over seeds if there are several (`half_width`).

    If both sides have several seeds, the seeds are the same; otherwise one side has a single seed. An item may count on
    one side only, if the metric is not defined for all items. Then the difference is a difference of two ratios. Its
    variance comes from their linearisation, with the covariance of the items that count on both sides (Cochran,
    Sampling Techniques, 1977, section 6.19). The comparison thus includes a method's effect on which items count.

    Numbers have Student's t. Shares have `paired_shares_interval` with the effective number of items, which gives the
    same variance, smoothed (`_items`). If items count on one side only, the shares gained and lost are chosen to give
    the difference its variance.
    """
    if not (base.is_share and other.is_share):
        deviations, weights = other.deviations - base.deviations, (base.weights + other.weights) / 2
        return _around(other.value - base.value, half_width(deviations, weights))
    return paired_shares_interval(*_lost_and_gained(base, other))


def _lost_and_gained(base: Sample, other: Sample) -> tuple[float, float, float]:
    """Shares as (lost, gained, n) of `paired_shares_interval`, with the effective number of items."""
    change = other.scores - base.scores
    deviations, weights = other.deviations - base.deviations, (base.weights + other.weights) / 2
    sizes = 2 / (1 / base.counts + 1 / other.counts)
    squares = (other.of_languages - base.of_languages) ** 2
    changed = np.clip(squares.sum(2).mean(1) * sizes + change**2, np.abs(change), 1)
    both, net = (changed * sizes + HALF) / (sizes + HALF), change * sizes / (sizes + HALF)
    whole = float(both.mean() - net.mean() ** 2)
    n = _items(deviations, weights, sizes, HALF, both - net**2, HALF * (1 + net**2), whole)
    gained, lost = ((changed + sign * change).mean() / 2 for sign in (1, -1))
    return float(lost) * n, float(gained) * n, n


def _items(
    deviations: Floats, weights: Floats, sizes: Floats, more: float, simple: Floats, half_items: Floats, whole: float
) -> float:
    """Effective number of items: how many random items of one language and seed give the same variance of a share.

    Without smoothing, this number would jump, because equal answers have no variance. Each language therefore gets half
    items in addition: a right one and a wrong one, or for a difference one that is gained and lost in equal parts.
    Their answers have the correlation `ALIKE` between languages and seeds. The design effect is bounded: all languages
    and seeds together give at most as much information as independent ones, and at least as much as a single one. The
    variance of other seeds is added.

    Args:
        deviations: (S, n), `components`.
        weights: (n,).
        sizes: number of items in each language, (L,).
        more: number of items that the half items add.
        simple: smoothed variance of a single answer in each language, (L,).
        half_items: sum of squares that the half items add in each language, (L,).
        whole: smoothed variance of a single answer over all languages together.
    """
    n = int((weights > 0).sum())
    if n < 2:
        return float(n)
    parts, smoothed = components(deviations, weights), sizes + more
    shrink, answers = float((sizes / smoothed).mean()), len(sizes) * len(deviations)
    independent, alike = _bounds(simple / smoothed, answers)
    least, most = _bounds(half_items / smoothed**2, answers)
    items = parts.items * (n - 1) / n * shrink**2 + (1 - ALIKE) * least + ALIKE * most
    items = min(max(items, independent), alike)
    return whole * shrink / parts.spread(items, _quantile(n - 1.0))


def _bounds(variances: Floats, answers: int) -> tuple[float, float]:
    """Variance of a mean over languages, for (L,) variances, in two cases: answers to a question are independent, or
    equal."""
    return float(variances.mean()) / answers, float(np.sqrt(variances).mean() ** 2)


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _around(value: float, half: float) -> tuple[float, float]:
    return value - half, value + half


def paired_shares_interval(lost: float, gained: float, n: float) -> tuple[float, float]:
    """Interval of a difference of two shares of the same n items, from the intervals of the shares gained and lost.

    The difference is (gained - lost) / n. `gained` items are right only with the second, `lost` items only with the
    first. Both shares have Jeffreys's interval (Brown, Cai and DasGupta, Statistical Science 16, 2001), which adds half
    an item to either side. The two intervals are joined with the correlation of multinomial shares (Zou and Donner,
    Statistics in Medicine 27, 2008). The result does not jump between no and one differing item. With 24 items the
    score interval (Tango, Statistics in Medicine 17, 1998) covers the true difference in 98 of 100 cases, this interval
    in 97.
    """
    shares = lost / n, gained / n
    (lost_low, lost_high), (gained_low, gained_high) = _jeffreys(lost, n), _jeffreys(gained, n)
    rest = [share / (1 - share) if share < 1 else 0.0 for share in shares]
    correlation = -math.sqrt(rest[0] * rest[1])
    difference = shares[1] - shares[0]

    def reach(of_gained: float, of_lost: float) -> float:
        return math.sqrt(max(0.0, of_gained**2 + of_lost**2 - 2 * correlation * of_gained * of_lost))

    low = difference - reach(shares[1] - gained_low, lost_high - shares[0])
    return low, difference + reach(gained_high - shares[1], shares[0] - lost_low)


def _jeffreys(k: float, n: float) -> tuple[float, float]:
    """Jeffreys's interval of a share of k of n."""
    rest = max(0.0, n - k)
    low, high = (float(betaincinv(k + HALF, rest + HALF, level)) for level in (TAIL, 1 - TAIL))
    return 0.0 if k == 0 else low, 1.0 if rest == 0 else high


def _tango(lost: float, gained: float, n: float, delta: float) -> float:
    """Tango's score statistic of the hypothesis that the difference of two shares of the same items is delta."""
    a, b = 2 * n, -gained - lost + (2 * n - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    q = (math.sqrt(max(b * b - 4 * a * c, 0)) - b) / (2 * a)
    return (gained - lost - n * delta) / math.sqrt(max(n * (2 * q + delta * (1 - delta)), 1e-300))


def non_inferiority_p(base: Sample, other: Sample, margin: float) -> float:
    """One-sided p of the hypothesis that other - base is -margin or less; nan for a single item that is no share.

    Shares have Tango's score test (Statistics in Medicine 17, 1998). The size of this test stays below 2.5 %. A test by
    the interval's lower limit has a size of 3 % with 200 items, and up to 8 % with 24. The size of a t test can reach
    12 %.
    """
    if base.is_share and other.is_share:
        return float(ndtr(-_tango(*_lost_and_gained(base, other), -margin)))
    deviations, weights = other.deviations - base.deviations, (base.weights + other.weights) / 2
    half, beyond = half_width(deviations, weights), other.value - base.value + margin
    if math.isnan(half):
        return math.nan
    freedom = components(deviations, weights).freedom
    distance = beyond * _quantile(freedom) / half if half else math.copysign(math.inf, beyond)
    return float(stdtr(freedom, -distance))


def paired_p(base: Sample, other: Sample) -> float:
    """Two-sided p of the difference: `exact_p`, or random swaps if there is no exact p."""
    exact = exact_p(base, other)
    return float(paired_permutation(*null_deviations(base, other))) if exact is None else exact


def is_kept(base: Sample, other: Sample, margin: float, better: str) -> bool:
    """Whether a metric got worse by less than the margin: a one-sided test of non-inferiority of size 2.5 %.

    Args:
        base: the samples, as in `difference_interval`.
        other: the samples, as in `difference_interval`.
        margin: > 0.
        better: "↑" or "↓"; "" if neither direction is better. Then the change must be below the margin in both
            directions.
    """
    higher = better == "↓" or non_inferiority_p(base, other, margin) <= TAIL
    return higher and (better == "↑" or non_inferiority_p(other, base, margin) <= TAIL)


def exact_p(base: Sample, other: Sample) -> float | None:
    """Two-sided exact p of the difference between these checkpoints and base; None if it needs random swaps.

    The same rule holds for all methods: a question's result, the mean over seeds and languages, swaps places with
    base's result (Fisher's randomisation test). For shares of the same items, p is exact; with one seed and language it
    is the exact McNemar test. In all other cases use random swaps (`paired_permutation` of `null_deviations`).

    The seeds are fixed, so p says nothing about other seeds. The test is exact if a question's two results are
    exchangeable. If base has one seed and the method several, this holds only in large samples; tests simulate the
    level with 24 questions.
    """
    steps = _steps(base, other)
    return None if steps is None else exact_permutation(steps)


def _steps(base: Sample, other: Sample) -> NDArray[np.int64] | None:
    """Each question's difference as a whole number of common units, (n,); None if there is no common unit."""
    if not (base.is_share and other.is_share):
        return None
    counted = base.denominators[:, :1]
    same = (base.denominators == counted).all() and (other.denominators == counted).all()
    if not same or len(set(base.counts)) > 1:
        return None
    before, after = base.numerators.sum((0, 1)), other.numerators.sum((0, 1))
    return np.asarray(after * base.seeds - before * other.seeds).round().astype(np.int64)


def exact_permutation(steps: NDArray[np.int64]) -> float:
    """Exact p of the sum of (n,) whole numbers under random signs: the share of the 2^n sums that are as far from 0.

    For steps of -1, 0 and 1 it is the exact McNemar test. The distribution of the sum is built one step at a time.
    """
    sizes = np.abs(steps[steps != 0])
    sizes = sizes // (np.gcd.reduce(sizes) if len(sizes) else 1)
    reach = abs(int(steps.sum())) // int(np.gcd.reduce(steps) or 1)
    chances = np.ones(1)
    for size in sizes:
        shift = np.zeros(2 * size)
        chances = (np.concatenate([chances, shift]) + np.concatenate([shift, chances])) / 2
    sums = np.arange(len(chances)) - int(sizes.sum())
    return float(min(1.0, chances[np.abs(sums) >= reach].sum()))


def null_deviations(base: Sample, other: Sample) -> tuple[Floats, Floats]:
    """The (n,) deviations of base and of other (mean over its seeds) from their pooled score, over the languages.

    The pooled score stays the same if a question's results are swapped, so `paired_permutation` of the deviations is
    also exact for ratios. If the denominators are equal, the difference of the deviations adds up to other - base.
    """
    above = np.stack([base.numerators.mean(1), other.numerators.mean(1)])
    below = np.stack([base.denominators.mean(1), other.denominators.mean(1)])
    size = below.sum((0, 2))[:, None]
    common = above.sum((0, 2))[:, None] / size
    first, second = ((above - common * below) / (size / 2)).mean(1)
    return first, second


def paired_permutation(base: ArrayLike, other: ArrayLike, seed: int = 0) -> Floats:
    """Permutation test of the difference of two sums over the same items, swapping within items.

    The test is exact if there are at most `SWAPS` swaps (2^n); otherwise it uses `SWAPS` random swaps. All tests share
    the same swaps; scipy's permutation_test would draw new ones for each test.

    Args:
        base: (n,), or (n, T) for T tests on the same swaps.
        other: as `base`.

    Returns:
        (), or (T,).
    """
    differences = np.asarray(other, dtype=float) - np.asarray(base, dtype=float)
    return max_t(differences.reshape(len(differences), -1), seed).p.reshape(differences.shape[1:])


@dataclass(frozen=True)
class Family:
    """The tests of a family (`max_t`).

    Attributes:
        p: the unadjusted p of each test, (T,).
        adjusted: the p adjusted for the family, (T,).
        needed: number of items that must change, all in one direction, for a test to be significant.
    """

    p: Floats
    adjusted: Floats
    needed: int


def max_t(differences: Floats, seed: int = 0) -> Family:
    """Step-down maxT of T paired tests on n items (Westfall and Young, Resampling-Based Multiple Testing, 1993).

    An item's differences change their sign together in all tests, so the correlation of the tests is kept. The
    statistic is |sum d| / sqrt(sum d²); its denominator does not depend on the signs. For a test in which k items
    differ, the statistic is at most sqrt(k), so a test that cannot be significant does not reduce the power of the
    others. The family-wise error is kept in large samples. For a single test this is the exact permutation test.

    Args:
        differences: (n, T), such as the differences of `null_deviations`; 0 for an item that is not in a test.
        seed: seed of the signs. If there are at most `SWAPS` combinations of signs (2^n), all are used instead.
        alpha: family-wise level, for `needed`.
    """
    columns = differences[differences.any(axis=1)]
    sizes = np.sqrt((columns**2).sum(0))
    columns = columns / np.where(sizes > 0, sizes, 1)
    order = np.argsort(-np.abs(columns.sum(0)), kind="stable")
    columns = columns[:, order]
    total = columns.sum(0)
    reach = np.abs(total) - 1e-9  # as far out, but for rounding
    alone, stepped, largest = np.zeros(len(order)), np.zeros(len(order)), []
    for swapped in _swaps(len(columns), seed):
        found = np.abs(total - 2 * (swapped.astype(float) @ columns))
        alone += (found >= reach).sum(0)
        of_rest = np.maximum.accumulate(found[:, ::-1], axis=1)[:, ::-1]  # of each test and all that are less far out
        stepped += (of_rest >= reach).sum(0)
        largest.append(of_rest[:, 0])
    drawn, itself = sum(map(len, largest)), 0 if 2 ** len(columns) <= SWAPS else 1
    p, adjusted = np.empty((2, len(order)))
    p[order] = (alone + itself) / (drawn + itself)
    adjusted[order] = np.maximum.accumulate((stepped + itself) / (drawn + itself))
    return Family(p, adjusted, _needed(np.concatenate(largest)))


def _swaps(n: int, seed: int) -> Iterator[NDArray[np.generic]]:
    """Which of n items swap, (≤ CHUNK, n) of 0 and 1: all combinations if there are at most `SWAPS`, otherwise random
    ones."""
    if 2**n <= SWAPS:
        yield (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return
    rng = np.random.default_rng(seed)
    for start in range(0, SWAPS, CHUNK):
        size = min(CHUNK, SWAPS - start)
        bits = np.frombuffer(rng.bytes(size * -(-n // 8)), dtype=np.uint8).reshape(size, -1)
        yield np.unpackbits(bits, axis=1, count=n)


def _needed(largest: Floats) -> int:
    """How many items must change alike: k of them give a statistic of sqrt(k), and by themselves a p of 2^(1 - k)."""
    k = math.ceil(1 - math.log2(FAMILY_WISE) - 1e-9)
    while (largest >= math.sqrt(k) - 1e-9).mean() > FAMILY_WISE:
        k += 1
    return k


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's (1979) step-down adjustment of a family of m ≥ 1 p-values: (m,), in the order given."""
    return np.asarray(multipletests(p_values, method="holm")[1])


def is_equivalent(low: float, high: float, margin: float) -> bool:
    """Whether a difference lies within the margin in both directions: two one-sided tests (Schuirmann, 1987) of size
    2.5 %.

    Args:
        low: lower end of the 95 % interval of the difference.
        high: upper end of the same interval.
        margin: > 0.
    """
    return -margin < low and high < margin
