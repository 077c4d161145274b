import math
from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import beta, binom, binomtest, multinomial, norm, permutation_test, t, ttest_1samp
from statsmodels.stats.power import TTestPower

from lensflow.mathematics import statistics
from lensflow.mathematics.statistics import (
    Sample,
    components,
    difference_interval,
    exact_p,
    exact_permutation,
    half_width,
    holm,
    interval,
    is_equivalent,
    is_kept,
    max_t,
    non_inferiority_p,
    null_deviations,
    paired_permutation,
    paired_shares_interval,
    proportion_interval,
    ratio_interval,
)
from lensflow.measures.score import score


def at_most(level: float, runs: int) -> float:
    """What a true rate of `level` stays below in 999 of 1000 simulations of so many runs."""
    return level + 3.1 * math.sqrt(level * (1 - level) / runs)


def sample(numerators, denominators=None) -> Sample:
    """Of (L, S, n), (S, n) or (n,) numbers."""
    shape = (1, 1, 1, *np.shape(numerators))[-3:]
    numerators = np.reshape(numerators, shape).astype(float)
    return Sample(numerators, np.ones(shape) if denominators is None else np.reshape(denominators, shape).astype(float))


def coverage(interval: Callable, draw: Callable, truth: float, runs: int) -> float:
    """Share of the draws whose interval holds the truth."""
    limits = np.array([interval(*draw()) for _ in range(runs)])
    return float(np.mean((limits[:, 0] <= truth) & (truth <= limits[:, 1])))


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    monkeypatch.setattr(statistics, "SWAPS", 999)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (7, 20), (20, 20), (55, 100)])
def test_proportion_interval_is_wilson_s_formula(k, n):
    z, p = norm.ppf(0.975), k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert proportion_interval(k, n) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert (proportion_interval(0, n)[0], proportion_interval(n, n)[1]) == (0, 1)


@pytest.mark.parametrize("n", [40, 100, 240])
def test_proportion_interval_covers(n):
    # No simulation: the exact probability of each k, averaged over the true proportions.
    truth = np.linspace(0.05, 0.95, 181)[:, None]
    low, high = np.array([proportion_interval(k, n) for k in range(n + 1)]).T
    covered = (binom.pmf(np.arange(n + 1), n, truth) * ((low <= truth) & (truth <= high))).sum(axis=1)
    assert 0.93 <= covered.mean() <= 0.97


def mean_interval(values, seed=0):
    """The interval of a mean, whose denominators are ones."""
    return ratio_interval(values, np.ones(len(values)), seed)


def test_mean_interval_covers(few_resamples):
    rng = np.random.default_rng(0)
    draws = rng.gamma(4.0, 0.25, size=(1000, 60))  # skewed, mean 1
    intervals = np.array([mean_interval(values, seed) for seed, values in enumerate(draws)])
    assert 0.93 <= ((intervals[:, 0] <= 1) & (intervals[:, 1] >= 1)).mean() <= 0.97


def test_ratio_interval_covers(few_resamples):
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, 60, size=(1000, 60))
    nats = tokens * 3.0 + rng.normal(size=tokens.shape) * tokens**0.5 * 2  # 3 nats a token
    intervals = np.array([ratio_interval(*items, seed) for seed, items in enumerate(zip(nats, tokens, strict=True))])
    assert 0.93 <= ((intervals[:, 0] <= 3) & (intervals[:, 1] >= 3)).mean() <= 0.97


def test_ratio_interval_is_of_the_sums_not_of_the_mean_ratio():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 200, size=80)
    nats = tokens * np.where(tokens > 100, 1.0, 5.0) + rng.normal(size=80)
    low, high = ratio_interval(nats, tokens)
    assert low < nats.sum() / tokens.sum() < high < np.mean(nats / tokens)


def test_ratio_interval_of_two_items_is_their_range():
    """A t interval of two items is so wide that BCa has no such level; NaN would be no interval."""
    assert ratio_interval([1, 5], [1, 1]) == (1, 5)
    assert ratio_interval([3, 5], [2, 1]) == (1.5, 5)


def test_ratio_interval_ignores_units_and_repeats_with_the_seed():
    rng = np.random.default_rng(0)
    nats, tokens = rng.gamma(2, size=50), rng.integers(1, 9, size=50)
    interval = ratio_interval(nats, tokens, seed=3)
    assert ratio_interval(nats, tokens, seed=3) == interval != ratio_interval(nats, tokens, seed=4)
    assert ratio_interval(nats * 10, tokens * 10, seed=3) == pytest.approx(interval)


def test_bootstrap_of_constant_data_is_a_point():
    assert mean_interval([0.7] * 12) == pytest.approx((0.7, 0.7))
    assert mean_interval([0, 0, 0]) == (0, 0)
    assert ratio_interval([2, 4, 6], [1, 2, 3]) == (2, 2)


def test_bootstrap_of_nearly_constant_data_is_finite():
    low, high = mean_interval([0.0] * 99 + [1.0])
    assert 0 <= low < 0.01 < high < 0.1


