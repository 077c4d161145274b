"""The figures of hidden states: how languages differ layer by layer, and where training moves the states.

They have the style of `lensflow.presentation.figures`; `lensflow.mathematics.analysis` computes their values.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA

from lensflow.errors import LensflowError
from lensflow.mathematics.analysis import Floats, neighbour_embedding
from lensflow.presentation.figures import MARKERS, PALETTE, STYLE, new_figure, styles

Pairs = Mapping[str, Sequence[Floats]]  # language -> states before and after


def separability_by_layer(shares: Floats, after_norm: bool) -> Figure:
    """The shares of the states' variance between languages and between texts, layer by layer.

    Args:
        shares: (L, 2, 3), `analysis.variance_shares` of each layer.
        after_norm: whether the top layer's states are taken after the final norm.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(6.4, 3.4)
        ax = figure.subplots()
        for place, label, dash in ((0, "between languages", "-"), (1, "between texts", "--")):
            _banded(ax, shares[:, place], PALETTE[place], dash, MARKERS[place], label)
        ax.set_ylim(0, 1)
        ax.set_ylabel("share of the variance")
        _layers(ax, len(shares), after_norm)
        figure.legend(loc="outside lower center", ncols=2, handlelength=4)
        figure.suptitle("What the states of parallel texts differ by", fontsize=10)
    return figure


def retrieval_by_layer(means: Floats, of_language: Mapping[str, Floats], chance: float, after_norm: bool) -> Figure:
    """Accuracy of finding a text among the texts of the central language, layer by layer, with and without M_s.

    Args:
        means: (2, L, 3) accuracy (mean over the targets) and its interval: for the states, and for the states minus
            their projection on the language-specific subspace.
        of_language: target language -> accuracies (2, L); drawn if there are several languages.
        chance: accuracy of guessing.
        after_norm: whether the top layer's states are taken after the final norm.
    """
    several = len(of_language) > 1
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.6, 3.6)
        panels = figure.subplots(1, 2, sharey=True)
        titles = "states as they are", "states without the language-specific subspace"
        for place, (ax, title) in enumerate(zip(panels, titles, strict=True)):
            for language, colour, marker in styles(of_language if several else ()):
                _line(ax, of_language[language][place], colour, "-", marker, language)
            _banded(ax, means[place], "#000000", "-", "", "mean" if several else next(iter(of_language)))
            ax.axhline(chance, color="#555555", linewidth=1.0, linestyle="--", label="chance")
            ax.set_title(title, fontsize=9, loc="left")
            _layers(ax, means.shape[1], after_norm)
        panels[0].set_ylim(0, 1)
        panels[0].set_ylabel("accuracy")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", handlelength=3)
        figure.suptitle("Finding the same text in the central language, by cosine", fontsize=10)
    return figure


def spectrum_by_layer(values: Floats, rank: int, after_norm: bool) -> Figure:
    """Singular values of the centred language means, and the variance that the first ones explain, layer by layer.

    Args:
        values: (L, K-1), `analysis.spectrum`; with K = 2 a single value explains everything and is drawn alone.
        rank: dimensions of the language-specific subspace.
        after_norm: whether the top layer's states are taken after the final norm.
    """
    count = values.shape[1]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.6 if count > 1 else 6.4, 3.4)
        panels = figure.subplots(1, min(count, 2), squeeze=False)[0]
        explained = (values**2).cumsum(1) / (values**2).sum(1, keepdims=True)
        for ax, shown, label in zip(panels, (values, explained), ("singular value", "share explained"), strict=False):
            for place, (number, colour, marker) in enumerate(styles(range(1, count + 1))):
                dash = "-" if number <= rank else ":"  # what the subspace leaves out
                _line(ax, shown[:, place], colour, dash, marker, str(number))
            ax.set_ylabel(label)
            _layers(ax, len(values), after_norm)
        panels[0].set_yscale("log")
        if count > 1:
            panels[1].set_ylim(0, 1.02)
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, title="component;\nup to it", loc="outside right upper", handlelength=3)
        figure.suptitle(f"Differences between the language means (rank {rank})", fontsize=10)
    return figure


