"""Overwrites the language-specific dimensions of states in one block (arXiv 2510.07213).

μ_x(last) is the mean state of language x after the last block, over all tokens except the first. Let c be the central
language (English in the paper) and g the wanted language. J is the set of the K dimensions in which |μ_c(last) -
μ_g(last)| is largest. After one block ℓ, all tokens get

    h(ℓ)[j] ← α μ_g(last)[j] for j ∈ J

Defaults: K = 400 of Llama's 4,096 dimensions, or the same share of another width; α = 1; and the block at three
quarters of the depth. Both values lie within the paper's grids (α from 0.2 to 2.2 and blocks 18 to 30 of 32), so choose
both on the `-dev` benchmarks. The authors use 50 sentences per language and, for Llama, a state inside the last block.
They exclude dimensions with massive values by hand; we exclude none. The method is told the wanted language. It does
not change answers in the central language.
"""

from typing import ClassVar, Literal

from lensflow.methods.base import Block, Method, Run, Trained, blocks_of
from lensflow.schema.types import Count, NonNegative


class LanguageDimensions(Method):
    """Overwrites a few dimensions with the wanted language's mean values in one block."""

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True
    of_blocks: ClassVar[tuple[str, ...]] = ("layer",)

    kind: Literal["language_dimensions"]
    dimensions: Count | None = None
    """K, the number of dimensions that are overwritten. The default is 400/4096 of the model's width (paper)."""
    strength: NonNegative = 1.0
    """α, the factor of the wanted language's means. The default is within the paper's grid."""
    layer: Block = 0.75
    """The block: its number, or a share of the depth. The default is within the paper's grid."""


Config = LanguageDimensions


def train(run: Run[LanguageDimensions]) -> Trained:
    """Write the new values of the dimensions for each wanted language.

    Raises:
        LensflowError: `dimensions` is larger than the width of the model.
    """
    import torch

    from lensflow.artifacts import deltas, interventions
    from lensflow.artifacts.interventions import BlockEdit, Intervention
    from lensflow.errors import LensflowError
    from lensflow.methods.probing import text_states

    method, means = run.method, {}
    for language, states in text_states(run):
        means[language] = states.token_mean
    central = means[run.setting.central]
    depth, width = central.shape
    count = method.dimensions or max(1, round(width * 400 / 4096))
    if count > width:
        raise LensflowError(f"dimensions: {count} is more than the model's {width} dimensions; lower it")
    (layer,) = blocks_of(method.layer, depth, "layer")
    blocks: dict[tuple[str, str], list[BlockEdit]] = {}
    for wanted in run.setting.targets:
        chosen = (central[-1] - means[wanted][-1]).abs().topk(count).indices.sort().values
        edit = BlockEdit(
            layer, "replace", means[wanted][-1].float(), torch.eye(width)[:, chosen].contiguous(), method.strength
        )
        blocks |= {(source, wanted): [edit] for source in run.setting.languages}
    interventions.write(Intervention(blocks=blocks), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
