"""The figures: answers in the right language, training curves, and where the states moved.

Each function returns a `matplotlib.figure.Figure`; `save` writes it as SVG and PNG, byte for byte the same each time.
Colours are Okabe and Ito's palette (safe for colour-blind readers), doubled by hatches, dashes or markers so that a
grey print can be read; languages are shown by code, so that no font beyond matplotlib's own is needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from lensflow.errors import LensflowError
from lensflow.files import atomic_path
from lensflow.tables import BASE, TARGETS, Block

Floats = NDArray[np.floating[Any]]

# Okabe and Ito, "Color Universal Design" (2008); yellow last, since thin yellow lines vanish on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")
GREY = "#BBBBBB"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
HATCHES = ("//", "..", "\\\\", "xx", "--", "oo", "++")
DASHES = ("-", "--", "-.", ":")
TERMS = {"loss": "loss (weighted sum)", "pull": "pull", "push": "push", "retain": "retain"}
LOG_SPAN = 20.0  # a term that spans more than this factor is drawn on a logarithmic axis
STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "lensflow",
}


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.svg and `stem`.png atomically and return both paths; equal figures give equal bytes."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    metadata: list[dict[str, str | None]] = [{"Date": None, "Creator": None}, {"Software": None}]
    with matplotlib.rc_context(STYLE):
        for path, about in zip(paths, metadata, strict=True):
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], dpi=160, metadata=about)
    return paths


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def fidelity_bars(block: Block) -> Figure:
    """Share of answers in the prompt's language for each language × method, with 95 % error bars.

    Fidelity can be gamed by repeating a few words, so repetition stands below it where it was measured. The central
    language is set apart on the left, the mean over the targets, and languages of neither kind, on the right.

    Args:
        block: one block of `tables.main_table`.

    Raises:
        LensflowError: the block has no fidelity scores.
    """
    # Of the first benchmark that has it: a study on dev prompts has another one than the reported table.
    benchmark = next((row.benchmark for row in block.rows if row.metric == "fidelity"), None)
    if benchmark is None:
        raise LensflowError(f"{block.caption}: no fidelity scores to draw; evaluate a benchmark of kind generation")
    mine = [row for row in block.rows if row.benchmark == benchmark]
    panels = {metric: [row for row in mine if row.metric == metric] for metric in ("fidelity", "repetition")}
    panels = {metric: rows for metric, rows in panels.items() if rows}
    keys = list(block.columns)
    # Half a place of air after the central language, before the mean and before the languages of neither kind.
    parts = [[block.central], block.targets, [TARGETS], block.others]
    parted = [next(part for part, of_part in enumerate(parts) if key in of_part) for key in keys]
    places = np.arange(len(keys)) + 0.5 * np.unique(parted, return_inverse=True)[1]
    methods = len(panels["fidelity"])
    width = 0.8 / methods
    with matplotlib.rc_context(STYLE):
        figure = _figure(max(5.4, 1.6 + 0.24 * methods * len(keys) + 0.3 * len(keys)), 1.2 + 1.9 * len(panels))
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for ax, rows in zip(axes, panels.values(), strict=True):
            colours, hatches = cycle(PALETTE), cycle(HATCHES)
            for i, row in enumerate(rows):
                is_base = row.method == BASE
                shown = [j for j, key in enumerate(keys) if key in row.cells]
                cells = [row.cells[keys[j]] for j in shown]
                values = np.array([cell.value for cell in cells])
                errors = [values - [cell.low for cell in cells], [cell.high for cell in cells] - values]
                ax.bar(
                    places[shown] + (i - (methods - 1) / 2) * width,
                    values,
                    width,
                    yerr=np.maximum(errors, 0),
                    color=GREY if is_base else next(colours),
                    hatch="" if is_base else next(hatches),
                    edgecolor="black",
                    hatchcolor="white",  # so that the black error bars stand out
                    linewidth=0.6,
                    error_kw={"elinewidth": 0.9, "capsize": 2},
                    label=row.label,
                )
            ax.set_ylim(0, 1.04)
            ax.set_yticks(np.linspace(0, 1, 5))
            ax.set_ylabel(rows[0].heading)
            ax.grid(axis="y")
            ax.tick_params(axis="x", length=0)
            for left, right in pairwise(places):
                if right - left > 1:
                    ax.axvline((left + right) / 2, color="#888888", linewidth=0.8, linestyle=":")
        axes[-1].set_xticks(places, [heading.replace(" (", "\n(") for heading in block.columns.values()])
        figure.suptitle(f"{block.backbone}, {block.setting}: answers in the language of the prompt", fontsize=10)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3 if len(keys) < 5 else 6, methods))
    return figure


def training_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Loss and its terms over the training steps: lines for the training batches, markers for the dev texts.

    Args:
        histories: label of a training -> rows of its history.jsonl.

    Raises:
        LensflowError: there is no history, or it has none of the terms.
    """
    rows = [row for history in histories.values() for row in history]
    terms = [term for term in TERMS if any(row.get(term) is not None for row in rows)]
    if not terms:
        raise LensflowError("training curves: no history with loss terms; train first")
    with matplotlib.rc_context(STYLE):
        figure = _figure(7.2, 2.6 * ((len(terms) + 1) // 2) + 0.5)
        axes = figure.subplots((len(terms) + 1) // 2, 2, sharex=True, squeeze=False).ravel()
        for ax in axes[len(terms) :]:
            ax.remove()
        for ax, term in zip(axes, terms, strict=False):
            for (label, history), colour, dash, marker in zip(
                histories.items(), cycle(PALETTE), cycle(DASHES), cycle(MARKERS), strict=False
            ):
                of_term = [row for row in history if row.get(term) is not None]
                train, dev = (
                    np.array([(row["step"], row[term]) for row in of_term if row["split"] == split]).reshape(-1, 2).T
                    for split in ("train", "dev")
                )
                ax.plot(*train, dash, color=colour, linewidth=1.1, label=label)
                ax.plot(*dev, linestyle="none", marker=marker, color=colour, markeredgecolor="white", markersize=7)
            _scale(ax, [float(row[term]) for row in rows if row.get(term) is not None])
            ax.set_title(TERMS[term], fontsize=9, loc="left")
            ax.grid()
        for ax in figure.axes[-2:]:  # the lowest of each column
            ax.set_xlabel("optimiser step")
            ax.tick_params(labelbottom=True)
        handles = [
            Line2D([], [], color=colour, linestyle=dash, marker=marker, markeredgecolor="white", label=label)
            for label, colour, dash, marker in zip(
                histories, cycle(PALETTE), cycle(DASHES), cycle(MARKERS), strict=False
            )
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), handlelength=4.5)
        figure.suptitle("Training: batches (lines) and unseen dev texts (markers)", fontsize=10)
    return figure


def _scale(ax: Axes, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0]
    if not positive or max(positive) <= LOG_SPAN * min(positive):
        return
    if len(positive) == len(values):
        ax.set_yscale("log")
    else:  # the retain term is exactly 0 before the first step, and symlog has a place for it
        ax.set_yscale("symlog", linthresh=10 ** np.floor(np.log10(min(positive))))


def state_map(
    before: Mapping[str, Floats], after: Mapping[str, Floats], specific: Floats, languages: Sequence[str]
) -> Figure:
    """Where the dev states lie inside the language-specific subspace, before and after training.

    The coordinates are x = h M_s; with r > 2 their first two principal components (fitted on before and after
    together) are drawn, with r = 1 the single coordinate as one strip a language. Points before are hollow, after are
    filled; an arrow leads from a language's mean before to its mean after.

    Args:
        before: language -> states (n, d) of the untouched backbone at the top layer.
        after: language -> states (n, d) of the same texts after training.
        specific: M_s of the top layer, (d, r), r >= 1, orthonormal columns.
        languages: the languages to draw, central first.

    Raises:
        LensflowError: a language has no states, or they do not have d columns.
    """
    specific = np.asarray(specific, dtype=np.float64)
    for language in languages:
        for when, states in (("before", before), ("after", after)):
            if language not in states or states[language].ndim != 2 or states[language].shape[1] != len(specific):
                raise LensflowError(f"dev states {when}.{language}: need (n, {len(specific)}); train again")
    pairs = {
        language: [np.asarray(states[language], dtype=np.float64) @ specific for states in (before, after)]
        for language in languages
    }
    with matplotlib.rc_context(STYLE):
        figure = _strips(pairs) if specific.shape[1] == 1 else _plane(pairs)
        figure.suptitle("Dev states in the language-specific subspace", fontsize=10)
    return figure


def _styles(names: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(name, colour, marker), each pair of colour and marker once for up to 40 names."""
    return zip(names, cycle(PALETTE), cycle(MARKERS), strict=False)


def _plane(pairs: Mapping[str, Sequence[Floats]]) -> Figure:
    pca = PCA(n_components=2, svd_solver="full").fit(np.concatenate([x for pair in pairs.values() for x in pair]))
    figure = _figure(6.4, 5.2)
    ax = figure.subplots()
    for language, colour, marker in _styles(pairs):
        old, new = (pca.transform(x) for x in pairs[language])
        _points(ax, old, new, colour, marker)
        _arrow(ax, old.mean(axis=0), new.mean(axis=0))
    for axis, name, share in zip((ax.xaxis, ax.yaxis), ("PC 1", "PC 2"), pca.explained_variance_ratio_, strict=True):
        axis.set_label_text(f"{name} ({100 * share:.0f} % of the variance)")
    ax.grid()
    ax.margins(0.08)
    _map_legend(figure, pairs)
    return figure


def _strips(pairs: Mapping[str, Sequence[Floats]]) -> Figure:
    figure = _figure(6.4, 1.6 + 0.9 * len(pairs))
    ax = figure.subplots()
    for row, (language, colour, marker) in enumerate(_styles(pairs)):
        old, new = (x[:, 0] for x in pairs[language])
        # Spread over a fixed width, in the order of the texts: no random jitter, the same picture each time.
        lanes = [np.linspace(-0.14, 0.14, len(x)) + row + offset for x, offset in ((old, -0.2), (new, 0.2))]
        _points(ax, np.stack([old, lanes[0]], axis=1), np.stack([new, lanes[1]], axis=1), colour, marker)
        _arrow(ax, np.array([old.mean(), row - 0.2]), np.array([new.mean(), row + 0.2]))
    ax.set_yticks(range(len(pairs)), list(pairs))
    ax.set_ylim(len(pairs) - 0.4, -0.6)
    ax.set_xlabel("coordinate along the language-specific direction")
    ax.grid(axis="x")
    _map_legend(figure, pairs)
    return figure


def _points(ax: Axes, old: Floats, new: Floats, colour: str, marker: str) -> None:
    look: dict[str, Any] = {"s": 22, "marker": marker, "alpha": 0.8}
    ax.scatter(old[:, 0], old[:, 1], **look, facecolors="none", edgecolors=colour, linewidths=0.8)
    ax.scatter(new[:, 0], new[:, 1], **look, facecolors=colour, edgecolors="white", linewidths=0.4)


def _arrow(ax: Axes, start: Floats, end: Floats) -> None:
    """An arrow between two points in data units; a dot where the mean did not visibly move."""
    in_data = {"angles": "xy", "scale_units": "xy", "scale": 1}
    ax.quiver(*start, *(end - start), **in_data, width=0.007, color="black", edgecolor="white", linewidth=0.7, zorder=5)


def _map_legend(figure: Figure, pairs: Mapping[str, Any]) -> None:
    point: dict[str, Any] = {"linestyle": "none", "markersize": 6}
    handles = [
        Line2D([], [], color=colour, marker=marker, label=language, **point)
        for language, colour, marker in _styles(pairs)
    ]
    handles += [
        Line2D([], [], color="#555555", marker="o", markerfacecolor="none", label="before", **point),
        Line2D([], [], color="#555555", marker="o", label="after", **point),
        Line2D(
            [], [], color="black", marker=r"$\rightarrow$", label="shift of the mean", **(point | {"markersize": 11})
        ),
    ]
    figure.legend(handles=handles, loc="outside right upper")
