"""Subspaces against a transcription of the published algorithm (full SVDs and a pseudo-inverse, numpy float64)."""

import itertools
import time

import numpy as np
import pytest
import torch

from lensflow.errors import LensflowError
from lensflow.mathematics.projections import principal_angles
from lensflow.mathematics.subspaces import directions, fit_subspaces

CASES = [(2, 16, 1), (3, 16, 1), (3, 16, 2), (7, 64, 6), (7, 64, 3), (7, 7, 6), (20, 48, 19), (20, 48, 8), (20, 12, 5)]


def random_means(count, width, seed=0):
    """Language means (K, d) around a common mean, as in a real model, where that is the larger part."""
    generator = torch.Generator().manual_seed(seed)
    common = 5 * torch.randn(width, generator=generator, dtype=torch.float64)
    return common + torch.randn(count, width, generator=generator, dtype=torch.float64)


def naive_fit(means, rank):
    """LSAR, algorithm 1, as written: both SVDs in full. Returns M_a (d,), M_s (d, r) and the fit M̂ (d, K)."""
    M = means.numpy().T
    ones = np.ones(M.shape[1])
    centre = M @ ones / len(ones)
    U, S, Vh = np.linalg.svd(M - np.outer(centre, ones))
    fitted = np.outer(centre, ones) + U[:, :rank] @ np.diag(S[:rank]) @ Vh[:rank]
    agnostic = np.linalg.pinv(fitted).T @ ones
    agnostic /= (agnostic**2).sum()
    U, S, Vh = np.linalg.svd(fitted - np.outer(agnostic, ones))
    return agnostic, U[:, :rank], fitted


def misfit(means, agnostic, specific):
    """‖M − M_a 1ᵀ − M_s Γᵀ‖_F with the best Γ for the given M_a and orthonormal M_s."""
    rest = means - agnostic
    return (rest - rest @ specific @ specific.T).norm().item()


@pytest.mark.parametrize(("count", "width", "rank"), CASES)
class TestAgainstThePublishedAlgorithm:
    def test_same_agnostic_vector_and_same_specific_span(self, count, width, rank):
        means = random_means(count, width)
        subspaces = fit_subspaces(means, rank)
        agnostic, specific, _ = naive_fit(means, rank)
        assert subspaces.specific.shape == (width, rank)
        np.testing.assert_allclose(subspaces.agnostic, agnostic, rtol=0, atol=1e-10 * np.linalg.norm(agnostic))
        assert principal_angles(subspaces.specific, torch.from_numpy(specific)).max() < 1e-10

    def test_orthonormal_and_orthogonal(self, count, width, rank):
        subspaces = fit_subspaces(random_means(count, width), rank)
        gram = subspaces.specific.T @ subspaces.specific
        torch.testing.assert_close(gram, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-12)
        unit = subspaces.agnostic / subspaces.agnostic.norm()
        assert (unit @ subspaces.specific).abs().max() < 1e-10

    def test_no_better_reconstruction(self, count, width, rank):
        means = random_means(count, width)
        subspaces = fit_subspaces(means, rank)
        error = misfit(means, subspaces.agnostic, subspaces.specific)
        _, _, fitted = naive_fit(means, rank)
        assert error == pytest.approx(np.linalg.norm(means.numpy().T - fitted), abs=1e-10)
        generator = torch.Generator().manual_seed(1)
        for scale, _ in itertools.product([1e-3, 1e-1, 1.0], range(20)):
            noise = torch.randn(width, rank + 1, generator=generator, dtype=torch.float64) * scale
            turned = torch.linalg.qr(subspaces.specific + noise[:, 1:]).Q
            assert misfit(means, subspaces.agnostic + noise[:, 0], turned) >= error - 1e-10

    def test_directions(self, count, width, rank):
        means = random_means(count, width)
        _, specific, _ = naive_fit(means, rank)
        central = count - 1
        result = directions(means, fit_subspaces(means, rank).specific, central)
        for language in range(count):
            expected = specific @ specific.T @ (means[language] - means[central]).numpy()
            np.testing.assert_allclose(result[language], expected, atol=1e-9)
        if rank == count - 1:
            torch.testing.assert_close(result, means - means[central])

    def test_order_of_languages_does_not_matter(self, count, width, rank):
        means = random_means(count, width)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(2))
        first, second = fit_subspaces(means, rank), fit_subspaces(means[order], rank)
        torch.testing.assert_close(first.agnostic, second.agnostic)
        torch.testing.assert_close(first.specific, second.specific, rtol=0, atol=1e-8)  # the basis, not only the span
        central = int(order.argsort()[0])
        torch.testing.assert_close(
            directions(means, first.specific, 0)[order], directions(means[order], second.specific, central)
        )

    def test_largest_entry_of_each_axis_is_positive(self, count, width, rank):
        specific = fit_subspaces(random_means(count, width), rank).specific
        assert torch.equal(specific.max(dim=0).values, specific.abs().max(dim=0).values)


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-4])
def test_planted_subspaces_are_recovered(noise):
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    frame = torch.linalg.qr(draw(40, 4)).Q
    agnostic, specific = 6 * frame[:, 0], frame[:, 1:]
    means = agnostic + draw(8, 3) @ specific.T + noise * draw(8, 40)
    found = fit_subspaces(means, rank=3)
    assert principal_angles(found.specific, specific).max() < 10 * noise + 1e-12
    assert (found.agnostic - agnostic).norm() < 20 * noise + 1e-11