def test_components_against_a_table_of_variance_by_hand():
    rng = np.random.default_rng(0)
    for seeds, n in ((2, 5), (3, 20), (5, 8)):
        x = rng.normal(size=(seeds, n)) + 2 * rng.normal(size=n) + 3 * rng.normal(size=(seeds, 1))
        mean = sum(map(sum, x)) / (seeds * n)
        rows, columns = [sum(row) / n for row in x], [sum(column) / seeds for column in x.T]
        by_seed = n * sum((row - mean) ** 2 for row in rows) / (seeds - 1)
        by_item = seeds * sum((column - mean) ** 2 for column in columns) / (n - 1)
        mixed = sum((x[s, i] - rows[s] - columns[i] + mean) ** 2 for s in range(seeds) for i in range(n))
        mixed /= (seeds - 1) * (n - 1)
        mine = sample(x)
        assert mine.value == pytest.approx(mean)
        found = components(mine.deviations, mine.weights)
        assert found.items == pytest.approx(by_item / (seeds * n))
        assert found.of_seeds == pytest.approx((by_seed - mixed) / (seeds * n)) and found.of_seeds > 0
        fourth = sum((column - mean) ** 4 for column in columns)
        second = sum((column - mean) ** 2 for column in columns) * n / (n - 1)
        heavy = fourth - second**2 / n
        assert found.freedom == pytest.approx(min(n - 1, 2 * second**2 / heavy) if heavy > 0 else n - 1)
        of_items, of_seeds = t.ppf(0.975, found.freedom), t.ppf(0.975, seeds - 1)
        total = found.items + found.of_seeds
        quantile = (of_items * found.items + of_seeds * found.of_seeds) / total
        assert half_width(mine.deviations, mine.weights) == pytest.approx(quantile * math.sqrt(total))


def test_seeds_that_agree_add_nothing_to_the_variance():
    x = np.array([[1.0, 2, 3, 4], [4, 3, 2, 1], [2, 3, 3, 2]])  # seeds alike in the mean, at odds in every item
    found = components(sample(x).deviations, np.full(4, 0.25))
    assert found.of_seeds == 0 and found.spread(found.items, 2) == pytest.approx(x.mean(0).var(ddof=1) / 4)
    assert math.isnan(half_width(np.zeros((3, 1)), np.ones(1)))


@pytest.mark.parametrize("shape", [(1, 3), (6, 1), (3, 3)])
def test_intervals_do_not_jump_where_one_thing_more_differs(shape):
    """From no answer that differs to three. Before, the first one made the interval of a difference 60 % narrower."""
    size = (*shape, 24)
    base, limits = Sample(np.ones(size), np.ones(size)), []
    for wrong in range(4):
        numerators = np.ones(size)
        numerators.reshape(-1)[[5, 30, 60][:wrong]] = 0
        limits.append([*interval(Sample(numerators, np.ones(size)))])
        limits[-1] += difference_interval(base, Sample(numerators, np.ones(size)))
    share, difference = np.array(limits)[:, :2], np.array(limits)[:, 2:]
    for of_kind in (share, difference):
        width = np.diff(of_kind)[:, 0]
        # Another answer moves the interval by no more than what it changes and a quarter of its width.
        assert (np.abs(np.diff(of_kind, axis=0)).max(1) <= 1 / np.prod(shape) / 24 + 0.25 * width[:-1]).all()
        assert (np.abs(np.diff(width)) <= 0.25 * width[:-1]).all()
    assert difference[0, 1] == pytest.approx(-difference[0, 0])


def test_intervals_do_not_jump_in_n():
    for count in (0, 1, 2):
        widths = []
        for n in range(20, 30):
            numerators = np.ones((6, 3, n))
            numerators.reshape(-1)[:count] = 0
            before, after = Sample(np.ones((6, 1, n)), np.ones((6, 1, n))), Sample(numerators, np.ones((6, 3, n)))
            widths.append([np.diff(interval(after))[0], np.diff(difference_interval(before, after))[0]])
        ratios = np.array(widths)[1:] / np.array(widths)[:-1]
        assert (ratios < 1).all() and (ratios > 0.93).all()


def test_seeds_that_hardly_differ_hardly_change_an_interval():
    """The old degrees of freedom fell from n - 1 to 2 where seeds began to differ."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=24) + rng.normal(size=(3, 24))
    x -= x.mean(1, keepdims=True)
    halves = []
    for apart in np.linspace(0, 1, 201):
        mine = sample(x + apart * np.array([[-1], [0], [1]]))
        halves.append(half_width(mine.deviations, mine.weights))
    assert np.abs(np.diff(halves)).max() < 0.05 < halves[-1] - halves[0]


def test_one_seed_that_gives_one_answer_more_tells_something():
    base, other = np.ones((3, 24)), np.ones((3, 24))
    base[:, 5] = other[:2, 5] = 0
    low, high = difference_interval(sample(base), sample(other))
    assert -0.3 < low < 0 < high < 0.3


def test_variance_of_one_seed_is_the_t_test_s():
    x = np.random.default_rng(0).uniform(size=30)  # light tails: n - 1 degrees of freedom
    expected = ttest_1samp(x, 0).confidence_interval(0.95)
    assert interval(sample(x)) == pytest.approx((expected.low, expected.high))


def test_variance_of_a_ratio_and_of_missing_items():
    """The delete-one jackknife knows no formula; items that are not defined change nothing."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, size=400)
    nats = tokens * 3.0 + rng.normal(size=400) * tokens**0.5
    without = [(nats.sum() - nats[i]) / (tokens.sum() - tokens[i]) for i in range(400)]
    jackknife = 399 / 400 * np.sum((without - np.mean(without)) ** 2)
    mine = sample(nats, tokens)
    assert components(mine.deviations, mine.weights).items == pytest.approx(jackknife, rel=0.02)
    padded = sample(np.append(nats, [0, 0]), np.append(tokens, [0, 0]))
    assert interval(padded) == pytest.approx(interval(mine)) and padded.sizes == [400]


