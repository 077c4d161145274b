"""Contrastive activation addition (CAA: Panickssery et al., arXiv 2312.06681), between languages.

The vector of a pair of languages is the mean difference of the states after block ℓ, at the last token of n parallel
prompts: v = mean_i (h⁺_i(ℓ) - h⁻_i(ℓ)). The positive prompts are in the wanted language g. The negative ones are in the
language to move away from. While the model answers, h ← h + m v at the tokens after the prompt.

Defaults: one block in the middle, m = 1 (CAA's unit), and the tokens after the prompt, as in CAA. CAA chooses block and
m on held-out data, so choose them on the `-dev` benchmarks. The method is told the wanted language and the prompt's.
"""

from typing import ClassVar, Literal

from lensflow.methods.base import Injecting, Layers, Run, Trained, blocks_of
from lensflow.schema.types import NonNegative


class Steer(Injecting):
    """Adds the mean difference of two languages' prompts to the residual stream."""

    needs_states: ClassVar[bool] = True
    of_blocks: ClassVar[tuple[str, ...]] = ("layers",)

    kind: Literal["steer"]
    layers: Layers = 0.5
    """The blocks: `all`, a number or share of the depth, or the first and the last one. The default is one block
    in the middle (CAA)."""
    strength: NonNegative = 1.0
    """m, the factor of the vector. Source: CAA."""
    positions: Literal["all", "but_first", "prompt", "generated"] = "generated"
    """The tokens whose states move. Source: CAA, the `generated` ones."""
    restore_norm: bool = False
    """Whether a state keeps its length. CAA does not keep the length."""


Config = Steer


def train(run: Run[Steer]) -> Trained:
    """Write the vector that is added for each pair of languages."""
    from lensflow.artifacts import deltas, interventions
    from lensflow.artifacts.interventions import BlockEdit, Intervention
    from lensflow.methods.probing import prompt_means

    means = prompt_means(run)
    languages, method = run.setting.languages, run.method
    blocks = {}
    for pair, away in method.pairs(run.setting):
        vectors = means[:, languages.index(pair[1])] - means[:, languages.index(away)]
        blocks[pair] = [
            BlockEdit(
                layer,
                "add",
                vectors[layer].float(),
                strength=method.strength,
                positions=method.positions,
                restore_norm=method.restore_norm,
            )
            for layer in blocks_of(method.layers, len(means))
        ]
    interventions.write(Intervention(blocks=blocks), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
