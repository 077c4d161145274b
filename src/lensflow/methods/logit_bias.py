"""Steering of the logits: adds λδ to the state after the final norm while the model answers. Nothing is trained.

This is our own control of Lens (arXiv 2410.04407): the push that Lens trains towards, h ← h + λδ, without training. λ =
1 is also Lens's default.

The output layer reads the state after the final norm, so the edit adds the constant W_U λδ to the logits (unless the
model caps its logits). A constant that is added before the norm is not a constant after it, so this is not offered. The
method is told the prompt's language with every prompt, to choose λδ. It does not change answers to prompts in the
central language or in languages outside of the setting.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from lensflow.methods.base import Controlled, Pushing, Run, Trained, check_space
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting


class LogitBias(Controlled, Pushing):
    """Adds λδ to the state after the final norm, in the target languages: the push of Lens without training."""

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True

    kind: Literal["logit_bias"]

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that every target has a λ and a direction, and that the directions belong to the space that is
        steered."""
        super().check(extraction, settings)
        check_space(self.kind, settings)


Config = LogitBias


def train(run: Run[LogitBias]) -> Trained:
    """Write the vector that is added for each target language."""
    from lensflow.artifacts import deltas, interventions, language_subspaces, states
    from lensflow.mathematics import directions

    assert run.hidden is not None
    subspaces = language_subspaces.load(run.hidden.subspaces, run.setting)
    own = directions.own_directions(subspaces.directions, subspaces.languages, run.setting.targets)
    found = (
        [states.load(run.hidden.states[language]).post_norm for language in run.setting.languages]
        if run.method.direction == "covariance"
        else []
    )
    pushed = directions.controlled(run.method.direction, own, run.method.draw, found)
    norms = dict(zip(subspaces.languages, subspaces.norms[-1], strict=True))
    shifts = directions.shifts(pushed, run.method.strength_of, run.method.lambda_unit, norms)
    interventions.write(interventions.Intervention(shifts=shifts), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
