"""Decoding restricted to the script of the wanted language: an upper bound of what a change of script can give.

At every step of generation, tokens that would write a letter of another script get probability 0. Symbols, digits and
end tokens are always allowed, and pieces of characters are decided on the bytes that they make together. This is our
own design, after gates that mask scripts (Language Confusion Gate, arXiv 2510.17555), with the true script in the
place of a learned gate.

For a language in Latin script the mask would not tell it from English, so such languages are left alone, as are
languages outside of the setting. Log-likelihoods are the backbone's: a mask of the vocabulary would make them
infinite. There are no keys. The method is told the wanted language.
"""

from typing import ClassVar, Literal

from lensflow.methods.base import Method, Run, Trained


class Constrained(Method):
    """Answers get letters of the wanted language's script alone."""

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
