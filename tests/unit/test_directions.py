"""Controls for directions: what each of them keeps, and what it changes."""

from math import factorial

import pytest
import torch

from lensflow.errors import LensflowError
from lensflow.mathematics import directions

DELTAS = dict(
    zip(("zh", "sw", "ar", "ko"), torch.randn(4, 24, generator=torch.Generator().manual_seed(1)), strict=True)
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gram(deltas):
    stacked = torch.stack(list(deltas.values()))
    return stacked @ stacked.T


def test_a_rotation_keeps_the_gram_matrix():
    turned = directions.rotated(DELTAS, generator())
    assert list(turned) == list(DELTAS)
    assert torch.allclose(gram(turned), gram(DELTAS), atol=1e-4)
    assert all(delta.dtype == torch.float32 for delta in turned.values())
    cosines = [float(torch.cosine_similarity(turned[x], DELTAS[x], dim=0)) for x in DELTAS]
    assert max(map(abs, cosines)) < 0.7
    again, other = directions.rotated(DELTAS, generator()), directions.rotated(DELTAS, generator(1))
    assert all(torch.equal(turned[x], again[x]) and not torch.allclose(turned[x], other[x]) for x in DELTAS)


def test_draws_have_the_states_covariance():
    axes = torch.diag(torch.tensor([4.0, 1.0, 0.0])) @ torch.linalg.qr(torch.randn(3, 3, generator=generator())).Q
    states = 7 + torch.randn(2000, 3, generator=generator()) @ axes
    many = {str(i): torch.full((3,), 2.0) for i in range(4000)}
    drawn = torch.stack(list(directions.covariance_matched(many, states, generator()).values()))
    assert torch.allclose(drawn.norm(dim=-1), torch.full((4000,), 12.0).sqrt(), rtol=1e-5)
    wanted, found = torch.linalg.eigh(states.T.cov())[1], torch.linalg.eigh(drawn.T @ drawn)[1]
    for axis in (1, 2):  # the axes of the covariance, by falling variance, and none where there is none
        assert abs(float(wanted[:, axis] @ found[:, axis])) > 0.99
    assert (drawn @ wanted[:, 0]).abs().max() < 1e-4
    assert drawn.mean(0).norm() < 0.2  # centred


def test_the_common_direction():
    mean = sum(DELTAS.values()) / len(DELTAS)
    for language, delta in directions.common(DELTAS).items():
        assert torch.allclose(delta, mean / mean.norm() * DELTAS[language].norm(), atol=1e-6)


def test_derangements():
    count = round(factorial(4) / 2.718281828)
    orders = set()
    for number in range(count):
        moved = directions.deranged(DELTAS, number)
        order = tuple(next(y for y in DELTAS if moved[x] is DELTAS[y]) for x in DELTAS)
        assert sorted(order) == sorted(DELTAS) and all(x != y for x, y in zip(DELTAS, order, strict=True))
        orders.add(order)
    assert len(orders) == count == 9
    with pytest.raises(LensflowError, match=r"^draw: 4 languages have no derangement 9; lower it, or add a language$"):
        directions.deranged(DELTAS, count)
