"""The directions δ along which target languages are pushed, the distance of the push, and random subspaces as controls.

Source: Lens (arXiv 2410.04407, section 3.2). The direction of a language is `subspaces.directions`.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, permutations
from typing import Literal

import torch
from torch import Tensor

from lensflow.errors import LensflowError

Unit = Literal["absolute", "state_norm"]


def own_directions(directions: Tensor, languages: Sequence[str], targets: Sequence[str]) -> dict[str, Tensor]:
    """Return δ (d,) of each target at the top layer.

    Args:
        directions: (L, K, d), the δ of every layer and language.
        languages: K codes, the order of the second dimension.
        targets: some of the languages.
    """
    return {language: directions[-1, languages.index(language)] for language in targets}


def shifts(
    directions: Mapping[str, Tensor], strength_of: Callable[[str], float], unit: Unit, norms: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the push of each target along its direction, (d,).

    With `absolute`, a target moves by λδ (the paper). With `state_norm`, it moves along δ by λ times the mean length of
    its own states, so that λ can be compared between languages and backbones.

    Args:
        directions: language -> δ (d,).
        strength_of: returns the λ of a language.
        unit: unit of λ.
        norms: language -> mean length of its states.
    """
    found = {}
    for language, shift in directions.items():
        if unit == "state_norm":
            shift = shift / shift.norm() * norms[language]
        found[language] = strength_of(language) * shift
    return found


def controlled(
    control: str, directions: Mapping[str, Tensor], draw: int, states: Sequence[Tensor] = ()
) -> Mapping[str, Tensor]:
    """Return the directions that a control uses instead of δ.

    Args:
        control: `own` for δ itself, `negative`, `common`, `rotated`, `covariance` or `deranged`.
        directions: language -> δ (d,).
        draw: number of the random draw for `rotated`, `covariance` and `deranged`.
        states: several (n, d); `covariance` uses their common covariance.

    Raises:
        LensflowError: the languages have no derangement with this number.
    """
    generator = torch.Generator().manual_seed(draw)
    match control:
        case "negative":
            return {language: -delta for language, delta in directions.items()}
        case "common":
            return common(directions)
        case "rotated":
            return rotated(directions, generator)
        case "covariance":
            return covariance_matched(directions, torch.cat(list(states)), generator)
        case "deranged":
            return deranged(directions, draw)
    return directions


def rotated(directions: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Rotate all directions by one random rotation; lengths and angles between languages (their Gram matrix) do not
    change.

    Args:
        directions: language -> δ (d,); fewer languages than d.
        generator: generator of the rotation, which is uniformly random.
    """
    stacked = torch.stack(list(directions.values())).double()
    triangle = torch.linalg.qr(stacked.mT).R  # δ = Q R, and any other orthonormal Q has the same Gram matrix RᵀR
    drawn = torch.randn(stacked.shape[1], len(stacked), generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(drawn).Q
    return dict(zip(directions, (basis @ triangle).mT.to(next(iter(directions.values()))), strict=True))


def covariance_matched(
    directions: Mapping[str, Tensor], states: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw each direction from a normal distribution with the states' covariance, scaled to the length of its own δ.

    Args:
        directions: language -> δ (d,).
        states: (N, d), the states whose covariance is used.
        generator: generator of the draws.
    """
    centred = states.double() - states.double().mean(0)
    weights = torch.randn(len(directions), len(centred), generator=generator, dtype=torch.float64)
    drawn = torch.nn.functional.normalize(weights @ centred, dim=-1)
    return {
        language: (delta.norm() * direction).to(delta)
        for (language, delta), direction in zip(directions.items(), drawn, strict=True)
    }


def common(directions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every language the mean direction away from the central language, scaled to the length of its own δ (d,)."""
    mean = torch.nn.functional.normalize(torch.stack(list(directions.values())).mean(0), dim=-1)
    return {language: delta.norm() * mean for language, delta in directions.items()}


def deranged(directions: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Give every language the direction of another language, by a derangement of the languages.

    Args:
        directions: language -> δ (d,).
        number: number of the derangement, in lexicographic order.

    Raises:
        LensflowError: there are fewer derangements.
    """
    languages = list(directions)
    without = (order for order in permutations(languages) if all(map(operator.ne, order, languages)))
    order = next(islice(without, number, None), None)
    if order is None:
        raise LensflowError(
            f"draw: {len(languages)} languages have no derangement {number}; lower it, or add a language"
        )
    return {language: directions[other] for language, other in zip(languages, order, strict=True)}


def random_subspace(agnostic: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Draw an orthonormal basis (d, rank) of a uniformly random subspace that is orthogonal to `agnostic` (d,).

    Raises:
        LensflowError: there is no such subspace, because d is not larger than the rank.
    """
    if rank >= len(agnostic):
        raise LensflowError(f"direction: random needs states of more than {rank} dimensions; use another direction")
    drawn = torch.randn(len(agnostic), rank, generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(torch.cat([agnostic.double().unsqueeze(-1), drawn], dim=1)).Q
    return basis[:, 1:].to(agnostic.dtype).contiguous()


def random_unit(size: int, generator: torch.Generator) -> Tensor:
    """Draw a vector (size,) of length 1 in a uniformly random direction."""
    return torch.nn.functional.normalize(torch.randn(size, generator=generator), dim=0)