@pytest.mark.parametrize(("of_seed", "of_item"), [(0.0, 1.0), (0.05, 1.0), (0.1, 0.5), (0.3, 1.0)])
def test_interval_over_three_seeds_covers(of_seed, of_item):
    rng = np.random.default_rng(1)

    def draw():
        return (sample(of_seed * rng.normal(size=(3, 1)) + of_item * rng.normal(size=100) + rng.normal(size=(3, 100))),)

    assert 0.93 <= coverage(interval, draw, 0, 2000) <= 0.97


def test_the_hierarchical_bootstrap_would_not_cover_with_three_seeds():
    """Why `variance` does not resample: drawing seeds, then items, on the same data."""
    rng = np.random.default_rng(1)
    for of_seed, of_item, ends in ((0.3, 0.3, (0, 0.9)), (0.0, 0.3, (0.98, 1))):
        hits = 0
        for _ in range(400):
            x = of_seed * rng.normal(size=(3, 1)) + of_item * rng.normal(size=100) + rng.normal(size=(3, 100))
            seeds = rng.multinomial(3, [1 / 3] * 3, size=400) / 3
            items = rng.multinomial(100, [1 / 100] * 100, size=400) / 100
            low, high = np.quantile(np.einsum("bs,sn,bn->b", seeds, x, items, optimize=True), [0.025, 0.975])
            hits += low <= 0 <= high
        assert ends[0] <= hits / 400 <= ends[1]


SHARES = np.array([0, 0.5, 1, 1.5, 2, 3])  # of six languages, in logits


def answers(rng, shape, logits, shared, of_seed=0.0):
    """(L, S, n) answers, right or wrong: questions as hard in all languages (shared: 1) or not (0), and seeds."""
    languages, seeds, n = shape
    hard = math.sqrt(shared) * rng.normal(size=n) + math.sqrt(1 - shared) * rng.normal(size=(languages, 1, n))
    logit = np.reshape(logits, (-1, 1, 1)) + 2 * hard + of_seed * rng.normal(size=(seeds, 1))
    return (rng.random(shape) < expit(logit)).astype(float)


def expected_share(logits, of_seed=0.0) -> float:
    draws = np.random.default_rng(99).normal(size=400_000) * math.hypot(2, of_seed)
    return float(np.mean([expit(logit + draws).mean() for logit in np.ravel(logits)]))


@pytest.mark.parametrize(("seeds", "n", "logit", "of_seed"), [(3, 100, 1, 0.2), (3, 100, 3, 0.3), (5, 60, 2, 0.1)])
def test_interval_of_a_share_over_seeds_covers(seeds, n, logit, of_seed):
    rng = np.random.default_rng(2)
    truth = expected_share(logit, of_seed)
    covered = coverage(interval, lambda: (sample(answers(rng, (1, seeds, n), logit, 0, of_seed)),), truth, 1500)
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("of_seed", [0.0, 0.3])
def test_two_seeds_are_too_few_for_an_interval(of_seed):
    """What the README says of them."""
    rng = np.random.default_rng(8)
    truth = expected_share(1, of_seed)
    covered = coverage(interval, lambda: (sample(answers(rng, (1, 2, 100), 1, 0, of_seed)),), truth, 1500)
    assert 0.85 <= covered <= 0.975


def test_interval_of_a_mean_of_few_high_shares_covers():
    """20 questions, equally hard in four languages: without the half items it was too narrow."""
    rng = np.random.default_rng(9)
    logits = np.full(4, 5.0)
    truth = expected_share(logits)
    assert truth > 0.9
    covered = coverage(interval, lambda: (sample(answers(rng, (4, 1, 20), logits, 1)),), truth, 1500)
    assert 0.93 <= covered <= 0.99


@pytest.mark.parametrize("shared", [0, 0.5, 0.9])
def test_interval_of_the_mean_over_languages_covers(shared):
    rng = np.random.default_rng(3)
    truth = expected_share(SHARES)
    drawn = [sample(answers(rng, (6, 1, 100), SHARES, shared)) for _ in range(1500)]
    covered = np.mean([low <= truth <= high for low, high in map(interval, drawn)])
    assert 0.93 <= covered <= 0.97
    # As if languages were independent, which parallel prompts are not.
    alone = [math.sqrt(sum(p * (1 - p) / 100 for p in mine.scores)) / 6 for mine in drawn]
    naive = np.mean([abs(mine.value - truth) <= 1.96 * half for mine, half in zip(drawn, alone, strict=True)])
    assert (naive < 0.9) == (shared > 0)


