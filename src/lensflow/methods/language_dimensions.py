"""Language-specific dimensions are overwritten in one block (arXiv 2510.07213).

μ_x(last) is the mean state of language x after the last block, over all tokens but the first. J holds the K dimensions
in which |μ_c(last) - μ_g(last)| is largest, for the central language c (English in the paper) and the wanted language
g. All tokens get, after one block ℓ,

    h(ℓ)[j] ← α μ_g(last)[j] for j ∈ J

Defaults: K = 400 of Llama's 4,096 dimensions, as that share of other widths; α = 1 and a block at three quarters of
the depth, within the paper's grids (α from 0.2 to 2.2 and blocks 18 to 30 of 32), so choose both on the `-dev`
benchmarks. The authors take 50 sentences per language and, for Llama, a state inside the last block; they exclude
dimensions with massive values by hand, here none are. The method is told the wanted language; answers in the central
language are left alone.
"""

from typing import ClassVar, Literal

from lensflow.methods.base import Block, Method, Run, Trained, blocks_of
from lensflow.schema.types import Count, NonNegative


class LanguageDimensions(Method):
    """A few coordinates get the wanted language's mean values in one block."""

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True
    of_blocks: ClassVar[tuple[str, ...]] = ("layer",)

    kind: Literal["language_dimensions"]
    dimensions: Count | None = None
    """K, the number of dimensions that are overwritten. The default is 400/4096 of the width (paper)."""
    strength: NonNegative = 1.0
    """α, the factor of the wanted language's means. The default is within the paper's grid."""
    layer: Block = 0.75
    """The block: its number, or a share of the depth. The default is within the paper's grid."""


Config = LanguageDimensions


def train(run: Run[LanguageDimensions]) -> Trained:
    """Write what the coordinates become for each wanted language.

    Raises:
        LensflowError: `dimensions` is more than the model has.
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
        raise LensflowError(f"dimensions: {count} of a model that has {width}; lower it")
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
