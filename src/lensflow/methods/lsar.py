"""LSAR: the language-specific subspace is removed from the state after the final norm (Xie et al., EMNLP 2022).

LSAR itself makes an encoder's sentence embeddings comparable between languages: it subtracts their projection on the
language-specific subspace, e - M_s M_sᵀe, before sentences are looked up across languages (Tatoeba, LAReQA). It decodes
nothing. Here the same is done to the states from which a decoder's next token is predicted, in every language alike, so
that it need not be told which one the prompt is in.

M_s is the setting's subspace of the top layer, with the rank that the setting has, K-1 for K languages unless it says
otherwise. There are no keys. The method is told no language.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from lensflow.methods.base import Method, Run, Trained, check_space
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting


class Lsar(Method):
    """The language-specific component is removed from the state after the final norm, in every language."""

    needs_states: ClassVar[bool] = True
    seeded: ClassVar[bool] = False

    kind: Literal["lsar"]

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that the subspace is one of the states that it is removed from."""
        check_space(self.kind, settings)


Config = Lsar


def train(run: Run[Lsar]) -> Trained:
    """Write the subspace that is removed."""
    from lensflow.artifacts import deltas, interventions, language_subspaces

    assert run.hidden is not None
    removed = language_subspaces.load(run.hidden.subspaces, run.setting).specific[-1]
    interventions.write(interventions.Intervention(removed=removed), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