def test_interval_of_the_mean_over_languages_of_a_ratio_covers():
    rng = np.random.default_rng(4)

    def draw():
        tokens = rng.integers(5, 60, size=(4, 1, 60))
        nats = tokens * (3 + rng.normal(size=60) + 0.5 * rng.normal(size=(4, 1, 60)))
        return (sample(nats, tokens),)

    assert 0.93 <= coverage(interval, draw, 3, 1500) <= 0.97


def test_interval_of_what_is_all_right_lies_between_that_of_one_and_of_independent_answers():
    low, high = interval(sample(np.ones((5, 3, 40))))
    assert proportion_interval(40, 40)[0] < low < proportion_interval(600, 600)[0] and high == 1
    low, high = interval(sample([np.ones((1, 100)), np.zeros((1, 100))]))  # none varies, and yet all could
    assert 0.47 < low < 0.495 and 0.505 < high < 0.53


def naive_score(lost, gained, n, delta):
    """Tango's statistic, with the likelihood maximised by search: cells (p + delta, p, rest)."""

    def loss(p):
        up, rest = p + delta, 1 - 2 * p - delta
        parts = ((gained, up), (lost, p), (n - gained - lost, rest))
        return -sum(count * math.log(max(prob, 1e-300)) for count, prob in parts if count)

    p = minimize_scalar(loss, bounds=(max(0, -delta), (1 - delta) / 2), options={"xatol": 1e-12}, method="bounded").x
    return (gained - lost - n * delta) / math.sqrt(n * (2 * p + delta - delta**2))


def of_counts(lost, gained, n):
    """Samples of n items, of which so many are lost and gained."""
    base, other = np.zeros((2, n))
    base[:lost] = other[lost : lost + gained] = 1
    return sample(base), sample(other)


@pytest.mark.parametrize(("lost", "gained", "n"), [(3, 9, 50), (1, 0, 40), (12, 5, 200), (0, 7, 60), (20, 20, 45)])
def test_non_inferiority_of_shares_is_the_score_test(lost, gained, n):
    for margin in (0.02, 0.05, 0.3):
        expected = norm.sf(naive_score(lost, gained, n, -margin))
        assert non_inferiority_p(*of_counts(lost, gained, n), margin) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("lost", "gained", "n"), [(3, 9, 50), (1, 0, 40), (12, 5, 200), (0, 7, 60), (20, 20, 45)])
def test_paired_shares_interval_joins_the_intervals_of_what_is_gained_and_lost(lost, gained, n):
    def jeffreys(k):
        low, high = beta.ppf([0.025, 0.975], k + 0.5, n - k + 0.5)
        return (0 if k == 0 else low), (1 if k == n else high)

    (lost_low, lost_high), (gained_low, gained_high), p, q = jeffreys(lost), jeffreys(gained), lost / n, gained / n
    # The covariance matrix of two multinomial shares has these correlations.
    correlation = -p * q / math.sqrt(p * (1 - p) * q * (1 - q)) if p and q else 0
    below, above = (q - gained_low, lost_high - p), (gained_high - q, p - lost_low)
    low, high = (math.sqrt(x * x + y * y - 2 * correlation * x * y) for x, y in (below, above))
    assert paired_shares_interval(lost, gained, n) == pytest.approx((q - p - low, q - p + high))
    assert paired_shares_interval(gained, lost, n) == pytest.approx((p - q - high, p - q + low))


def test_paired_shares_interval_at_its_ends():
    assert paired_shares_interval(0, 30, 30)[1] == 1 and paired_shares_interval(30, 0, 30)[0] == -1
    low, high = paired_shares_interval(0, 0, 100)
    assert high == pytest.approx(-low) and 0.02 < high < 0.03  # no change in a hundred: not surely none
    one = paired_shares_interval(1, 0, 100)
    assert -0.06 < one[0] < low < 0 < one[1] < high  # one lost item moves the interval, and nothing jumps