def direction_cosines(between: Floats, to_top: Floats, languages: Sequence[str], after_norm: bool) -> Figure:
    """Angles between the languages' directions at the top layer, and between each layer's directions and the top
    layer's.

    Args:
        between: (K-1, K-1) cosines at the top layer; with a single target this part is left out.
        to_top: (L, K-1) cosine of each layer's direction with the top layer's direction.
        languages: the K-1 targets.
        after_norm: whether the top layer's states are taken after the final norm.
    """
    several = len(languages) > 1
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8.6 if several else 6.4, 3.6)
        panels = figure.subplots(1, 1 + several, squeeze=False, width_ratios=(3, 4)[1 - several :])[0]
        if several:
            ax = panels[0]
            ax.imshow(between, cmap="PuOr", vmin=-1, vmax=1)
            for (row, column), value in np.ndenumerate(between):
                colour = "white" if abs(value) > 0.7 else "black"
                ax.text(column, row, f"{value:z.2f}", ha="center", va="center", fontsize=7.5, color=colour)
            ax.set_xticks(range(len(languages)), languages)
            ax.set_yticks(range(len(languages)), languages)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set_title("between languages, top layer", fontsize=9, loc="left")
        ax = panels[-1]
        for place, (language, colour, marker) in enumerate(styles(languages)):
            _line(ax, to_top[:, place], colour, "-", marker, language)
        ax.set_ylim(min(0.0, to_top.min()) - 0.02, 1.02)
        ax.set_title("of each layer with the top layer", fontsize=9, loc="left")
        _layers(ax, len(to_top), after_norm)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper")
        figure.suptitle("Cosines of the directions from the central language", fontsize=10)
    return figure


def _line(ax: Axes, values: Floats, colour: str, dash: str, marker: str, label: str, width: float = 1.1) -> None:
    """A line of one value per layer, (L,)."""
    numbers = range(1, len(values) + 1)
    ax.plot(numbers, values, dash, color=colour, linewidth=width, marker=marker, markersize=4, label=label)


def _banded(ax: Axes, values: Floats, colour: str, dash: str, marker: str, label: str) -> None:
    """A line of (L, 3) values with a band between their lower and upper limits."""
    ax.fill_between(range(1, len(values) + 1), *values[:, 1:].T, color=colour, alpha=0.2, linewidth=0)
    _line(ax, values[:, 0], colour, dash, marker, label, width=1.7)


def _layers(ax: Axes, depth: int, after_norm: bool) -> None:
    ax.set_xlabel("layer (the top one after the final norm)" if after_norm else "layer")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlim(0.5, depth + 0.5)
    ax.grid()


def state_map(
    before: Mapping[str, Floats],
    after: Mapping[str, Floats],
    agnostic: Floats,
    specific: Floats,
    languages: Sequence[str],
) -> Figure:
    """The positions of the dev states at the top layer, before and after training, in three views.

    - In the language-specific subspace: x = h M_s; with r > 2 its first two principal components (fitted on before and
      after together), with r = 1 the single coordinate, one strip per language.
    - Along the language-agnostic direction: h M_a/|M_a|, one strip per language.
    - All dimensions, by their neighbourhoods (`analysis.neighbour_embedding`).

    Points before training are hollow, and points after it are filled. An arrow leads from a language's mean before
    training to its mean after it.

    Args:
        before: language -> states (n, d) of the untouched backbone at the top layer.
        after: language -> states (n, d) of the same texts after training.
        agnostic: M_a of the top layer, (d,).
        specific: M_s of the top layer, (d, r), r >= 1, orthonormal columns.
        languages: the languages to draw, central first.

    Raises:
        LensflowError: a language has no states, or the states do not have d columns.
    """
    specific = np.asarray(specific, dtype=np.float64)
    for language in languages:
        for when, states in (("before", before), ("after", after)):
            if language not in states or states[language].ndim != 2 or states[language].shape[1] != len(specific):
                raise LensflowError(
                    f"dev states {when}.{language}: must have the shape (n, {len(specific)}); train again"
                )
    pairs: dict[str, list[Floats]] = {
        language: [np.asarray(states[language], dtype=np.float64) for states in (before, after)]
        for language in languages
    }
    direction = np.asarray(agnostic, dtype=np.float64)[:, None] / np.linalg.norm(agnostic)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10.8, 4.4 if specific.shape[1] == 1 else 5.6)
        places = figure.add_gridspec(2, 2, width_ratios=(3, 2))
        left, top, bottom = (figure.add_subplot(place) for place in (places[:, 0], places[0, 1], places[1, 1]))
        of_specific = _each(pairs, lambda states: states @ specific)
        if specific.shape[1] == 1:
            _strips(left, of_specific)
        else:
            _plane(left, of_specific)
        _strips(top, _each(pairs, lambda states: states @ direction))
        _neighbours(bottom, pairs)
        for ax, title in (
            (left, "language-specific subspace"),
            (top, "language-agnostic direction"),
            (bottom, "all dimensions: t-SNE"),
        ):
            ax.set_title(title, fontsize=9, loc="left")
        _map_legend(figure, pairs)
        figure.suptitle("Dev states at the top layer", fontsize=10)
    return figure


