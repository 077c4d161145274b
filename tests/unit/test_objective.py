"""Where Lens and its controls push a language."""

from types import SimpleNamespace

import pytest
import torch

from lensflow.artifacts.language_subspaces import LanguageSubspaces
from lensflow.errors import LensflowError
from lensflow.mathematics.directions import random_subspace
from lensflow.mathematics.subspaces import directions, fit_subspaces
from lensflow.methods.lens.config import Lens
from lensflow.methods.lens.objective import objective
from lensflow.provenance.code import closure
from lensflow.schema.setting import Setting

LANGUAGES = ("en", "zh", "ja", "sw")
TARGETS = LANGUAGES[1:]
WIDTH = 12
OF_EACH = {"zh": 0.5, "ja": 2.0, "sw": 0.25}


@pytest.fixture
def subspaces() -> LanguageSubspaces:
    """Two layers, of which the top one counts."""
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(2, len(LANGUAGES), WIDTH, generator=generator, dtype=torch.float64)
    norms = 5 + torch.rand(2, len(LANGUAGES), generator=generator)
    fitted = fit_subspaces(means, rank=2)
    deltas = directions(means, fitted.specific, 0)
    parts = (fitted.agnostic, fitted.specific, deltas, means, norms)
    return LanguageSubspaces(LANGUAGES, *(part.float() for part in parts))


def lens(**keys) -> Lens:
    return Lens.model_validate({"kind": "lens", "lambda": OF_EACH} | keys)


def own(subspaces, language):
    return subspaces.directions[-1, LANGUAGES.index(language)]


@pytest.mark.parametrize("unit", ["absolute", "state_norm"])
def test_permuted_is_the_next_languages_direction(subspaces, unit):
    found = objective(lens(direction="permuted", lambda_unit=unit), subspaces, TARGETS)
    assert torch.equal(found.specific, subspaces.specific[-1])
    for language, lender in (("zh", "ja"), ("ja", "sw"), ("sw", "zh")):
        wanted = OF_EACH[language] * own(subspaces, lender)
        if unit == "state_norm":  # of the length of the language's own states
            length = OF_EACH[language] * subspaces.norms[-1, LANGUAGES.index(language)]
            wanted = length * own(subspaces, lender) / own(subspaces, lender).norm()
        torch.testing.assert_close(found.shifts[language], wanted)


@pytest.mark.parametrize("unit", ["absolute", "state_norm"])
def test_random_is_elsewhere_and_as_long(subspaces, unit):
    found = objective(lens(direction="random", lambda_unit=unit), subspaces, TARGETS, seed=1)
    reference = objective(lens(lambda_unit=unit), subspaces, TARGETS)
    torch.testing.assert_close(found.specific.T @ found.specific, torch.eye(2))
    torch.testing.assert_close(found.agnostic @ found.specific, torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(found.agnostic, reference.agnostic)
    for language in TARGETS:
        shift, usual = found.shifts[language], reference.shifts[language]
        torch.testing.assert_close(shift.norm(), usual.norm())
        torch.testing.assert_close(found.specific @ (found.specific.T @ shift), shift)  # inside, as push needs it
        assert abs(torch.cosine_similarity(shift, usual, dim=0)) < 0.95
    cosine = torch.cosine_similarity(found.shifts["zh"], found.shifts["ja"], dim=0)
    assert abs(cosine) < 0.999  # each language has its own


def test_the_seed_decides_the_random_direction(subspaces):
    first, again, other = (objective(lens(direction="random"), subspaces, TARGETS, seed) for seed in (0, 0, 1))
    assert torch.equal(first.specific, again.specific)
    assert torch.equal(first.shifts["zh"], again.shifts["zh"])
    assert not torch.allclose(first.shifts["zh"], other.shifts["zh"])
    plain = [objective(lens(), subspaces, TARGETS, seed) for seed in (0, 1)]
    assert torch.equal(plain[0].shifts["zh"], plain[1].shifts["zh"])


def test_random_subspaces_cover_all_of_what_is_orthogonal():
    """The mean projection on a uniformly random subspace is rank / (d - 1) of the identity there."""
    generator = torch.Generator().manual_seed(0)
    agnostic = torch.tensor([0.0, 0.0, 3.0, 0.0])
    draws = [random_subspace(agnostic, 2, generator) for _ in range(4000)]
    mean = torch.stack([basis @ basis.T for basis in draws]).mean(dim=0)
    torch.testing.assert_close(mean, torch.diag(torch.tensor([1.0, 1.0, 0.0, 1.0])) * 2 / 3, atol=0.03, rtol=0)


def test_there_must_be_room_for_a_random_subspace():
    with pytest.raises(LensflowError, match=r"^direction: random needs states of more than 3 dimensions; use another"):
        random_subspace(torch.ones(3), 3, torch.Generator())


def test_a_term_of_weight_zero_is_ablated(subspaces):
    terms = {"pull": torch.tensor(2.0), "push": torch.tensor(3.0), "retain": torch.tensor(5.0)}
    for left_out in terms:
        config = lens(weights={left_out: 0.0})
        found = objective(config, subspaces, TARGETS).loss(terms)
        assert found == sum(value for name, value in terms.items() if name != left_out)


def test_permuted_needs_another_target():
    setting = Setting.model_validate({"central": "en", "languages": ["en", "zh"]})
    extraction = SimpleNamespace(trainable_layers=2, pooling="last")
    with pytest.raises(
        ValueError, match=r"^direction: permuted needs at least two target languages, setting a has one"
    ):
        lens(direction="permuted").check(extraction, {"a": setting})


def test_steering_needs_nothing_of_lens():
    assert not [name for name in closure("lensflow.methods.logit_bias") if name.startswith("lensflow.methods.lens")]
    assert "lensflow.methods.lens.training" in closure("lensflow.methods.lens.kind")