def test_mean_coverage_of_a_difference_of_shares_with_few_items():
    """Exact probabilities of every table of 24 items, over shares lost and gained from 2 to 50 %."""
    n, levels = 24, (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    tables = [(lost, gained) for lost in range(n + 1) for gained in range(n + 1 - lost)]
    limits = [paired_shares_interval(lost, gained, n) for lost, gained in tables]
    held = []
    for lost, gained in product(levels, levels):
        if lost + gained < 1:
            chances = multinomial.pmf(
                [(*table, n - sum(table)) for table in tables], n, [lost, gained, 1 - lost - gained]
            )
            covers = [low <= gained - lost <= high for low, high in limits]
            held.append(float(chances[covers].sum()))
    assert 0.94 < np.mean(held) < 0.965 and min(held) > 0.925


@pytest.mark.parametrize("n", [50, 100, 200])
@pytest.mark.parametrize("gained", [0.0, 0.01, 0.05])
def test_non_inferiority_of_shares_keeps_its_size_and_a_t_test_would_not(n, gained):
    """Exact probabilities of each table, where the method is worse than base by just the margin."""
    margin, size, of_t = 0.05, 0.0, 0.0
    for lost_items, gained_items in product(range(n // 3), range(n // 3)):
        counts = [lost_items, gained_items, n - lost_items - gained_items]
        probability = multinomial.pmf(counts, n, [gained + margin, gained, 1 - 2 * gained - margin])
        if probability < 1e-8:
            continue
        size += probability * (norm.sf(statistics._tango(lost_items, gained_items, n, -margin)) <= 0.025)
        difference = (gained_items - lost_items) / n
        spread = ((gained_items + lost_items) / n - difference**2) / (n - 1)
        of_t += probability * (difference - t.ppf(0.975, n - 1) * math.sqrt(spread) > -margin)
    assert size <= 0.025
    assert of_t > 0.05 or gained > 0.005


def test_power_of_non_inferiority_is_as_computed():
    """Simulated answers against the sum over all tables: 2 % of 200 items lost, 2 % gained, margin 5 %."""
    cells, n, runs = [0.02, 0.02, 0.96], 200, 1000
    power = 0.0
    for lost, gained in product(range(16), range(16)):
        kept = norm.sf(statistics._tango(lost, gained, n, -0.05)) <= 0.025
        power += kept * multinomial.pmf([lost, gained, n - lost - gained], n, cells)
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(runs):
        change = rng.choice([-1, 1, 0], p=cells, size=n)
        base = np.where(change == 0, rng.random(n) < 0.9, change < 0).astype(float)
        found += is_kept(sample(base), sample(base + change), 0.05, "↑")
    assert 0.8 < power < 0.99
    assert abs(found / runs - power) <= 3.1 * math.sqrt(power * (1 - power) / runs)


@pytest.mark.parametrize(
    ("low", "high", "better", "kept"),
    [
        (-0.04, 0.2, "↑", True),
        (-0.06, 0.2, "↑", False),
        (-0.2, 0.04, "↓", True),
        (-0.2, 0.06, "↓", False),
        (-0.04, 0.2, "", False),
        (-0.04, 0.04, "", True),
    ],
)
def test_is_kept_looks_to_the_worse_side(low, high, better, kept):
    spread = np.tile([1.0, -1.0], 25) * (high - low) / 2 * 7 / 2  # t of 49 degrees of freedom is 2, sqrt(49) is 7
    base, other = sample(np.zeros(50)), sample((low + high) / 2 + spread)
    assert difference_interval(base, other) == pytest.approx((low, high), abs=0.005)
    assert is_kept(base, other, 0.05, better) is kept
    assert not is_kept(sample([0.0]), sample([0.0]), 0.05, better)  # of one item


def paired_answers(rng, seeds, n, changed, of_seed, shift=0.0):
    """Base (n,) and a method's seeds (S, n), which answer a share of the items anew."""
    logit = 1 + 2 * rng.normal(size=n)
    luck = np.where(rng.random((seeds + 1, n)) < changed, rng.random((seeds + 1, n)), rng.random(n))
    method = expit(logit + shift + of_seed * rng.normal(size=(seeds, 1)))
    return sample((luck[0] < expit(logit)).astype(float)), sample((luck[1:] < method).astype(float))


@pytest.mark.parametrize(("seeds", "of_seed"), [(1, 0), (3, 0.1), (3, 0.3), (5, 0.2)])
def test_difference_interval_of_shares_covers(seeds, of_seed):
    rng = np.random.default_rng(6)
    covered = coverage(difference_interval, lambda: paired_answers(rng, seeds, 100, 0.3, of_seed), 0, 1000)
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("changed", [0.05, 0.3])
def test_difference_interval_of_few_items_and_three_seeds_covers(changed):
    """The sizes of version 0.1's study; of rare changes it is too wide, never too narrow."""
    rng = np.random.default_rng(10)
    covered = coverage(difference_interval, lambda: paired_answers(rng, 3, 20, changed, 0.2), 0, 1000)
    assert covered >= 0.93


def test_non_inferiority_over_seeds_keeps_its_size():
    """Of a hundred right answers each seed loses five, mostly the same ones: just the margin."""
    rng, runs, kept = np.random.default_rng(7), 1500, 0
    for _ in range(runs):
        latent = norm.cdf(0.8 * rng.normal(size=100) + 0.6 * rng.normal(size=(3, 100)))
        kept += is_kept(sample(np.ones(100)), sample(latent > 0.05), 0.05, "↑")
    assert kept / runs <= at_most(0.025, runs)


@pytest.mark.parametrize("seeds", [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_difference_interval_is_mirrored_when_the_sides_change_places(seeds):
    rng = np.random.default_rng(0)
    for draw in (lambda shape: rng.random(shape) < 0.6, lambda shape: rng.normal(size=shape)):
        one, other = (Sample(draw(size).astype(float), np.ones(size)) for size in ((2, s, 30) for s in seeds))
        low, high = difference_interval(one, other)
        assert difference_interval(other, one) == pytest.approx((-high, -low))
        assert low < other.value - one.value < high


def test_difference_interval_of_ratios_is_that_of_the_pairs():
    rng = np.random.default_rng(8)
    tokens = rng.integers(10, 50, size=(1, 1, 80))

    def draw():
        shared = tokens * (3 + rng.normal(size=(1, 1, 80)))
        base, other = (shared + tokens * 0.1 * rng.normal(size=(1, 1, 80)) for _ in range(2))
        return sample(base, tokens), sample(other + 0.2 * tokens, tokens)

    assert 0.93 <= coverage(difference_interval, draw, 0.2, 1000) <= 0.97
    low, high = difference_interval(*draw())
    assert high - low < 0.1  # while the scores themselves are known to 0.4


def p_of(base, other) -> float:
    """Exact p of (n,) answers of one seed each."""
    return exact_p(sample(base), sample(other))


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (0, 6), (3, 12), (7, 7), (20, 41)])
def test_exact_p_of_one_seed_is_the_binomial_test_of_the_changed(lost, gained):
    base = np.array([True] * (lost + 30) + [False] * (gained + 20))
    other = np.array([False] * lost + [True] * 30 + [True] * gained + [False] * 20)
    expected = binomtest(gained, lost + gained).pvalue if lost + gained else 1.0
    assert p_of(base, other) == pytest.approx(expected)
    assert p_of(other, base) == pytest.approx(expected)


def test_exact_p_keeps_its_level_and_finds_a_difference():
    rng = np.random.default_rng(0)
    same = [p_of(*(rng.random((2, 100)) < 0.7)) for _ in range(2000)]
    assert np.mean(np.array(same) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert p_of(rng.random(200) < 0.5, rng.random(200) < 0.9) < 1e-6


def test_paired_permutation_is_exact_for_few_items():
    rng = np.random.default_rng(0)
    base, other = rng.normal(size=(2, 9))
    difference = other - base
    swapped = np.array(list(product([1, -1], repeat=9))) @ difference
    tails = [np.mean(swapped >= difference.sum() - 1e-12), np.mean(swapped <= difference.sum() + 1e-12)]
    assert paired_permutation(base, other) == pytest.approx(min(1, 2 * min(tails)))


def test_paired_permutation_keeps_its_level_and_finds_a_difference(few_resamples):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(1000, 1, 30)) * 5
    pairs = shared + rng.normal(size=(1000, 2, 30))
    p_values = np.array([paired_permutation(*pair, seed) for seed, pair in enumerate(pairs)])
    assert 0.03 <= np.mean(p_values <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert paired_permutation(pairs[0, 0], pairs[0, 1] + 2) < 0.01  # small beside the spread of the items


def test_paired_permutation_is_scipy_s():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(60, 3))
    other = base + rng.normal(size=(60, 3)) + [0, 0.2, 0.4]
    expected = permutation_test(
        (base, other),
        lambda first, second, axis: (second - first).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        rng=rng,
    ).pvalue
    assert paired_permutation(base, other) == pytest.approx(expected, abs=0.02)
    alone = [float(paired_permutation(base[:, column], other[:, column])) for column in range(3)]
    assert paired_permutation(base, other) == pytest.approx(alone)
    assert paired_permutation(base, base + 1).max() == 1 / (statistics.SWAPS + 1)


@pytest.mark.parametrize("same_tokens", [True, False])
def test_paired_permutation_of_ratios_against_all_swaps(same_tokens):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, size=(2, 7))
    if same_tokens:
        tokens[1] = tokens[0]
    nats = tokens * (2 + rng.normal(size=(2, 7)))
    swaps = []
    for swap in product([False, True], repeat=7):
        above, below = (np.where(swap, both[::-1], both) for both in (nats, tokens))
        deviations = null_deviations(sample(above[0], below[0]), sample(above[1], below[1]))
        swaps.append(float(np.sum(deviations[1] - deviations[0])))
        tokens_of = below.sum(1)
        ratio = above[1].sum() / tokens_of[1] - above[0].sum() / tokens_of[0]
        assert swaps[-1] == pytest.approx(ratio * 4 * tokens_of[0] * tokens_of[1] / tokens_of.sum() ** 2)
    expected = np.mean(np.abs(swaps) >= abs(swaps[0]) - 1e-12)
    p = paired_permutation(*null_deviations(sample(nats[0], tokens[0]), sample(nats[1], tokens[1])))
    assert p == pytest.approx(expected)


def test_paired_permutation_swaps_the_languages_of_a_question_together(few_resamples):
    """Answers to one question rise or fall in all languages alike: as many tests as languages, not as many items."""
    rng, runs = np.random.default_rng(9), 600
    p_values = []
    for _ in range(runs):
        base, other = (rng.normal(size=40) + 0.3 * rng.normal(size=(6, 1, 40)) for _ in range(2))
        p_values.append(float(paired_permutation(*null_deviations(sample(base), sample(other)))))
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= at_most(0.05, runs)


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (6, 3)])
def test_exact_p_of_seeds_and_languages_is_that_of_all_swaps(shape):
    rng = np.random.default_rng(0)
    languages, seeds = shape
    base = Sample((rng.random((languages, 1, 9)) < 0.5) * 1.0, np.ones((languages, 1, 9)))
    other = Sample((rng.random((languages, seeds, 9)) < 0.7) * 1.0, np.ones((languages, seeds, 9)))
    difference = (other.numerators.mean(1) - base.numerators.mean(1)).mean(0)
    swapped = np.array(list(product([1, -1], repeat=9))) @ difference
    expected = np.mean(np.abs(swapped) >= abs(difference.sum()) - 1e-12)
    assert exact_p(base, other) == pytest.approx(expected) == exact_p(other, base)


