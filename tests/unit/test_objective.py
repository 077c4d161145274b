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
from lensflow.methods.registry import AnyMethod
from lensflow.provenance.code import closure
from lensflow.schema.extraction import Extraction
from lensflow.schema.parsing import parse
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


STATES = [torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(7)) for _ in LANGUAGES]


@pytest.mark.parametrize("unit", ["absolute", "state_norm"])
@pytest.mark.parametrize("control", ["negative", "common", "deranged", "rotated", "covariance"])
def test_a_control_is_as_long_and_within_reach(subspaces, control, unit):
    found = objective(lens(direction=control, lambda_unit=unit), subspaces, TARGETS, 0, STATES)
    reference = objective(lens(lambda_unit=unit), subspaces, TARGETS)
    assert torch.equal(found.agnostic, reference.agnostic)
    torch.testing.assert_close(found.specific.T @ found.specific, torch.eye(found.specific.shape[1]))
    torch.testing.assert_close(found.agnostic @ found.specific, torch.zeros(found.specific.shape[1]), atol=1e-5, rtol=0)
    assert torch.equal(found.specific, reference.specific) == (control in ("negative", "common", "deranged"))
    for language in TARGETS:
        shift, usual = found.shifts[language], reference.shifts[language]
        torch.testing.assert_close(found.specific @ (found.specific.T @ shift), shift)  # as push needs it
        if control != "deranged" or unit == "state_norm":
            torch.testing.assert_close(shift.norm(), usual.norm())
        assert not torch.allclose(shift, usual)


def test_controls_within_the_subspace(subspaces):
    shifts = {
        control: objective(lens(direction=control), subspaces, TARGETS).shifts
        for control in ("negative", "common", "deranged")
    }
    mean = sum(own(subspaces, language) for language in TARGETS)
    for language, lender in (("zh", "ja"), ("ja", "sw"), ("sw", "zh")):  # the first derangement
        delta = OF_EACH[language] * own(subspaces, language)
        torch.testing.assert_close(shifts["negative"][language], -delta)
        torch.testing.assert_close(shifts["common"][language], delta.norm() * mean / mean.norm())
        torch.testing.assert_close(shifts["deranged"][language], OF_EACH[language] * own(subspaces, lender))
    other = objective(lens(direction="deranged", draw=1), subspaces, TARGETS).shifts
    torch.testing.assert_close(other["zh"], OF_EACH["zh"] * own(subspaces, "sw"))


def test_rotated_keeps_the_gram_matrix(subspaces):
    found = objective(lens(direction="rotated", **{"lambda": 1.0}), subspaces, TARGETS, seed=2)
    deltas = torch.stack([own(subspaces, language) for language in TARGETS])
    turned = torch.stack([found.shifts[language] for language in TARGETS])
    torch.testing.assert_close(turned @ turned.T, deltas @ deltas.T)


def test_covariance_draws_are_the_states_without_what_they_share(subspaces):
    """States that vary along M_a and one axis leave only that axis."""
    agnostic = torch.nn.functional.normalize(subspaces.agnostic[-1], dim=0)
    axis = torch.nn.functional.normalize(torch.eye(WIDTH)[0] - agnostic[0] * agnostic, dim=0)
    states = [9 + torch.outer(rows[:, 0], axis) + 5 * torch.outer(rows[:, 1], agnostic) for rows in STATES]
    found = objective(lens(direction="covariance", **{"lambda": 1.0}), subspaces, TARGETS[:1], 0, states)
    shift = found.shifts["zh"]
    torch.testing.assert_close(shift.norm(), own(subspaces, "zh").norm())
    torch.testing.assert_close((shift @ axis).abs(), shift.norm())


@pytest.mark.parametrize("control", ["rotated", "covariance", "random"])
def test_a_draw_is_the_seeds_unless_it_has_a_number(subspaces, control):
    def shift(seed, **keys):
        return objective(lens(direction=control, **keys), subspaces, TARGETS, seed, STATES).shifts["zh"]

    assert torch.equal(shift(3), shift(0, draw=3)) and torch.equal(shift(5, draw=3), shift(3))
    assert not torch.allclose(shift(3), shift(4))


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


@pytest.mark.parametrize(
    ("targets", "draw", "message"),
    [
        (1, None, r"^direction: deranged has 0 draws for the 1 target languages of setting a; lower draw, or use"),
        (2, 1, r"^direction: deranged has 1 draws for the 2 target languages of setting a"),
        (3, 2, r"^direction: deranged has 2 draws"),
    ],
)
@pytest.mark.parametrize("kind", ["lens", "logit_bias", "diffmean"])
def test_there_are_only_so_many_derangements(kind, targets, draw, message):
    setting = Setting.model_validate({"central": "en", "languages": LANGUAGES[: targets + 1]})
    keys = {} if draw is None else {"draw": draw}
    method = parse(AnyMethod, {"kind": kind, "direction": "deranged"} | keys)
    with pytest.raises(ValueError, match=message):
        method.check(Extraction(), {"a": setting})
    if draw:
        parse(AnyMethod, {"kind": kind, "direction": "deranged", "draw": draw - 1}).check(Extraction(), {"a": setting})


def test_steering_needs_nothing_of_lens():
    assert not [name for name in closure("lensflow.methods.logit_bias") if name.startswith("lensflow.methods.lens")]
    assert "lensflow.methods.lens.training" in closure("lensflow.methods.lens.kind")
