from itertools import product

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from scipy.stats import t

from lensflow.errors import LensflowError
from lensflow.mathematics import analysis, statistics


def planted(rng, count, n, d, of_language, of_text, of_rest):
    """States x_li = m + a_l + b_i + e_li whose parts have these variances in every dimension, (count, n, d)."""
    return (
        5
        + rng.normal(0, of_language**0.5, (count, 1, d))
        + rng.normal(0, of_text**0.5, (1, n, d))
        + rng.normal(0, of_rest**0.5, (count, n, d))
    )


def naive_shares(states):
    """The textbook's mean squares, with loops."""
    count, n, d = states.shape
    between = text = rest = 0.0
    for k in range(d):
        x = states[:, :, k]
        for i, j in product(range(count), range(n)):
            between += (x[i].mean() - x.mean()) ** 2
            text += (x[:, j].mean() - x.mean()) ** 2
            rest += (x[i, j] - x[i].mean() - x[:, j].mean() + x.mean()) ** 2
    between, text, rest = between / (count - 1), text / (n - 1), rest / (count - 1) / (n - 1)
    parts = np.array([(between - rest) / n, (text - rest) / count, rest])
    return parts[:2] / parts.sum()


@pytest.mark.parametrize(("count", "n", "d"), [(2, 3, 1), (3, 6, 4), (7, 5, 2)])
def test_shares_and_their_jackknife_are_the_textbooks(count, n, d):
    states = planted(np.random.default_rng(d), count, n, d, 2.0, 1.0, 0.5)
    found = analysis.variance_shares(states)
    assert found[:, 0] == pytest.approx(naive_shares(states))
    without = np.array([naive_shares(np.delete(states, text, axis=1)) for text in range(n)])
    error = np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))
    assert found[:, 2] - found[:, 0] == pytest.approx(t.ppf(0.975, n - 1) * error)
    assert found[:, 0] - found[:, 1] == pytest.approx(t.ppf(0.975, n - 1) * error)


def test_planted_shares_come_out():
    states = planted(np.random.default_rng(0), 8, 200, 300, 3.0, 2.0, 5.0)
    assert analysis.variance_shares(states)[:, 0] == pytest.approx([0.3, 0.2], abs=0.02)
    noise = analysis.variance_shares(planted(np.random.default_rng(1), 8, 200, 300, 0.0, 0.0, 1.0))
    assert noise[:, 0] == pytest.approx([0, 0], abs=0.005)


def test_interval_covers_the_share_over_texts():
    """The languages are given; over other texts from the same population the share is what many texts say."""
    rng = np.random.default_rng(0)
    languages = rng.normal(0, 1, (3, 1, 20))

    def draw(n):
        return languages + rng.normal(0, 1, (1, n, 20)) + rng.normal(0, 1, (3, n, 20))

    truth = np.mean([analysis.variance_shares(draw(2000))[:, 0] for _ in range(5)], axis=0)
    found = np.array([analysis.variance_shares(draw(40)) for _ in range(400)])
    covered = ((found[:, :, 1] <= truth) & (truth <= found[:, :, 2])).mean(0)
    assert (covered > 0.91).all() and (covered < 0.985).all()


@pytest.mark.parametrize(
    ("states", "message"),
    [(np.ones((2, 2, 4)), "2 texts are too few"), (np.ones((2, 5, 4)), "all states are equal")],
)
def test_states_without_variance_are_refused(states, message):
    with pytest.raises(LensflowError, match=message):
        analysis.variance_shares(states)


@pytest.mark.parametrize("central", [0, 2])
def test_retrieval_is_a_search_for_the_largest_cosine(central):
    rng = np.random.default_rng(central)
    states = planted(rng, 4, 15, 6, 1.0, 1.0, 1.0)
    expected = [
        [
            min(range(15), key=lambda place: cosine(states[language, text], states[central, place])) == text
            for text in range(15)
        ]
        for language in range(4)
        if language != central
    ]
    found = analysis.retrieval_hits(states, central)
    assert found.tolist() == expected and 0 < found.mean() < 1