def test_exact_p_is_only_of_shares_of_the_same_items():
    ones = np.ones((2, 1, 4))
    fewer = ones.copy()
    fewer[1, 0, 0] = 0
    assert exact_p(Sample(ones, ones), Sample(ones, ones)) == 1
    assert exact_p(Sample(ones, ones), Sample(ones / 2, ones)) is None
    assert exact_p(Sample(ones, ones), Sample(fewer, fewer)) is None
    assert exact_permutation(np.array([3, 3, -6, 3])) == exact_permutation(np.array([1, 1, -2, 1]))


@pytest.mark.parametrize("of_base", [-3.0, 0.0, 3.0])
def test_one_seed_against_the_mean_of_three_keeps_the_level(of_base):
    """Such two results could not have changed places, and yet: rare, even and frequent right answers of 24 items."""
    rng, runs, marked = np.random.default_rng(13), 2000, 0
    for _ in range(runs):
        chance = expit(of_base + rng.normal(size=24))
        pair = [sample((rng.random((seeds, 24)) < chance) * 1.0) for seeds in (1, 3)]
        marked += exact_p(*pair) <= 0.05
    assert marked / runs <= at_most(0.05, runs)


def test_a_test_of_items_that_count_on_one_side_keeps_the_level(few_resamples):
    rng, runs, marked = np.random.default_rng(14), 500, 0
    for _ in range(runs):
        counted = [(rng.random(100) < share) * 1.0 for share in (0.4, 0.9)]
        right = rng.random((2, 100)) < expit(rng.normal(size=100))
        pair = [sample(of * kept, kept) for of, kept in zip(right, counted, strict=True)]
        marked += paired_permutation(*null_deviations(*pair)) <= 0.05
    assert marked / runs <= at_most(0.05, runs)


