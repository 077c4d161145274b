"""ReCoVeR: adds language vectors in every block and restores the norm (arXiv 2509.14814).

μ(ℓ,x) is the mean state of language x after block ℓ: first the mean over a sentence's tokens without the first, then
the mean over sentences. The language vector is r(ℓ,x) = μ(ℓ,x) - mean over languages. Let s be the prompt's language, g
the wanted language, and u(v) = v/‖v‖. In every block, every token except the first gets

    v = r(g) - β r(s) if g ≠ s, else r(g);  h' = h + α u(v);  h'' = ‖h‖ u(h')

Defaults: α = 1, β = 1 and restored norm (README of the authors' code; its command line has α = 2). The authors use 997
sentences of FLORES+ per language; we use the prompts of the training corpus. States after the last block are taken
before the final norm, where the edit acts. The trained variant ReCoVeR+ is not offered, because its data are
unpublished. The method is told the wanted language and the prompt's.
"""

from typing import ClassVar, Literal

from lensflow.methods.base import Layers, Method, Run, Trained, blocks_of
from lensflow.schema.types import NonNegative


class Recover(Method):
    """Adds centred language vectors in every block and restores the norm."""

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True
    of_blocks: ClassVar[tuple[str, ...]] = ("layers",)

    kind: Literal["recover"]
    strength: NonNegative = 1.0
    """α, how far states are moved. Source: README of the authors' code."""
    source_strength: NonNegative = 1.0
    """β, the weight of the prompt's language. Source: authors' code."""
    layers: Layers = "all"
    """The blocks: `all`, a number or share of the depth, or the first and the last one. Source: authors' code."""
    restore_norm: bool = True
    """Whether a state keeps its length. Source: authors' code."""


Config = Recover


def train(run: Run[Recover]) -> Trained:
    """Write the vectors that are added for each pair of languages."""
    import torch
    from torch.nn.functional import normalize

    from lensflow.artifacts import deltas, interventions
    from lensflow.artifacts.interventions import BlockEdit, Intervention
    from lensflow.methods.probing import text_states

    method = run.method
    means = {language: states.text_means.mean(0) for language, states in text_states(run)}
    centre = torch.stack(list(means.values())).mean(0)
    vectors = {language: mean - centre for language, mean in means.items()}
    blocks = {}
    for source in means:
        for wanted in means:
            change = vectors[wanted] - (method.source_strength * vectors[source] if wanted != source else 0.0)
            blocks[source, wanted] = [
                BlockEdit(
                    layer,
                    "add",
                    normalize(change[layer], dim=0).float(),
                    strength=method.strength,
                    positions="but_first",
                    restore_norm=method.restore_norm,
                )
                for layer in blocks_of(method.layers, len(centre))
            ]
    interventions.write(Intervention(blocks=blocks), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
