"""Decoding restricted to the script of the wanted language: an upper bound for methods that only change the script.

At every step of generation, each token that would write a letter of another script gets probability 0. Symbols, digits
and end tokens are always allowed. If a token is only a piece of a character, the decision is made on the complete
character. This is our own design. It follows gates that mask scripts (Language Confusion Gate, arXiv 2510.17555), but
uses the true script instead of a learned gate.

A mask cannot tell a language in Latin script from English, so the method does not change answers in such languages. It
also does not change answers in languages outside of the setting. Log-likelihoods are the backbone's, because a mask of
the vocabulary would make them infinite. There are no keys. The method is told the wanted language.
"""

from typing import ClassVar, Literal

from lensflow.methods.base import Method, Run, Trained


class Constrained(Method):
    """Allows only letters of the wanted language's script in answers."""

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True

    kind: Literal["constrained"]


Config = Constrained


def train(run: Run[Constrained]) -> Trained:
    """Write the languages whose answers are restricted."""
    from lensflow.artifacts import deltas, interventions
    from lensflow.languages import LATIN, scripts

    restricted = tuple(language for language in run.setting.languages if scripts(language) != LATIN)
    interventions.write(interventions.Intervention(constrained=restricted), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
