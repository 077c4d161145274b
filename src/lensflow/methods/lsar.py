"""LSAR: removes the language-specific subspace from the state after the final norm (Xie et al., EMNLP 2022).

The original LSAR makes the sentence embeddings of an encoder comparable between languages. It subtracts their
projection on the language-specific subspace, e - M_s M_sᵀe, before sentences are searched across languages (Tatoeba,
LAReQA). It does not generate text. Here we do the same to the states from which a decoder predicts the next token. The
edit is the same in every language.

M_s is the setting's subspace of the top layer. Its rank is the setting's `rank`; the default is K-1 for K languages.
There are no keys. The method is told no language.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from lensflow.methods.base import Method, Run, Trained, check_space
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting


class Lsar(Method):
    """Removes the language-specific component from the state after the final norm, in every language."""

    needs_states: ClassVar[bool] = True
    seeded: ClassVar[bool] = False

    kind: Literal["lsar"]

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that the subspace belongs to the states from which it is removed."""
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