def test_difference_of_what_counts_is_not_conditioned_on_what_the_method_changed():
    """The method answers as base does, but mostly what base has right counts: its share of what counts is higher.

    On the common items alone the difference would be 0.
    """
    rng = np.random.default_rng(15)
    right = (rng.random(300) < 0.5) * 1.0
    easy = np.maximum(right, rng.random(300) < 0.2)
    base, other = sample(right), sample(right * easy, easy)
    low, high = difference_interval(base, other)
    assert base.value < other.value and 0 < low < other.value - base.value < high
    common = sample(right * easy, easy)
    assert difference_interval(common, other)[0] < 0 < difference_interval(common, other)[1]


def test_one_item_that_does_not_count_hardly_changes_the_interval():
    rng = np.random.default_rng(16)
    before, after, counted = (rng.random(60) < 0.5) * 1.0, (rng.random(60) < 0.7) * 1.0, np.ones(60)
    whole = difference_interval(sample(before), sample(after))
    assert whole == pytest.approx(
        paired_shares_interval(float(np.sum(before > after)), float(np.sum(after > before)), 60)
    )
    counted[0] = 0
    assert difference_interval(sample(before), sample(after * counted, counted)) == pytest.approx(whole, abs=0.02)


def test_power_is_as_computed(few_resamples):
    """Of the permutation, against the noncentral t distribution."""
    rng, runs, effect = np.random.default_rng(11), 600, 0.3
    power = TTestPower().power(effect, 100, 0.05)
    found = 0
    for _ in range(runs):
        base = rng.normal(size=100)
        other = sample(base + effect + rng.normal(size=100))
        found += paired_permutation(*null_deviations(sample(base), other)) <= 0.05
    assert abs(found / runs - power) <= 3.1 * math.sqrt(power * (1 - power) / runs)


def test_power_of_exact_p_is_as_computed():
    cells, n, runs = [0.05, 0.15, 0.8], 100, 2000
    power = 0.0
    for lost, gained in product(range(25), range(45)):
        p = binomtest(lost, lost + gained).pvalue if lost + gained else 1
        power += (p <= 0.05) * multinomial.pmf([lost, gained, n - lost - gained], n, cells)
    rng = np.random.default_rng(12)
    changes = rng.choice([-1, 1, 0], p=cells, size=(runs, n))
    found = np.mean([p_of(change < 0, change > 0) <= 0.05 for change in changes])
    assert abs(found - power) <= 3.1 * math.sqrt(power * (1 - power) / runs)


def test_paired_permutation_of_equal_scores():
    assert paired_permutation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1


