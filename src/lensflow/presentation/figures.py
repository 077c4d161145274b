"""The figures of results: answers in the right language, trade-offs with the central language, and training curves.

Each function returns a `matplotlib.figure.Figure`. `save` writes it as SVG and PNG with the same bytes each time.
Colours are Okabe and Ito's palette (safe for colour-blind readers). Dashes or markers repeat the colours' information,
so that a grey print can be read. Languages are shown by code, so that matplotlib's own font is enough.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lensflow.artifacts.layout import BASE
from lensflow.errors import LensflowError
from lensflow.mathematics.analysis import pareto_front
from lensflow.presentation.blocks import Block, Cell
from lensflow.storage.atomic import atomic_path

T = TypeVar("T")
# Okabe and Ito, "Color Universal Design" (2008); yellow last, since thin yellow lines vanish on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")
GREY = "#BBBBBB"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
DASHES = ("-", "--", "-.", ":")
# The loss of a method without terms is another quantity, and has an axis of its own.
OTHER_LOSS = "cross-entropy"
TERMS = {
    "loss": "loss (weighted sum)",
    "pull": "pull",
    "push": "push",
    "retain": "retain",
    OTHER_LOSS: "loss (cross-entropy, nats per token)",
}
WIDEST = 12.0  # inches that the report has room for
# The outcomes of answers, in the order in which they are stacked; hatches tell the failures apart in grey.
OUTCOMES: Mapping[str, Mapping[str, Any]] = {
    "usable": {"facecolor": "#0072B2", "edgecolor": "white"},
    "undetermined": {"facecolor": "#E6E6E6", "edgecolor": "white"},
    "copying": {"facecolor": "#F0E442", "edgecolor": "#666666", "hatch": "...."},
    "repetition": {"facecolor": "#E69F00", "edgecolor": "#666666", "hatch": "////"},
    "wrong_language": {"facecolor": "#D55E00", "edgecolor": "#666666", "hatch": "xxxx"},
    "empty": {"facecolor": "#999999", "edgecolor": "white"},
}
LOG_SPAN = 20.0  # a term that spans more than this factor is drawn on a logarithmic axis
STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
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


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def styles(names: Iterable[T]) -> Iterator[tuple[T, str, str]]:
    """(name, colour, marker), with a different pair of colour and marker for each of up to 40 names."""
    return zip(names, cycle(PALETTE), cycle(MARKERS), strict=False)


def outcomes(block: Block) -> Figure:
    """One outcome per answer: a panel per language, a stacked bar per method, base on top.

    The usable share begins at 0 and has its 95 % interval; a dotted line continues base's value. The other shares
    follow in the order in which failures count. All shares add up to one.

    Args:
        block: one block of `blocks.main_table`.

    Raises:
        LensflowError: the block has no outcomes.
    """
    benchmark = _answered(block)
    mine = {(row.metric, row.method): row for row in block.rows if row.benchmark == benchmark}
    methods = list(dict.fromkeys(row.method for row in block.rows if ("usable", row.method) in mine))
    keys = [key for key in block.columns if any(key in mine["usable", method].cells for method in methods)]
    with matplotlib.rc_context(STYLE):
        figure, axes = _panels(block, keys, [mine["usable", method].label for method in methods])
        for ax, key in zip(axes, keys, strict=True):
            for place, method in enumerate(methods):
                rows = {metric: mine[metric, method] for metric in OUTCOMES if (metric, method) in mine}
                _stack(ax, place, {metric: row.cells.get(key) for metric, row in rows.items()})
            if BASE in methods and (cell := mine["usable", BASE].cells.get(key)) is not None:
                ax.axvline(cell.value, color="#222222", linewidth=0.9, linestyle=":")
        axes[0].set_xlim(0, 1)
        axes[0].set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        for ax in axes:  # the ends of neighbouring panels stay apart
            for label, side in zip(ax.get_xticklabels(), ("left", "center", "right"), strict=True):
                label.set_horizontalalignment(side)
        bars = [Patch(**look, label=metric.replace("_", " ")) for metric, look in OUTCOMES.items()]
        figure.legend(handles=bars, loc="outside lower center", ncols=len(bars), fontsize=8, handlelength=1.5)
    return figure


def effects(block: Block) -> Figure:
    """The change of usable answers by each method: a panel per language, a row per method.

    A point is the difference to base on the same items, with its 95 % interval. The point is full if the interval
    excludes 0. A grey band is the margin inside which a difference does not matter, if a margin is known.

    Args:
        block: one block of `blocks.main_table`.

    Raises:
        LensflowError: no method is compared with base.
    """
    benchmark = _answered(block)
    rows = [row for row in block.rows if (row.benchmark, row.metric) == (benchmark, "usable")]
    found = {
        row.label: {key: cell for key, cell in row.cells.items() if "difference" in cell.compared}
        for row in rows
        if row.is_compared
    }
    if not found:
        raise LensflowError(f"{block.caption}: no difference to draw; add a method beside base")
    keys = [key for key in block.columns if any(key in cells for cells in found.values())]
    compared = [cell.compared for cells in found.values() for cell in cells.values()]
    ends = [abs(one.get(name, 0.0)) for one in compared for name in ("difference", "difference_low", "difference_high")]
    reach = min(1.0, 1.1 * max(*ends, 0.1))
    with matplotlib.rc_context(STYLE):
        figure, axes = _panels(block, keys, list(found))
        for ax, key in zip(axes, keys, strict=True):
            ax.axvline(0, color="#222222", linewidth=0.9, linestyle=":")
            if margins := {cells[key].compared["margin"] for cells in found.values() if _has_margin(cells, key)}:
                ax.axvspan(-min(margins), min(margins), color="#DDDDDD", zorder=0)
            for place, cells in enumerate(found.values()):
                if key in cells:
                    _effect(ax, place, cells[key])
        axes[0].set_xlim(-reach, reach)
        ticks = MaxNLocator(3, symmetric=True).tick_values(-reach, reach)
        axes[0].set_xticks([tick for tick in ticks if abs(tick) <= reach])
        point: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": PALETTE[0]}
        marks = [
            Line2D([], [], **point, label="95 % interval excludes 0"),
            Line2D([], [], **point, markerfacecolor="white", label="interval includes 0"),
            Patch(color="#DDDDDD", label="smaller than the margin"),
        ]
        shown = marks if any("margin" in one for one in compared) else marks[:2]
        figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), fontsize=8)
    return figure


def _has_margin(cells: Mapping[str, Cell], key: str) -> bool:
    return key in cells and "margin" in cells[key].compared


def _effect(ax: Axes, place: int, cell: Cell) -> None:
    """One difference with its interval, if it has one."""
    difference, bars = cell.compared["difference"], _paired(cell)
    low, high = (cell.compared.get(f"difference_{end}", 0.0) for end in ("low", "high"))
    full = low > 0 or high < 0
    look: dict[str, Any] = {"color": PALETTE[0], "markerfacecolor": PALETTE[0] if full else "white", "capsize": 2}
    ax.errorbar(difference, place, xerr=bars, marker="o", markersize=5, elinewidth=1.1, linestyle="none", **look)


def _answered(block: Block) -> str:
    """The first benchmark with outcomes. A study on dev prompts has another one than the reported table."""
    benchmark = next((row.benchmark for row in block.rows if row.metric == "usable"), None)
    if benchmark is None:
        raise LensflowError(f"{block.caption}: no outcomes to draw; evaluate a benchmark of kind generation")
    return benchmark


def _panels(block: Block, keys: Sequence[str], labels: Sequence[str]) -> tuple[Figure, NDArray[Any]]:
    """A panel per language, with these row labels; languages that are not targets have a grey background."""
    names = 0.07 * max(map(len, labels))
    # Never narrower than the legend.
    figure = new_figure(min(max(0.6 + names + 1.25 * len(keys), 6.4), WIDEST), 1.2 + 0.3 * len(labels))
    (axes,) = figure.subplots(1, len(keys), sharex=True, sharey=True, squeeze=False)
    for ax, key in zip(axes, keys, strict=True):
        ax.set_facecolor("white" if key in block.targets else "#F2F2F2")
        ax.set_title(block.columns[key].replace(" (", "\n("), fontsize=9)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure, axes


def _stack(ax: Axes, place: int, cells: Mapping[str, Cell | None]) -> None:
    """Draw one stacked bar, and the interval of its first share."""
    left = 0.0
    for metric, cell in cells.items():
        if cell is not None:
            ax.barh(place, cell.value, left=left, height=0.7, **OUTCOMES[metric])
            left += cell.value
    if (usable := cells["usable"]) is not None:
        reach = np.maximum([[usable.value - usable.low], [usable.high - usable.value]], 0)
        ax.errorbar(usable.value, place, xerr=reach, linestyle="none", color="#222222", elinewidth=1.1, capsize=2)


@dataclass(frozen=True)
class Point:
    """A method in the plane of `trade_off`: its two scores, and with several seeds the scores of each seed."""

    method: str
    cost: Cell
    gain: Cell
    seeds: Sequence[tuple[float, float]]

    @property
    def place(self) -> tuple[float, float]:
        """Cost and gain."""
        return self.cost.value, self.gain.value


def trade_off(
    points: Sequence[Point], axes: tuple[str, str], curves: Mapping[str, Sequence[tuple[str, Point]]]
) -> Figure:
    """The gain of each method against its cost, with the Pareto front of all drawn points.

    The bars are 95 % intervals of the *difference to base on the same items*, drawn at the method. They are much
    narrower than the intervals of the scores, because the same texts are easy or hard for all methods. Base has no
    bars; dotted lines go through it.

    Args:
        points: the methods, base first.
        axes: the costs (lower is better) and the gains (shares, higher is better).
        curves: label -> points that differ in one setting, in its order, each with a text for its value.
    """
    base = points[0]
    everything = [*points, *(point for curve in curves.values() for _, point in curve)]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.2, 4.2)
        ax = figure.subplots()
        ax.grid()
        guide: dict[str, Any] = {"color": "#888888", "linewidth": 0.8, "linestyle": ":"}
        ax.axvline(base.cost.value, **guide)
        ax.axhline(base.gain.value, **guide)
        places = np.array([point.place for point in everything])
        front = places[pareto_front(*places.T)]
        ax.plot(*front.T, drawstyle="steps-post", color="#DDDDDD", linewidth=6, label="Pareto front")
        look: dict[str, Any] = {"linestyle": "none", "markersize": 8, "color": GREY, "markeredgecolor": "black"}
        ax.plot(*base.place, **look, marker="o", label=base.method)
        series = {point.method: [("", point)] for point in points[1:]} | dict(curves)
        for place, ((label, marked), colour, marker) in enumerate(styles(series.items())):
            ax.plot(*np.array([point.place for _, point in marked]).T, color=colour, linewidth=0.9)
            # Once every marker has been used they are hollow, so that 20 can be told apart in grey.
            hollow = place % (2 * len(MARKERS)) >= len(MARKERS)
            for number, (text, point) in enumerate(marked):
                _point(ax, point, colour, marker, hollow, label if number == 0 else "")
                if text:
                    ax.annotate(text, point.place, xytext=(5, 5), textcoords="offset points", fontsize=7)
        if any(point.seeds for point in everything):
            ax.plot([], [], marker="o", linestyle="none", color="#555555", markersize=3.5, label="single seeds")
        ax.set_xlabel(f"{axes[0]}  (← better)")
        ax.set_ylabel(f"{axes[1]}  (better →)")
        figure.legend(loc="outside right upper")
        ax.set_title("Bars: 95 % intervals of the difference to base", fontsize=10)
        ax.set_ylim(max(ax.get_ylim()[0], -0.05), min(ax.get_ylim()[1], 1.05))
    return figure


def _point(ax: Axes, point: Point, colour: str, marker: str, hollow: bool, label: str) -> None:
    alone = np.reshape(point.seeds, (-1, 2))
    fill: dict[str, Any] = {"markerfacecolor": "white"} if hollow else {}
    ax.plot(*alone.T, linestyle="none", marker=marker, color=colour, markersize=3.5, alpha=0.8, **fill)
    x, y = point.place
    gain = _paired(point.gain)
    if gain is not None:  # the gain is a share, and no bar leaves the range of shares
        gain = [[min(gain[0][0], y)], [min(gain[1][0], 1 - y)]]
    bars: dict[str, Any] = {"xerr": _paired(point.cost), "yerr": gain, "elinewidth": 0.9, "capsize": 2}
    edge = {"markeredgecolor": colour if hollow else "white", "markeredgewidth": 1.5 if hollow else 1.0}
    look: dict[str, Any] = {"linestyle": "none", "markersize": 8, "color": colour, **edge, **fill}
    ax.errorbar(x, y, **bars, **look, marker=marker, label=label or None)


def _paired(cell: Cell) -> list[list[float]] | None:
    """The distances from a cell's difference to base down and up to the ends of its interval."""
    if "difference" not in cell.compared:
        return None
    low, middle, high = cell.difference
    return [[max(middle - low, 0.0)], [max(high - middle, 0.0)]]


