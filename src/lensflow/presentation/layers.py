"""The figures of all layers of a backbone, from the states of parallel texts."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lensflow.artifacts import language_subspaces
from lensflow.artifacts.states import load
from lensflow.mathematics import analysis
from lensflow.presentation import state_figures
from lensflow.schema.setting import Setting


def by_layer(
    setting: Setting, subspaces: language_subspaces.LanguageSubspaces, paths: Mapping[str, Path]
) -> Iterator[tuple[str, Figure]]:
    """The figures of all layers, from the states of all texts of a parallel corpus."""
    normed = setting.space == "post_norm"
    loaded = [load(paths[language]) for language in (setting.central, *setting.targets)]
    specific = subspaces.specific.double().numpy()
    shares, hits = [], []
    for layer, basis in enumerate(specific):
        top = normed and layer == len(specific) - 1
        states = np.stack([(one.post_norm if top else one.layers[layer]).double().numpy() for one in loaded])
        shares.append(analysis.variance_shares(states))
        hits.append([analysis.retrieval_hits(x, central=0) for x in (states, analysis.without(states, basis))])
    yield "separability", state_figures.separability_by_layer(np.stack(shares), normed)
    found = np.array(hits)  # (L, 2, K-1, N)
    means = np.array([[analysis.share_interval(kind) for kind in layer] for layer in found])
    of_language = dict(zip(setting.targets, found.mean(3).transpose(2, 1, 0), strict=True))
    chance = 1 / found.shape[-1]
    yield "retrieval", state_figures.retrieval_by_layer(means.transpose(1, 0, 2), of_language, chance, normed)
    values = analysis.spectrum(subspaces.means.numpy())
    yield "spectrum", state_figures.spectrum_by_layer(values, specific.shape[-1], normed)
    places = [setting.languages.index(language) for language in setting.targets]
    directions = subspaces.directions[:, places].double().numpy()
    between = analysis.cosines(directions, directions[-1])
    to_top = np.diagonal(between, axis1=1, axis2=2)
    yield "cosines", state_figures.direction_cosines(between[-1], to_top, setting.targets, normed)
