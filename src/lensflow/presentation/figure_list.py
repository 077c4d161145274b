"""The list of figures, with a description of each."""

from lensflow.presentation.blocks import TOLD

# Name of a figure -> what it shows; drawn for every backbone and setting as far as there is something to draw.
FIGURES = {
    "effects": "What each method changes: difference to base in usable answers on the same items, with 95 % intervals",
    "outcomes": "One outcome per answer, on unseen test prompts: shares that add up to one, with the 95 % interval of "
    "the usable ones",
    "front": "Usable answers against the central language's likelihood; bars are 95 % intervals of the difference to "
    f"base, {TOLD} is told the prompt's language",
    "training": "Training curves, means over seeds; full markers are the dev texts",
    "separability": "Shares of the states' variance between languages and between texts, by layer, with 95 % bands",
    "retrieval": (
        "Retrieval of parallel texts by layer, with and without the specific subspace (fitted on most of them where a "
        "setting probes and trains on one corpus), with 95 % bands"
    ),
    "spectrum": "Spectrum of the differences between the language means, by layer",
    "cosines": "Cosines of the languages' directions",
}
# What the report shows at once; it folds the others away.
FIRST = ("effects", "outcomes")
SWEEP = "Usable answers against the central language's likelihood along the sweep "
STATES = "Dev states before and after training in both subspaces and by their neighbourhoods: "
