"""Lens: language subspace manipulation (arXiv 2410.04407, section 3.2).

The stage `fit_subspaces` splits the states at the top into M_a, what the languages share, and M_s, what tells the
languages apart. δ_t is the direction of target language t in M_s. h is the state of the trained model and h⁰ the state
of the untouched model, both at the last token of a text. The text is in a target language t or in the central language
c. Only the top layers train, on cached states, over pairs of a text and its translation:

    pull    ‖P_a(h_t) - P_a(h_c)‖²              the target takes over the central language's meaning
    push    ‖P_s(h_t) - P_s(h⁰_t) - λ_t δ_t‖²   the target moves along its own direction
    retain  ‖h_c - h⁰_c‖²                       the central language stays where it was

The loss is the weighted sum of the three terms. `config` holds the keys, `objective` the loss with its ablations and
controls, and `training` the loop. The defaults are the paper's. If the paper does not give a value, the default is the
published code's. Each key names its source, and docs/differences.md lists the differences. The method is told no
language.
"""

from lensflow.methods.base import Run, Trained
from lensflow.methods.lens.config import Lens

Config = Lens


def train(run: Run[Lens]) -> Trained:
    """Train the top layers on cached states."""
    from lensflow.methods.lens import training

    return training.train(run)
