"""Intervals and paired tests over evaluation items; all intervals are at the 95 % level, all tests two-sided."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import bootstrap, norm, t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
RESAMPLES = 9999
SWAPS = 99_999  # of a permutation test: Holm's correction of a whole table needs p-values well below 1e-4
Z = float(norm.ppf((1 + CONFIDENCE) / 2))
HALF = 0.5  # of an item: smooths what would jump between nothing and one thing that differs
# Correlation that the half items have between languages and seeds. Coverage of means over six languages (docs/measures/
# coverage.md) is too high with 1, and too low with 0 where questions are equally hard in all languages.
ALIKE = 1 / 3
Floats = NDArray[np.float64]


def proportion_interval(k: float, n: float) -> tuple[float, float]:
    """Wilson score interval of k successes in n > 0 trials (1927), which stays in [0, 1] and serves k = 0 and n too."""
    low, high = proportion_confint(k, n, alpha=1 - CONFIDENCE, method="wilson")
    # Not 7e-18, and not 1 but for a rounding.
    return 0.0 if k == 0 else float(low), 1.0 if k == n else float(high)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """BCa bootstrap interval (Efron 1987) of sum(numerators) / sum(denominators), such as nats a token; (n,) items.

    Items are drawn whole, each numerator with its denominator. The percentiles are moved outwards as far as a t
    interval is wider than a normal one with the variance of the n items (Hesterberg, The American Statistician 69,
    2015): without that, 24 items are covered about 92 %. One point if the ratio is the same in all items.
    """
    numerators, denominators = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    point = float(numerators.sum() / denominators.sum())
    if np.allclose(numerators, point * denominators, rtol=1e-12, atol=0):
        return point, point
    n = len(numerators)
    # Of two items it would be 1, where BCa is not defined; so they have the range of the resamples.
    confidence = min(2 * float(norm.cdf(math.sqrt(n / (n - 1)) * _quantile(n - 1.0))) - 1, 1 - 1e-12)
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
    def counts(self) -> Floats:
        """What each language's score is divided by, the mean over seeds, (L,); of a share its number of items."""
        return np.asarray(self.denominators.sum(2).mean(1))

    @property
    def of_languages(self) -> Floats:
        """What each answer adds to the error of its language's score, to first order, (L, S, n).

        (num - score * den) / sum(den), which sums over n and averages over S to 0.
        """
        error = self.numerators - self.scores[:, None, None] * self.denominators
        return np.asarray(error / self.counts[:, None, None])

    @property
    def deviations(self) -> Floats:
        """What each seed's answer to each question adds to the error of the value, to first order, (S, n)."""
        return np.asarray(self.of_languages.mean(0))


@dataclass(frozen=True)
class Components:
    """What the variance of a score is made of: seeds and items are crossed random effects.

    Attributes:
        items: variance of the items' means over the seeds, which contains the seeds' interaction with them.
        between: variance of the seeds' means, which contains the same interaction; 0 of a single seed.
        mixed: variance of that interaction.
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
        """Variance that other seeds would add to that of the items; never negative."""
        return max(0.0, self.between - self.mixed)

    def spread(self, items: float, quantile: float) -> float:
        """Variance of the items and of other seeds, as large as makes `quantile` fit both.

        The quantile of their sum is the mean of both quantiles, weighted by the variances (Cochran and Cox,
        Experimental Designs, 1957, section 4.14), which moves without a jump from a score whose seeds agree to one
        whose seeds do not. With Satterthwaite's degrees of freedom instead, three seeds are covered 92 % where they
        differ as much as the items' means do.

        Args:
            items: variance of the items, perhaps smoothed.
            quantile: of t, for the items.
        """
        total = items + self.of_seeds
        if self.of_seeds == 0:
            return total
        weighted = (quantile * items + _quantile(self.seeds - 1.0) * self.of_seeds) / total
        return total * (weighted / quantile) ** 2


def components(deviations: Floats, weights: Floats) -> Components:
    """Split the variance of a score between items and seeds.

    The items count as a normal sample with their kurtosis: a hundred answers of which three are wrong tell the variance
    as badly as six normal ones.

    Args:
        deviations: (S, n), `Sample.deviations` or the difference of two such.
        weights: (n,), `Sample.weights`; two items at least that weigh something.
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
    """Half the width of an interval over items, and over seeds where there are several; nan for a single item.

    With a single seed it says nothing of other seeds. Resampling seeds and items instead (the hierarchical bootstrap)
    covers between 83 and 99 % with three seeds, whose extremes alone hold the true mean 75 times in 100.

    Args:
        deviations: (S, n), `Sample.deviations` or the difference of two such.
        weights: (n,), `Sample.weights`.
    """
    if (weights > 0).sum() < 2:
        return math.nan
    parts = components(deviations, weights)
    quantile = _quantile(parts.freedom)
    return quantile * math.sqrt(parts.spread(parts.items, quantile))


