"""MLRS: removes the language subspace in middle blocks and amplifies it in the blocks above (arXiv 2505.15257).

M_s(ℓ) ∈ R^{d×(K-1)} is the language-specific subspace after block ℓ (`mathematics.subspaces`). It is fitted to the K
languages' mean states at the last prompt token, as in Lens. For all tokens, h ← h - λ M_s M_sᵀh, without centring. λ >
0 removes the part that is specific to languages; λ < 0 amplifies it.

Defaults: λ = 0.3 in the middle blocks and λ = -0.1 in all blocks above, as in the paper's example. Its middle blocks
are 10 to 19 of 28; we take the same share of the depth. The paper has K = 11 languages; we have the languages of the
setting. Choose both λ on the `-dev` benchmarks. (The authors' script chooses them on the evaluated results.) The method
is told no language.
"""

from typing import ClassVar, Literal

from pydantic import Field

from lensflow.methods.base import Layers, Method, Run, Trained, blocks_of
from lensflow.schema.types import NonNegative


class Disentangle(Method):
    """Removes the language-specific subspace in middle blocks and amplifies it in the blocks above."""

    needs_states: ClassVar[bool] = True
    seeded: ClassVar[bool] = False
    of_blocks: ClassVar[tuple[str, ...]] = ("remove_layers",)

    kind: Literal["disentangle"]
    remove: NonNegative = 0.3
    """λ in the middle blocks: the share of the language subspace that is removed. Source: paper."""
    remove_layers: Layers = Field(default=[0.36, 0.7])
    """The middle blocks, first and last: numbers, or shares of the depth. Paper: 10 to 19 of 28."""
    reinject: NonNegative = 0.1
    """-λ in the blocks above: how much the language subspace is amplified. Source: paper."""


Config = Disentangle


def train(run: Run[Disentangle]) -> Trained:
    """Write the subspaces and the factors of their edits."""
    from lensflow.artifacts import deltas, interventions
    from lensflow.artifacts.interventions import ANY, BlockEdit, Intervention
    from lensflow.mathematics.subspaces import fit_subspaces
    from lensflow.methods.probing import prompt_means

    method = run.method
    means = prompt_means(run)
    bases = fit_subspaces(means, run.setting.rank).specific.float()
    middle = blocks_of(method.remove_layers, len(means), "remove_layers")
    strengths = dict.fromkeys(middle, method.remove)
    strengths |= dict.fromkeys(range(middle.stop, len(means)), -method.reinject)
    edits = [BlockEdit(layer, "remove", basis=bases[layer], strength=c) for layer, c in strengths.items()]
    interventions.write(Intervention(blocks={ANY: edits}), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