def _each(pairs: Pairs, view: Callable[[Floats], Floats]) -> dict[str, list[Floats]]:
    return {language: [view(states) for states in pair] for language, pair in pairs.items()}


def _plane(ax: Axes, pairs: Pairs) -> None:
    pca = PCA(n_components=2, svd_solver="full").fit(np.concatenate([x for pair in pairs.values() for x in pair]))
    for language, colour, marker in styles(pairs):
        old, new = (pca.transform(x) for x in pairs[language])
        _points(ax, old, new, colour, marker)
        _arrow(ax, old.mean(axis=0), new.mean(axis=0))
    for axis, name, share in zip((ax.xaxis, ax.yaxis), ("PC 1", "PC 2"), pca.explained_variance_ratio_, strict=True):
        axis.set_label_text(f"{name} ({100 * share:.0f} % of the variance)")
    ax.grid()
    ax.margins(0.08)


def _strips(ax: Axes, pairs: Pairs) -> None:
    for row, (language, colour, marker) in enumerate(styles(pairs)):
        old, new = (x[:, 0] for x in pairs[language])
        # Spread over a fixed width, in the order of the texts: no random jitter, the same picture each time.
        lanes = [np.linspace(-0.14, 0.14, len(x)) + row + offset for x, offset in ((old, -0.2), (new, 0.2))]
        _points(ax, np.stack([old, lanes[0]], axis=1), np.stack([new, lanes[1]], axis=1), colour, marker)
        _arrow(ax, np.array([old.mean(), row - 0.2]), np.array([new.mean(), row + 0.2]))
    ax.set_yticks(range(len(pairs)), list(pairs))
    ax.set_ylim(len(pairs) - 0.4, -0.6)
    ax.set_xlabel("coordinate")
    ax.grid(axis="x")


def _neighbours(ax: Axes, pairs: Pairs) -> None:
    parts = [states for pair in pairs.values() for states in pair]
    embedded = neighbour_embedding(np.concatenate(parts))
    split = np.split(embedded, np.cumsum([len(part) for part in parts])[:-1])
    for (_, colour, marker), old, new in zip(styles(pairs), split[::2], split[1::2], strict=True):
        _points(ax, old, new, colour, marker)
    ax.set_xticks([])  # the axes have no meaning
    ax.set_yticks([])


def _points(ax: Axes, old: Floats, new: Floats, colour: str, marker: str) -> None:
    look: dict[str, Any] = {"s": 18, "marker": marker, "alpha": 0.8}
    ax.scatter(old[:, 0], old[:, 1], **look, facecolors="none", edgecolors=colour, linewidths=0.8)
    ax.scatter(new[:, 0], new[:, 1], **look, facecolors=colour, edgecolors="white", linewidths=0.4)


def _arrow(ax: Axes, start: Floats, end: Floats) -> None:
    """An arrow between two points in data units; a dot if the mean did not visibly move."""
    in_data = {"angles": "xy", "scale_units": "xy", "scale": 1}
    ax.quiver(*start, *(end - start), **in_data, width=0.007, color="black", edgecolor="white", linewidth=0.7, zorder=5)


def _map_legend(figure: Figure, pairs: Pairs) -> None:
    point: dict[str, Any] = {"linestyle": "none", "markersize": 6}
    handles = [
        Line2D([], [], color=colour, marker=marker, label=language, **point)
        for language, colour, marker in styles(pairs)
    ]
    handles += [
        Line2D([], [], color="#555555", marker="o", markerfacecolor="none", label="before", **point),
        Line2D([], [], color="#555555", marker="o", label="after", **point),
        Line2D(
            [], [], color="black", marker=r"$\rightarrow$", label="shift of the mean", **(point | {"markersize": 11})
        ),
    ]
    figure.legend(handles=handles, loc="outside right upper")
