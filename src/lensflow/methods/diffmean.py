"""DiffMean: adds the difference of two languages' mean states in one block (arXiv 2601.08331, CLaS-Bench).

μ(ℓ,x) is the mean state after block ℓ over all tokens of language x, without the first token of each text (usually
BOS). Let g be the wanted language, s the language to move away from, and u(v) = v/‖v‖. For all tokens, h ← h + α
u(μ(ℓ,g) - μ(ℓ,s)).

The defaults are CLaS-Bench's choice for Llama-3.1-8B-Instruct: block 20 of 32 and α = 5. The authors chose them on the
benchmark's own answers. α is a length, so the same value may be too large or too small for another model. With `unit:
state_norm`, α is a share of the mean length of the states after the block. The paper computes means over 10M tokens of
CulturaX per language; we use the prompts of the training corpus. The method is told the wanted language and the
prompt's.

Let c be the central language and δ(x) = μ(x) - μ(c). A control replaces every δ(x) by another vector δ'(x), with
δ'(c) = 0, and adds α u(δ'(g) - δ'(s)).
"""

from typing import ClassVar, Literal

from lensflow.methods.base import Block, Controlled, Injecting, Run, Trained, blocks_of
from lensflow.schema.types import NonNegative


class DiffMean(Controlled, Injecting):
    """Adds the unit difference of two languages' mean states in one block."""

    of_blocks: ClassVar[tuple[str, ...]] = ("layer",)

    kind: Literal["diffmean"]
    layer: Block = 0.625
    """The block whose states move: its number, or a share of the depth. Paper: 20 of 32 for Llama-3.1-8B-Instruct."""
    strength: NonNegative = 5.0
    """α, how far states are moved. Source: paper, for the same model."""
    unit: Literal["absolute", "state_norm"] = "absolute"
    """Unit of α: `absolute`, or a share of the mean length of the block's states (`state_norm`)."""


Config = DiffMean


def train(run: Run[DiffMean]) -> Trained:
    """Write the vector that is added for each pair of languages."""
    import torch
    from torch.nn.functional import normalize

    from lensflow.artifacts import deltas, interventions
    from lensflow.artifacts.interventions import BlockEdit, Intervention
    from lensflow.mathematics.directions import controlled
    from lensflow.methods.probing import text_states

    central = run.setting.central
    means, norms, texts = {}, {}, []
    for language, states in text_states(run):
        (layer,) = blocks_of(run.method.layer, len(states.token_mean), "layer")
        means[language], norms[language] = states.token_mean[layer], float(states.mean_norm[layer])
        texts.append(states.text_means[:, layer].clone())
    own = {language: means[language] - means[central] for language in run.setting.targets}
    deltas_of = {central: torch.zeros_like(means[central])}
    deltas_of |= controlled(run.method.direction, own, run.method.draw, texts)
    blocks = {}
    for (source, wanted), away in run.method.pairs(run.setting):
        vector = normalize(deltas_of[wanted] - deltas_of[away], dim=0).float()
        length = norms[source] if run.method.unit == "state_norm" else 1.0
        blocks[source, wanted] = [BlockEdit(layer, "add", vector, strength=run.method.strength * length)]
    interventions.write(Intervention(blocks=blocks), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