def test_full_rank_means_share_their_projection_on_the_agnostic_direction():
    means = random_means(5, 30)
    agnostic = fit_subspaces(means).agnostic
    torch.testing.assert_close(means @ agnostic, (agnostic @ agnostic).expand(5))


def test_layers_are_fitted_one_by_one():
    means = torch.stack([random_means(4, 20, seed) for seed in range(6)]).reshape(2, 3, 4, 20)
    batched = fit_subspaces(means, 2)
    deltas = directions(means, batched.specific, 1)
    for i, j in itertools.product(range(2), range(3)):
        single = fit_subspaces(means[i, j], 2)
        torch.testing.assert_close(batched.agnostic[i, j], single.agnostic)
        torch.testing.assert_close(batched.specific[i, j], single.specific)
        torch.testing.assert_close(deltas[i, j], directions(means[i, j], single.specific, 1))


def test_single_precision_means_are_fitted_in_double():
    means = random_means(7, 64).float()
    found, exact = fit_subspaces(means), fit_subspaces(means.double())
    assert found.specific.dtype == torch.float64
    assert torch.equal(found.specific, exact.specific)


def test_orthogonal_where_the_differences_explain_almost_all_of_the_mean():
    line = random_means(1, 20)
    means = torch.cat([line, 1.7 * line + 1e-9 * random_means(1, 20, seed=1)])
    subspaces = fit_subspaces(means)
    unit = subspaces.agnostic / subspaces.agnostic.norm()
    assert subspaces.agnostic.norm() < 1e-7
    assert (unit @ subspaces.specific).abs().max() < 1e-12


@pytest.fixture
def one_thread():
    """So that the time spent is that of the work, not of threads waiting for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_all_layers_of_a_large_model_take_less_than_two_seconds():
    """Full SVDs take about a second a layer."""
    generator = torch.Generator().manual_seed(4)
    means = torch.randn(33, 7, 4096, generator=generator)
    start = time.process_time()
    fit_subspaces(means)
    assert time.process_time() - start < 2


class TestRefused:
    """No case gives NaN or an arbitrary axis: each is refused with its reason."""

    @pytest.mark.parametrize("rank", [0, -1, 4, 9])
    def test_rank_out_of_range(self, rank):
        with pytest.raises(LensflowError, match=r"^rank: .* 1\.\.3 "):
            fit_subspaces(random_means(4, 20), rank)

    def test_one_language(self):
        with pytest.raises(LensflowError, match=r"^languages: 1 "):
            fit_subspaces(random_means(1, 20))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("count", [2, 3, 7, 20])
    def test_all_languages_equal(self, count, dtype):
        with pytest.raises(LensflowError, match="fewer than 1 dimensions"):
            fit_subspaces(random_means(1, 50).to(dtype).expand(count, 50), rank=1)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_two_languages_equal(self, dtype):
        means = random_means(5, 50).to(dtype)
        means[3] = means[1]
        with pytest.raises(LensflowError, match=r"^rank: .* fewer than 4 dimensions"):
            fit_subspaces(means)
        assert fit_subspaces(means, rank=3).specific.isfinite().all()

    def test_names_the_layer(self):
        means = random_means(15, 20).reshape(3, 5, 20)
        means[2, 0] = means[2, 4]
        with pytest.raises(LensflowError, match=r"^layer 2: rank: "):
            fit_subspaces(means)

    def test_fewer_dimensions_than_languages(self):
        with pytest.raises(LensflowError, match="fewer than 6 dimensions"):
            fit_subspaces(random_means(7, 5))
        with pytest.raises(LensflowError, match="no language-agnostic direction"):
            fit_subspaces(random_means(7, 6))
        assert fit_subspaces(random_means(7, 6), rank=5).agnostic.norm() > 0.1

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_collinear_means(self, dtype):
        """m_2 ∝ m_1: the difference explains the whole mean. The published algorithm puts M_a inside M_s here."""
        line = random_means(1, 20)
        means = torch.cat([line, 1.7 * line]).to(dtype)
        with pytest.raises(LensflowError, match="no language-agnostic direction"):
            fit_subspaces(means)

    def test_zero_means(self):
        with pytest.raises(LensflowError, match="fewer than 3 dimensions"):
            fit_subspaces(torch.zeros(4, 20))
        centred = random_means(4, 20)
        with pytest.raises(LensflowError, match="no language-agnostic direction"):
            fit_subspaces(centred - centred.mean(dim=0))

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_means_that_are_not_finite(self, bad):
        means = random_means(8, 20).reshape(2, 4, 20)
        means[1, 2, 5] = bad
        with pytest.raises(LensflowError, match=r"^layer 1: .* not finite"):
            fit_subspaces(means)