History = Sequence[Mapping[str, Any]]


def training_curves(histories: Mapping[str, Sequence[History]]) -> Figure:
    """Loss and its terms over the training steps: lines for the training batches, full markers for the dev texts.

    Lines have hollow markers of their method. Dash and marker alone separate 36 methods.

    Args:
        histories: method -> the rows of history.jsonl of each of its seeds; their means are drawn.

    Raises:
        LensflowError: there is no history, or it has none of the terms.
    """
    histories = {method: [_by_term(history) for history in of_method] for method, of_method in histories.items()}
    rows = [row for of_method in histories.values() for history in of_method for row in history]
    terms = [term for term in TERMS if any(row.get(term) is not None for row in rows)]
    if not terms:
        raise LensflowError("training curves: no history with loss terms; train first")
    looks = list(zip(histories, cycle(PALETTE[:7]), cycle(DASHES), cycle(MARKERS[:9]), strict=False))
    with matplotlib.rc_context(STYLE):
        columns = min(2, len(terms))
        lines = -(-len(terms) // columns)
        figure = new_figure(7.2, 2.6 * lines + 0.5)
        axes = figure.subplots(lines, columns, sharex=True, squeeze=False).ravel()
        for ax in axes[len(terms) :]:
            ax.remove()
        for ax, term in zip(axes, terms, strict=False):
            for number, (method, colour, dash, marker) in enumerate(looks):
                train, dev = (_mean_over_seeds(histories[method], term, split) for split in ("train", "dev"))
                apart = max(1, train.shape[1] // 3)
                ax.plot(
                    *train,
                    linestyle=dash,
                    color=colour,
                    linewidth=1.1,
                    marker=marker,
                    markerfacecolor="white",
                    markersize=5,
                    markevery=(number % apart, apart),
                )
                ax.plot(*dev, linestyle="none", marker=marker, color=colour, markeredgecolor="white", markersize=7)
            _scale(ax, [float(row[term]) for row in rows if row.get(term) is not None])
            ax.set_title(TERMS[term], fontsize=9, loc="left")
            ax.grid()
        for ax in figure.axes[-columns:]:  # the lowest of each column
            ax.set_xlabel("optimiser step")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.tick_params(labelbottom=True)
        handles = [
            Line2D([], [], color=colour, linestyle=dash, marker=marker, markeredgecolor="white", label=method)
            for method, colour, dash, marker in looks
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), handlelength=4.5)
        means = ", means over seeds" if any(len(of_method) > 1 for of_method in histories.values()) else ""
        figure.suptitle(f"Training: batches (lines) and unseen dev texts (full markers){means}", fontsize=10)
    return figure


def _by_term(history: History) -> History:
    if any("pull" in row for row in history):
        return history
    return [{OTHER_LOSS if key == "loss" else key: value for key, value in row.items()} for row in history]


def _mean_over_seeds(of_method: Sequence[History], term: str, split: str) -> NDArray[np.float64]:
    """(2, T) steps and means."""
    at_step: dict[int, list[float]] = {}
    for history in of_method:
        for row in history:
            if row["split"] == split and row.get(term) is not None:
                at_step.setdefault(row["step"], []).append(row[term])
    return np.array([(step, np.mean(at_step[step])) for step in sorted(at_step)]).reshape(-1, 2).T


def _scale(ax: Axes, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0]
    if not positive or max(positive) <= LOG_SPAN * min(positive):
        return
    if len(positive) == len(values):
        ax.set_yscale("log")
    else:  # the retain term is exactly 0 before the first step, and symlog has a place for it
        ax.set_yscale("symlog", linthresh=10 ** np.floor(np.log10(min(positive))))
