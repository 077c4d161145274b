"""Lens: language subspace manipulation (arXiv 2410.04407, section 3.2).

The stage `fit_subspaces` splits the states at the top into M_a, what languages share, and M_s, what tells them apart.
δ_t is the direction of target language t in M_s. h and h⁰ are the states of the trained and of the untouched model at
the last token of a text, in t or in the central language c. The top layers alone train, on cached states, over pairs
of a text and its translation:

    pull    ‖P_a(h_t) - P_a(h_c)‖²              the target takes over the central language's meaning
    push    ‖P_s(h_t) - P_s(h⁰_t) - λ_t δ_t‖²   the target moves along its own direction
    retain  ‖h_c - h⁰_c‖²                       the central language stays where it was

The loss is their weighted sum. `config` holds the keys, `objective` the loss with its ablations and controls,
`training` the loop. Defaults are the paper's, or the published code's where the paper says nothing; each key names
which, and docs/differences.md lists what differs. The method is told no language.
"""

from lensflow.methods.base import Run, Trained
from lensflow.methods.lens.config import Lens

Config = Lens


def train(run: Run[Lens]) -> Trained:
    """Train the top layers on cached states."""
    from lensflow.methods.lens import training

    return training.train(run)