@pytest.fixture
def no_collection(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels collects at every call: 60 ms


def test_holm_against_the_closed_test(no_collection):
    # Holm is the closed procedure with Bonferroni: adjusted p = max over families holding i of min(1, |family| min p).
    rng = np.random.default_rng(0)
    for m in range(1, 7):
        p = rng.random(m) ** 3
        families = [family for size in range(1, m + 1) for family in combinations(range(m), size)]
        expected = [max(min(1, len(f) * p[list(f)].min()) for f in families if i in f) for i in range(m)]
        assert holm(p) == pytest.approx(expected)


def test_holm_keeps_the_family_wise_level(no_collection):
    rng = np.random.default_rng(0)
    false_alarm = [(holm(rng.random(12)) <= 0.05).any() for _ in range(2000)]
    assert np.mean(false_alarm) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def naive_step_down(differences):
    """Adjusted p by the definition, over all signs and one hypothesis after the other."""
    n, tests = differences.shape

    def statistic(signs, test):
        return abs(sum(signs[i] * differences[i, test] for i in range(n))) / math.sqrt(sum(differences[:, test] ** 2))

    observed = [statistic([1] * n, test) for test in range(tests)]
    order = sorted(range(tests), key=lambda test: -observed[test])
    adjusted, at_least = {}, 0.0
    for place, test in enumerate(order):
        far = [
            max(statistic(signs, other) for other in order[place:]) >= observed[test] - 1e-9
            for signs in product([-1, 1], repeat=n)
        ]
        adjusted[test] = at_least = max(at_least, float(np.mean(far)))
    return [adjusted[test] for test in range(tests)]


@pytest.mark.parametrize("kind", ["numbers", "shares"])
def test_max_t_is_the_naive_step_down(kind):
    rng = np.random.default_rng(3)
    drawn = rng.normal(0.4, 1, size=(9, 5)) if kind == "numbers" else rng.integers(-1, 2, size=(9, 5)).astype(float)
    assert max_t(drawn).adjusted == pytest.approx(naive_step_down(drawn))


def test_max_t_of_one_test_is_the_permutation_test_and_tests_without_a_difference_cost_nothing():
    rng = np.random.default_rng(0)
    one = rng.normal(0.5, 1, size=(40, 1))
    idle = np.zeros((40, 30))
    idle[:2] = 1  # two items differ: the statistic stays below sqrt(2)
    alone, among = max_t(one), max_t(np.hstack([one, idle]))
    assert alone.adjusted == pytest.approx(alone.p)
    assert alone.p[0] < 0.05 and among.adjusted[0] == pytest.approx(alone.p[0], abs=1e-4)
    assert among.adjusted[1:] == pytest.approx(among.p[1:], abs=0.01) and (max_t(idle * 0).adjusted == 1).all()


def correlated(rng, n, methods, languages, gains=0.0):
    """(n, T) differences of methods to one base in some languages; items are alike in both, and few of them change."""
    hard = 1.5 * rng.normal(size=(n, 1, 1)) + 0.5 * rng.normal(size=(n, 1, languages))
    right = expit(hard + gains) > np.where(
        rng.random((n, 1, 1)) < 0.5, rng.random((n, 1, 1)), rng.random((n, methods, languages))
    )
    base = expit(hard) > rng.random((n, 1, languages))
    return (right.astype(float) - base).reshape(n, -1)


@pytest.mark.parametrize("n", [24, 100])
def test_max_t_keeps_the_family_wise_level(monkeypatch, n):
    """Methods that are as good as base: they share its answers, are alike, and differ from it in few items."""
    monkeypatch.setattr(statistics, "SWAPS", 499)
    rng, runs = np.random.default_rng(11), 600
    alarms = sum((max_t(correlated(rng, n, 4, 6)).adjusted <= 0.05).any() for _ in range(runs))
    assert alarms / runs <= at_most(0.05, runs)


def test_max_t_finds_more_than_holm_where_cells_are_correlated(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels collects at every call: 60 ms
    monkeypatch.setattr(statistics, "SWAPS", 4999)
    rng, found = np.random.default_rng(12), np.zeros(2)
    for _ in range(40):
        family = max_t(correlated(rng, 100, 4, 6, gains=0.6))
        found += (family.adjusted <= 0.05).mean(), (holm(family.p) <= 0.05).mean()
    assert found[0] > 1.2 * found[1] > 0


def test_how_many_items_a_mark_needs():
    """One more item than needed - 1 makes the difference, in a family of its own and beside others."""
    rng = np.random.default_rng(4)
    others = rng.choice([-1.0, 0.0, 1.0], size=(60, 30))
    assert max_t(np.ones((5, 1))).needed == 6  # 2^-5 is the first p below .05
    needed = max_t(others).needed
    assert needed > 6
    for changed, significant in ((needed, True), (needed - 1, False)):
        mine = np.zeros((60, 1))
        mine[:changed] = 1
        assert (max_t(np.hstack([mine, others])).adjusted[0] <= 0.055) == significant


def test_a_family_of_a_large_study_is_fast_and_the_same_again():
    rng = np.random.default_rng(5)
    differences = rng.choice([-1.0, 0.0, 1.0], size=(200, 700), p=[0.1, 0.8, 0.1])
    first, again = max_t(differences[:, :50]), max_t(differences[:, :50])
    assert (first.adjusted == again.adjusted).all() and (first.adjusted >= first.p).all()


@pytest.mark.parametrize(("limits", "equivalent"), [((-0.04, 0.03), True), ((-0.05, 0.01), False), ((0, 0.06), False)])
def test_is_equivalent_looks_both_ways(limits, equivalent):
    assert is_equivalent(*limits, 0.05) is equivalent


def test_equivalence_keeps_its_size():
    """A method that is just the margin better is called equivalent in at most 2.5 of a hundred."""
    rng, runs, found = np.random.default_rng(17), 2000, 0
    for _ in range(runs):
        change = rng.choice([-1, 1, 0], p=[0.02, 0.12, 0.86], size=200)
        limits = paired_shares_interval(float(np.sum(change < 0)), float(np.sum(change > 0)), 200)
        found += is_equivalent(*limits, 0.1)
    assert found / runs <= at_most(0.025, runs)


def test_a_score_that_is_defined_nowhere():
    nothing = {"value": None, "low": None, "high": None}
    assert score("nll", [None, None]).items() >= ({"n": 0} | nothing).items()
    assert score("nll", [0.0, 0.0], [0, 0]).items() >= ({"n": 2} | nothing).items()  # no token counts