def test_retrieval_fails_for_a_language_far_away_and_succeeds_without_its_direction():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(30, 16))
    far = np.zeros(16)
    far[0] = 1000
    states = np.stack([texts, texts + far])
    assert analysis.retrieval_hits(states, 0).mean() < 0.2
    assert analysis.retrieval_hits(analysis.without(states, np.eye(16)[:, :1]), 0).all()


def test_what_is_without_a_subspace_is_orthogonal_to_it_and_else_the_same():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(10, 3)))[0]
    states = rng.normal(size=(2, 5, 10))
    left = analysis.without(states, basis)
    assert left @ basis == pytest.approx(np.zeros((2, 5, 3)), abs=1e-12)
    for one, other in zip(states.reshape(-1, 10), left.reshape(-1, 10), strict=True):
        naive = one - sum((one @ basis[:, k]) * basis[:, k] for k in range(3))
        assert other == pytest.approx(naive)


def test_share_interval_of_one_language_is_wilsons_and_of_several_that_of_the_tables():
    hits = np.random.default_rng(0).random((3, 40)) < 0.7
    assert analysis.share_interval(hits[:1]) == (hits[0].mean(), *statistics.proportion_interval(hits[0].sum(), 40))
    sample = statistics.Sample(hits[:, None].astype(float), np.ones((3, 1, 40)))
    assert analysis.share_interval(hits) == (pytest.approx(hits.mean()), *statistics.interval(sample))


def test_spectrum_is_of_the_planted_strengths():
    rng = np.random.default_rng(0)
    strengths = np.array([[9.0, 4.0, 1.0], [2.0, 1.0, 0.5]])
    # An orthonormal basis of what is orthogonal to 1: rows that add up to 0.
    centred = np.linalg.svd(np.ones((1, 4)))[2][1:].T
    axes = np.linalg.qr(rng.normal(size=(12, 3)))[0]
    means = np.stack([centred @ np.diag(s) @ axes.T + 7 for s in strengths])
    assert analysis.spectrum(means) == pytest.approx(strengths)


def test_spectrum_adds_up_to_the_distances_from_the_mean():
    means = np.random.default_rng(0).normal(size=(5, 7, 9))
    distances = [sum(np.sum((mean - layer.mean(0)) ** 2) for mean in layer) for layer in means]
    found = analysis.spectrum(means)
    assert found.shape == (5, 6) and (np.diff(found) <= 0).all()
    assert (found**2).sum(1) == pytest.approx(distances)


def test_cosines_of_every_pair():
    rng = np.random.default_rng(0)
    directions, others = rng.normal(size=(3, 4, 6)).astype(np.float32), rng.normal(size=(5, 6))
    found = analysis.cosines(directions, others)
    assert found.shape == (3, 4, 5)
    for layer, k, j in product(range(3), range(4), range(5)):
        assert found[layer, k, j] == pytest.approx(1 - cosine(directions[layer, k], others[j]))
    assert analysis.cosines(directions, -3 * directions)[:, range(4), range(4)] == pytest.approx(-np.ones((3, 4)))


def test_neighbours_stay_together_and_the_picture_stays_the_same():
    rng = np.random.default_rng(0)
    centres = 50 * rng.normal(size=(3, 20))
    points = np.concatenate([centre + rng.normal(size=(15, 20)) for centre in centres])
    found = analysis.neighbour_embedding(points)
    assert found.shape == (45, 2)
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(1) // 15 == np.arange(45) // 15).all()
    assert found.tobytes() == analysis.neighbour_embedding(points).tobytes()
    assert analysis.neighbour_embedding(points[:4]).shape == (4, 2)


def test_pareto_front_is_what_nothing_beats():
    assert analysis.pareto_front([3, 1, 2, 2, 4], [9, 1, 5, 4, 9]) == [1, 2, 0]
    assert analysis.pareto_front([1, 1], [2, 2]) == [0, 1]  # equals do not beat each other
    rng = np.random.default_rng(0)
    for _ in range(50):
        costs, gains = rng.integers(0, 5, (2, 8))
        expected = [
            i
            for i in range(8)
            if not any(
                costs[j] <= costs[i] and gains[j] >= gains[i] and (costs[j], gains[j]) != (costs[i], gains[i])
                for j in range(8)
            )
        ]
        found = analysis.pareto_front(costs, gains)
        assert sorted(found) == expected and (np.diff(costs[found]) >= 0).all()
