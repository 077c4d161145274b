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
        config: the weights, the reduction, and which states to retain.
        agnostic: (d,) M_a of the top layer.
        specific: (d, r) M_s of the top layer, or the subspace that replaces it in a control.
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
        """Compute the unweighted terms for n pairs and their m central texts, averaged over pairs and over texts.

        Args:
            languages: n target languages.
            target: (n, d) states of the target texts.
            target_reference: the same states from the untouched backbone.
            counterpart: (n, d) states of the same texts in the central language.
            central: the states to retain, (m, d): the central texts' last tokens, or means over their tokens.
            central_reference: the same states from the untouched backbone.
        """
        reduction = self.config.reduction
        shift = torch.stack([self.shifts[language] for language in languages])
        return {
            "pull": losses.pull(target, counterpart, self.agnostic, reduction),
            "push": losses.push(target, target_reference, shift, self.specific, reduction),
            "retain": losses.retain(central, central_reference, reduction),
        }

    def loss(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum w_pull·pull + w_push·push + w_retain·retain."""
        weights = self.config.weights
        return weights.pull * terms["pull"] + weights.push * terms["push"] + weights.retain * terms["retain"]

    def shares(self, terms: Mapping[str, float]) -> dict[str, Term]:
        """Return each term and its share of the weighted loss."""
        weights = self.config.weights.canonical()
        weighted = {name: weights[name] * value for name, value in terms.items()}
        loss = sum(weighted.values())
        return {name: Term(value=value, share=weighted[name] / loss if loss else None) for name, value in terms.items()}

    def residual(self, states: Mapping[str, Tensor], references: Mapping[str, Tensor]) -> float | None:
        """Return the share of the way to the push target that is left, the mean over targets and texts; None without a
        push.

        Args:
            states: target language -> (n, d) states of its texts. A language with λ = 0 is not pushed.
            references: the same states from the untouched backbone.
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

    `direction` says what δ is. `own` is the language's own δ (the paper). The controls within M_s are `negative`,
    `common` and `deranged` (`lensflow.mathematics.directions`), and `permuted`, which gives every target the δ of the
    next target, and the last target the δ of the first. Other controls replace M_s by another subspace, which is
    orthogonal to M_a as M_s is:

    - `random`: a random subspace of the same rank. δ is a random direction in it, as long as the language's own δ.
    - `rotated`: a random subspace of the same rank. δ has the same coordinates in it as in M_s, so M_s and all δ are
      rotated together and the Gram matrix of the δ does not change.
    - `covariance`: random vectors with the covariance of `states`, without their part along M_a, scaled to δ's length.
      The subspace is their span.

    Args:
        config: the method.
        subspaces: the subspaces of the setting.
        targets: the languages that are pushed.
        seed: the seed of the run. It is the number of the draw if the method does not name one.
        states: (n, d) states of each language at the top.

    Raises:
        LensflowError: the states have no dimensions besides M_a and M_s, or the targets do not have such a derangement.
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