def interval(sample: Sample) -> tuple[float, float]:
    """Interval of a sample's value over items, and over seeds where there are several (`half_width`).

    Student's t; for shares Wilson's interval with the number of items that has the same variance (Korn and Graubard,
    1998), smoothed (`_items`). Of one language and one seed it is Wilson's interval.
    """
    if not sample.is_share:
        return _around(sample.value, half_width(sample.deviations, sample.weights))
    sizes = sample.counts
    smooth = (sample.scores * sizes + HALF) / (sizes + 2 * HALF)
    half_items, mean = HALF * ((1 - smooth) ** 2 + smooth**2), float(smooth.mean())
    n = _items(sample.deviations, sample.weights, sizes, 2 * HALF, smooth * (1 - smooth), half_items, mean * (1 - mean))
    return proportion_interval(sample.value * n, n)


def difference_interval(base: Sample, other: Sample) -> tuple[float, float]:
    """Interval of other - base over the same items, and over seeds where there are several (`half_width`).

    Where both have several seeds these are the same ones; else one of them has a single one. An item may count on one
    side alone, where the score is a share or a ratio of what counts: then the difference is that of two ratios, and its
    variance that of their linearisation with the covariance of items that count on both sides (Cochran, Sampling
    Techniques, 1977, section 6.19). So what a method does to which items count is part of the comparison.

    Student's t; for shares Tango's interval (`paired_shares_interval`) with the number of items that has the same
    variance, smoothed (`_items`). Where items count on one side alone, the shares gained and lost are those that give
    the difference its variance. Of one language, one seed and the same items it is Tango's interval.
    """
    difference = other.value - base.value
    deviations, weights = other.deviations - base.deviations, (base.weights + other.weights) / 2
    if not (base.is_share and other.is_share):
        return _around(difference, half_width(deviations, weights))
    sizes = 2 / (1 / base.counts + 1 / other.counts)
    change = other.scores - base.scores
    squares = (other.of_languages - base.of_languages) ** 2
    changed = np.clip(squares.sum(2).mean(1) * sizes + change**2, np.abs(change), 1)
    both, net = (changed * sizes + HALF) / (sizes + HALF), change * sizes / (sizes + HALF)
    whole = float(both.mean() - net.mean() ** 2)
    n = _items(deviations, weights, sizes, HALF, both - net**2, HALF * (1 + net**2), whole)
    gained, lost = ((changed + sign * change).mean() / 2 for sign in (1, -1))
    return paired_shares_interval(float(lost) * n, float(gained) * n, n)


