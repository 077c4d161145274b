from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from lensflow import statistics
from lensflow.statistics import (
    holm,
    mcnemar,
    mean_interval,
    paired_permutation,
    proportion_interval,
    ratio_interval,
)


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 999)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (7, 20), (20, 20), (55, 100)])
def test_proportion_interval_is_wilson_s_formula(k, n):
    z, p = norm.ppf(0.975), k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert proportion_interval(k, n) == pytest.approx((centre - half, centre + half), abs=1e-12)


@pytest.mark.parametrize("n", [40, 100, 240])
def test_proportion_interval_covers(n):
    # No simulation: the exact probability of each k, averaged over the true proportions.
    truth = np.linspace(0.05, 0.95, 181)[:, None]
    low, high = np.array([proportion_interval(k, n) for k in range(n + 1)]).T
    covered = (binom.pmf(np.arange(n + 1), n, truth) * ((low <= truth) & (truth <= high))).sum(axis=1)
    assert 0.93 <= covered.mean() <= 0.97


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


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (0, 6), (3, 12), (7, 7), (20, 41)])
def test_mcnemar_is_the_binomial_test_of_the_changed(lost, gained):
    base = np.array([True] * (lost + 30) + [False] * (gained + 20))
    other = np.array([False] * lost + [True] * 30 + [True] * gained + [False] * 20)
    expected = binomtest(gained, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(base, other) == pytest.approx(expected)
    assert mcnemar(other, base) == pytest.approx(expected)


def test_mcnemar_keeps_its_level_and_finds_a_difference():
    rng = np.random.default_rng(0)
    same = [mcnemar(*(rng.random((2, 100)) < 0.7)) for _ in range(2000)]
    assert np.mean(np.array(same) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert mcnemar(rng.random(200) < 0.5, rng.random(200) < 0.9) < 1e-6


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


def test_paired_permutation_of_equal_scores():
    assert paired_permutation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1


def test_holm_against_the_closed_test():
    # Holm is the closed procedure with Bonferroni: adjusted p = max over families holding i of min(1, |family| min p).
    rng = np.random.default_rng(0)
    for m in range(1, 7):
        p = rng.random(m) ** 3
        families = [family for size in range(1, m + 1) for family in combinations(range(m), size)]
        expected = [max(min(1, len(f) * p[list(f)].min()) for f in families if i in f) for i in range(m)]
        assert holm(p) == pytest.approx(expected)


def test_holm_keeps_the_family_wise_level(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels collects at every call: 60 ms
    rng = np.random.default_rng(0)
    false_alarm = [(holm(rng.random(12)) <= 0.05).any() for _ in range(2000)]
    assert np.mean(false_alarm) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
