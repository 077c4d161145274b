"""Steering of the logits: λδ is added to the state after the final norm while the model answers; nothing is trained.

The output layer reads the state after the final norm, so that steering there is a constant on the logits, W_U λδ (but
where a model caps them). A constant before the norm is no constant behind it, and is not offered. Which λδ to add, the
model is told with every prompt. The central language, and those outside of the setting, are left alone.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lensflow.methods.base import Pushing, Run, Trained, check_space
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting


class LogitBias(Pushing):
    """λδ is added to the state after the final norm, in the target languages: Lens's push without training."""

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True

    kind: Literal["logit_bias"]
    direction: Literal["own", "negative", "common", "rotated", "covariance", "deranged"] = "own"
    """The direction that is added: the language's `own` δ, or a control. `negative`: -δ. `common`: the mean δ of all
    targets. `rotated`: one rotation of all δ. `covariance`: a draw with the states' covariance. `deranged`: another
    target's δ."""
    draw: Annotated[int, Field(ge=0)] = 0
    """Number of the draw of `rotated`, `covariance` and `deranged`."""

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that every target has a λ, and that the directions belong to the space that is steered."""
        super().check(extraction, settings)
        check_space(self.kind, settings)


Config = LogitBias


def train(run: Run[LogitBias]) -> Trained:
    """Write what is added in each target language."""
    import torch

    from lensflow.artifacts import deltas, interventions, language_subspaces, states
    from lensflow.mathematics import directions

    assert run.hidden is not None
    subspaces = language_subspaces.load(run.hidden.subspaces, run.setting)
    own = directions.own_directions(subspaces.directions, subspaces.languages, run.setting.targets)
    generator = torch.Generator().manual_seed(run.method.draw)
    match run.method.direction:
        case "negative":
            own = {language: -delta for language, delta in own.items()}
        case "common":
            own = directions.common(own)
        case "rotated":
            own = directions.rotated(own, generator)
        case "covariance":
            found = [states.load(run.hidden.states[language]).post_norm for language in run.setting.languages]
            own = directions.covariance_matched(own, torch.cat(found), generator)
        case "deranged":
            own = directions.deranged(own, run.method.draw)
    norms = dict(zip(subspaces.languages, subspaces.norms[-1], strict=True))
    shifts = directions.shifts(own, run.method.strength_of, run.method.lambda_unit, norms)
    interventions.write(interventions.Intervention(shifts=shifts), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