def _items(
    deviations: Floats, weights: Floats, sizes: Floats, more: float, simple: Floats, half_items: Floats, whole: float
) -> float:
    """The number of items of one language and seed, drawn at random, that tell as much of a share as these do.

    Without smoothing it would jump: answers of which none differs have no variance at all. So each language is given
    half items more, a right one and a wrong one, or for a difference one that is as much gained as lost. Their answers
    are correlated by `ALIKE` between languages and seeds. The design effect is bounded: languages and seeds tell no
    more than independent ones, and no less than one of them (other seeds' variance comes on top).

    Args:
        deviations: (S, n), `components`.
        weights: (n,).
        sizes: number of items in each language, (L,).
        more: how many items the half items are.
        simple: smoothed variance of a single answer in each language, (L,).
        half_items: sum of squares that the half items add in each language, (L,).
        whole: smoothed variance of a single answer, all languages taken together.
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
    """Variance of the mean over languages of (L,) variances: all answers to a question independent, or all alike."""
    return float(variances.mean()) / answers, float(np.sqrt(variances).mean() ** 2)


def _quantile(freedom: float) -> float:
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def _around(value: float, half: float) -> tuple[float, float]:
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


def exact_p(base: Sample, other: Sample) -> float | None:
    """Two-sided exact p of whether the checkpoints at hand answer such questions otherwise than base; None if unknown.

    There is one rule for all methods: a question's results, the mean over seeds and languages, change places with
    base's (Fisher's randomisation test). For shares of the same items p is exact; of one seed and language this is the
    exact McNemar test. Else it takes random swaps (`paired_permutation` of `null_deviations`).

    The seeds are held fixed, as they must be where there is one: p says nothing of other seeds. The test is exact if a
    question's two results could have changed places. With base's one seed against the mean of several it is so in large
    samples only; tests simulate its level with 24 questions.
    """
    steps = _steps(base, other)
    return None if steps is None else exact_permutation(steps)


def _steps(base: Sample, other: Sample) -> NDArray[np.int64] | None:
    """Each question's difference, (n,), in units of which all are multiples; None if there are none."""
    if not (base.is_share and other.is_share):
        return None
    counted = base.denominators[:, :1]
    same = (base.denominators == counted).all() and (other.denominators == counted).all()
    if not same or len(set(base.counts)) > 1:
        return None
    before, after = base.numerators.sum((0, 1)), other.numerators.sum((0, 1))
    return np.asarray(after * base.seeds - before * other.seeds).round().astype(np.int64)


def exact_permutation(steps: NDArray[np.int64]) -> float:
    """Exact p of the sum of (n,) whole numbers, had each of them either sign: the share of the 2^n sums as far from 0.

    For steps of -1, 0 and 1 it is the exact McNemar test. The distribution of the sum is built up a step at a time.
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


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's (1979) step-down adjustment of a family of m ≥ 1 p-values: (m,), in the order given."""
    return np.asarray(multipletests(p_values, method="holm")[1])


def needed_changes(tests: int, alpha: float = 0.05) -> int:
    """How many questions must change, all for the better, so that the smallest p of a family can be significant.

    With k changed questions that all point one way, the exact test has p = 2^(1 - k). Holm's smallest threshold is
    alpha / tests.
    """
    return math.ceil(1 + math.log2(tests / alpha) - 1e-9)


def smallest_markable(n: int, tests: int, alpha: float = 0.05, room: float = 1.0) -> float:
    """The smallest difference of shares that n questions can mark in a family of tests; nan if they can mark none.

    Args:
        n: number of questions.
        tests: number of tests that Holm's correction is over.
        alpha: family-wise level.
        room: share of the questions that can change at all: for the better, those that base has wrong.
    """
    needed = needed_changes(tests, alpha)
    return needed / n if needed <= n * room + 1e-9 else math.nan


def needed_n(tests: int, alpha: float = 0.05, room: float = 1.0) -> int:
    """How many questions can mark a difference, if all that can change do (`smallest_markable`); room > 0."""
    return math.ceil(needed_changes(tests, alpha) / room - 1e-9)


def is_equivalent(low: float, high: float, margin: float) -> bool:
    """Whether a difference lies within the margin either way: two one-sided tests (Schuirmann, 1987) of size 2.5 %.

    Args:
        low: of the 95 % interval of the difference.
        high: of the same.
        margin: > 0.
    """
    return -margin < low and high < margin


def paired_sd(discordance: float, languages: int = 1, correlation: float = 0.0) -> float:
    """Standard deviation of a question's difference of shares, the mean over languages, where there is no difference.

    Args:
        discordance: share of the answers that differ, from 0 to 1.
        languages: L.
        correlation: of a question's differences between languages, from 0 to 1.
    """
    return math.sqrt(discordance * (1 + (languages - 1) * correlation) / languages)


def smallest_detectable_difference(n: int, sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest paired difference that a two-sided test of n questions finds with this power.

    The quantiles are Student's, with n - 1 degrees of freedom (Cohen, Statistical Power Analysis, 1988).

    Args:
        n: number of questions, at least 2.
        sd: standard deviation of a question's difference (`paired_sd`).
        alpha: level of the test; in a family of tests alpha / tests, for Holm's first step.
        power: from alpha to 1.
    """
    return float((t.ppf(1 - alpha / 2, n - 1) + t.ppf(power, n - 1)) * sd / math.sqrt(n))
