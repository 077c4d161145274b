"""Lens: language subspace manipulation (arXiv 2410.04407, section 3.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lensflow import losses
from lensflow.config import Lens
from lensflow.fitting import LanguageSubspaces


@dataclass(frozen=True)
class LensObjective:
    """The three terms of the loss for batches of pairs (central text, target text).

    Attributes:
        config: weights, reduction, where to retain.
        agnostic: (d,) M_a of the top layer.
        specific: (d, r) M_s of the top layer.
        shifts: λ_t δ_t of each target, (d,).
    """

    config: Lens
    agnostic: Tensor
    specific: Tensor
    shifts: dict[str, Tensor]

    def terms(
        self,
        languages: list[str],
        target: Tensor,
        target_reference: Tensor,
        counterpart: Tensor,
        central: Tensor,
        central_reference: Tensor,
    ) -> dict[str, Tensor]:
        """Compute the unweighted terms of n pairs and the m central texts in them, averaged over pairs and texts.

        Args:
            languages: n target languages.
            target: (n, d) states of the target texts.
            target_reference: the same from the untouched backbone.
            counterpart: (n, d) states of the same texts in the central language.
            central: what is retained, (m, d): states of the central texts' last tokens, or means over their tokens.
            central_reference: the same from the untouched backbone.
        """
        reduction = self.config.reduction
        shift = torch.stack([self.shifts[language] for language in languages])
        return {
            "pull": losses.pull(target, counterpart, self.agnostic, reduction),
            "push": losses.push(target, target_reference, shift, self.specific, reduction),
            "retain": losses.retain(central, central_reference, reduction),
        }

    def loss(self, terms: dict[str, Tensor]) -> Tensor:
        """Weigh the terms: w_pull·pull + w_push·push + w_retain·retain."""
        weights = self.config.weights
        return weights.pull * terms["pull"] + weights.push * terms["push"] + weights.retain * terms["retain"]


def objective(config: Lens, subspaces: LanguageSubspaces, targets: tuple[str, ...]) -> LensObjective:
    """Build the objective at the top layer.

    With `lambda_unit: absolute` a target moves by λδ (the paper); with `state_norm` by λ times the mean length of its
    own states along δ, which makes λ comparable between languages and backbones.
    """
    shifts = {}
    for language in targets:
        index = subspaces.languages.index(language)
        shift = subspaces.directions[-1, index]
        if config.lambda_unit == "state_norm":
            shift = shift / shift.norm() * subspaces.norms[-1, index]
        shifts[language] = config.strength_of(language) * shift
    return LensObjective(config, subspaces.agnostic[-1], subspaces.specific[-1], shifts)
