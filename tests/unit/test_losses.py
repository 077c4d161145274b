"""The loss terms against the equations of the paper, with full projection matrices and explicit loops."""

import numpy as np
import pytest
import torch

from lensflow.mathematics.losses import pull, push, retain

N, T, D, R = 4, 6, 10, 3


@pytest.fixture
def states():
    """Random states, an agnostic vector (not of unit length) and a specific basis orthogonal to it, in float64."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    frame = torch.linalg.qr(draw(D, R + 1)).Q
    agnostic, specific = 7.0 * frame[:, 0], frame[:, 1:]
    return {
        "target": draw(N, D),
        "central": draw(N, D),
        "reference": draw(N, D),
        "agnostic": agnostic,
        "specific": specific,
        "shift": specific @ draw(R),
        "shifts": draw(N, R) @ specific.T,
        "positions": draw(N, T, D),
        "reference_positions": draw(N, T, D),
    }


def naive(residuals, reduction):
    """Mean over the texts of the squared norm (or of the mean square) of each one's residual in d dimensions."""
    over_d = {"sum": np.sum, "mean": np.mean}[reduction]
    return np.mean([over_d(residual**2) for residual in residuals])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
class TestValues:
    def test_pull(self, states, reduction):
        target, central, agnostic = (states[k].numpy() for k in ("target", "central", "agnostic"))
        unit = agnostic / np.linalg.norm(agnostic)
        matrix = np.outer(unit, unit)
        expected = naive([matrix @ target[i] - matrix @ central[i] for i in range(N)], reduction)
        value = pull(states["target"], states["central"], states["agnostic"], reduction)
        assert value.item() == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("shift", ["shift", "shifts"])
    def test_push(self, states, reduction, shift):
        target, reference, specific = (states[k].numpy() for k in ("target", "reference", "specific"))
        matrix = specific @ specific.T
        wanted = np.broadcast_to(states[shift].numpy(), (N, D))
        expected = naive([matrix @ target[i] - matrix @ reference[i] - wanted[i] for i in range(N)], reduction)
        value = push(states["target"], states["reference"], states[shift], states["specific"], reduction)
        assert value.item() == pytest.approx(expected, rel=1e-12)

    def test_retain_at_the_last_token(self, states, reduction):
        central, reference = states["central"].numpy(), states["reference"].numpy()
        expected = naive([central[i] - reference[i] for i in range(N)], reduction)
        value = retain(states["central"], states["reference"], reduction=reduction)
        assert value.item() == pytest.approx(expected, rel=1e-12)

    def test_retain_of_means_over_positions(self, states, reduction):
        central, reference = states["positions"].numpy(), states["reference_positions"].numpy()
        residuals = [np.mean([central[i, t] - reference[i, t] for t in range(T)], axis=0) for i in range(N)]
        means = [states[key].mean(dim=1) for key in ("positions", "reference_positions")]
        assert retain(*means, reduction).item() == pytest.approx(naive(residuals, reduction), rel=1e-12)

    def test_gradients(self, states, reduction):
        def all_terms(target, central, positions):
            terms = [
                pull(target, central, states["agnostic"], reduction),
                push(target, states["reference"], states["shifts"], states["specific"], reduction),
                retain(central, states["reference"], reduction=reduction),
                retain(positions.mean(dim=1), states["reference_positions"].mean(dim=1), reduction),
            ]
            return tuple(terms)

        inputs = [states[k].clone().requires_grad_() for k in ("target", "central", "positions")]
        assert torch.autograd.gradcheck(all_terms, inputs)


def test_mean_is_the_mean_squared_error_of_the_published_code(states):
    unit = states["agnostic"] / states["agnostic"].norm()
    projected = [states[k] @ torch.outer(unit, unit) for k in ("target", "central")]
    value = pull(states["target"], states["central"], states["agnostic"], "mean")
    torch.testing.assert_close(value, torch.nn.MSELoss()(*projected))
    means = [states[k].mean(dim=1) for k in ("positions", "reference_positions")]
    torch.testing.assert_close(retain(*means, reduction="mean"), torch.nn.MSELoss()(*means))


def test_gradients_stay_in_their_subspaces(states):
    target = states["target"].requires_grad_()
    (of_pull,) = torch.autograd.grad(pull(target, states["central"], states["agnostic"]), target)
    (of_push,) = torch.autograd.grad(push(target, states["reference"], states["shift"], states["specific"]), target)
    unit = states["agnostic"] / states["agnostic"].norm()
    outside_agnostic = torch.eye(D, dtype=torch.float64) - torch.outer(unit, unit)
    outside_specific = torch.eye(D, dtype=torch.float64) - states["specific"] @ states["specific"].T
    assert of_pull.norm() > 0.1
    assert of_push.norm() > 0.1
    assert (of_pull @ outside_agnostic).norm() < 1e-12
    assert (of_push @ outside_specific).norm() < 1e-12


def test_push_vanishes_exactly_at_the_shifted_reference(states):
    moved = states["reference"] + states["shift"] + 5.0 * states["agnostic"]  # free outside the specific subspace
    assert push(moved, states["reference"], states["shift"], states["specific"]).item() < 1e-20
    assert push(states["reference"], states["reference"], states["shift"], states["specific"]).item() == pytest.approx(
        states["shift"].square().sum().item()
    )


def test_half_precision_states_are_compared_in_float32(states):
    target, reference = states["target"].bfloat16(), states["reference"].bfloat16()
    value = push(target, reference, states["shift"], states["specific"])
    exact = push(target.double(), reference.double(), states["shift"], states["specific"])
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)
