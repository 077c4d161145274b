"""The objective of Lens: language subspace manipulation (arXiv 2410.04407, section 3.2), and of its controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lensflow.artifacts.costs import Term
from lensflow.artifacts.language_subspaces import LanguageSubspaces
from lensflow.mathematics import directions, losses
from lensflow.mathematics.projections import coordinates
from lensflow.methods.lens.config import Lens


@dataclass(frozen=True)
class LensObjective:
    """The three terms of the loss for batches of pairs (central text, target text).

    Attributes:
        config: weights, reduction, where to retain.
        agnostic: (d,) M_a of the top layer.
        specific: (d, r) M_s of the top layer, or what stands in its place.
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

    def shares(self, terms: Mapping[str, float]) -> dict[str, Term]:
        """Return the terms with the share of the loss that each has, once it is weighed."""
        weights = self.config.weights.canonical()
        weighted = {name: weights[name] * value for name, value in terms.items()}
        loss = sum(weighted.values())
        return {name: Term(value=value, share=weighted[name] / loss if loss else None) for name, value in terms.items()}

    def residual(self, states: Mapping[str, Tensor], references: Mapping[str, Tensor]) -> float | None:
        """Return what is left of the way to the push target, the mean over targets and texts; None without a push.

        Args:
            states: target language -> (n, d) states of its texts; a language with a λ of 0 is not pushed.
            references: the same from the untouched backbone.
        """
        pushed = [language for language, shift in self.shifts.items() if shift.any()]
        if not (pushed and self.config.weights.push):
            return None
        left = [
            losses.residual(states[language], references[language], self.shifts[language], self.specific)
            for language in pushed
        ]
        return float(torch.cat(left).mean())


def objective(
    config: Lens,
    subspaces: LanguageSubspaces,
    targets: tuple[str, ...],
    seed: int = 0,
    states: Sequence[Tensor] = (),
) -> LensObjective:
    """Build the objective at the top layer.

    What δ is, `direction` says. `own`: the language's own (the paper). Controls within M_s: `negative`, `common` and
    `deranged` (`lensflow.mathematics.directions`); `permuted` gives every target the δ of the one after it, and the
    last one that of the first. Other controls put another subspace in the place of M_s, orthogonal to M_a as M_s is:

    - `random`: a random subspace of the same rank, and in it a random direction of the length of the language's own δ.
    - `rotated`: a random subspace of the same rank, and in it the coordinates that δ has in M_s: M_s and all δ are
      rotated together, and the Gram matrix of the δ stays.
    - `covariance`: draws with the covariance of `states`, without their part along M_a, of δ's length, and their span.

    Args:
        config: the method.
        subspaces: of the setting.
        targets: the languages that are pushed.
        seed: of the run, which numbers the draw unless the method does.
        states: (n, d) of each language at the top.

    Raises:
        LensflowError: the states have no more dimensions than M_a and M_s, or the targets no such derangement.
    """
    draw = seed if config.draw is None else config.draw
    generator = torch.Generator().manual_seed(draw)
    agnostic, specific = subspaces.agnostic[-1], subspaces.specific[-1]
    own = directions.own_directions(subspaces.directions, subspaces.languages, targets)
    pushed: Mapping[str, Tensor]
    match config.direction:
        case "permuted":
            pushed = dict(zip(targets, [own[language] for language in (*targets[1:], targets[0])], strict=True))
        case "random":
            specific = directions.random_subspace(agnostic, specific.shape[1], generator)
            pushed = {
                language: delta.norm() * specific @ directions.random_unit(specific.shape[1], generator)
                for language, delta in own.items()
            }
        case "rotated":
            turned = directions.random_subspace(agnostic, specific.shape[1], generator)
            pushed = {language: turned @ coordinates(delta, specific) for language, delta in own.items()}
            specific = turned
        case "covariance":
            unit = normalize(agnostic, dim=0)
            outside = [rows - torch.outer(rows @ unit, unit) for rows in states]
            pushed = directions.controlled("covariance", own, draw, outside)
            specific = torch.linalg.qr(torch.stack(list(pushed.values()), dim=1)).Q
        case other:
            pushed = directions.controlled(other, own, draw)
    norms = dict(zip(subspaces.languages, subspaces.norms[-1], strict=True))
    shifts = directions.shifts(pushed, config.strength_of, config.lambda_unit, norms)
    return LensObjective(config, agnostic, specific, shifts)
