"""Where target languages are pushed: their directions δ, how far along them, and random subspaces as controls.

Source: Lens (arXiv 2410.04407, section 3.2). The direction of a language is `subspaces.directions`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lensflow.errors import LensflowError

Unit = Literal["absolute", "state_norm"]


def own_directions(directions: Tensor, languages: Sequence[str], targets: Sequence[str]) -> dict[str, Tensor]:
    """Return δ (d,) of each target at the top layer.

    Args:
        directions: (L, K, d), δ of every layer and language.
        languages: K codes, the order of the second dimension.
        targets: some of them.
    """
    return {language: directions[-1, languages.index(language)] for language in targets}


def shifts(
    directions: Mapping[str, Tensor], strength_of: Callable[[str], float], unit: Unit, norms: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return how far each target is pushed along its direction, (d,).

    With `absolute` a target moves by λδ (the paper); with `state_norm` by λ times the mean length of its own states
    along δ, which makes λ comparable between languages and backbones.

    Args:
        directions: language -> δ (d,).
        strength_of: gives λ of a language.
        unit: of λ.
        norms: language -> mean length of its states.
    """
    found = {}
    for language, shift in directions.items():
        if unit == "state_norm":
            shift = shift / shift.norm() * norms[language]
        found[language] = strength_of(language) * shift
    return found


def random_subspace(agnostic: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Draw an orthonormal basis (d, rank) of a uniformly random subspace that is orthogonal to `agnostic` (d,).

    Raises:
        LensflowError: there is none, d is not larger than the rank.
    """
    if rank >= len(agnostic):
        raise LensflowError(f"direction: random needs states of more than {rank} dimensions; use another direction")
    drawn = torch.randn(len(agnostic), rank, generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(torch.cat([agnostic.double().unsqueeze(-1), drawn], dim=1)).Q
    return basis[:, 1:].to(agnostic.dtype).contiguous()


def random_unit(size: int, generator: torch.Generator) -> Tensor:
    """Draw a vector (size,) of length 1 in a uniformly random direction."""
    return torch.nn.functional.normalize(torch.randn(size, generator=generator), dim=0)
