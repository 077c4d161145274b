import dataclasses
import hashlib
from itertools import pairwise

import pandas as pd
import pytest

from lensflow.errors import LensflowError
from lensflow.measures.catalogue import COLUMNS, COMPARED
from lensflow.presentation import figures
from lensflow.presentation.blocks import Cell, main_table
from lensflow.schema.setting import Setting

SHARES = {
    "base": {
        "usable": 0.4,
        "undetermined": 0.0,
        "copying": 0.1,
        "repetition": 0.3,
        "wrong_language": 0.2,
        "empty": 0.0,
    },
    "lens": {
        "usable": 0.8,
        "undetermined": 0.1,
        "copying": 0.0,
        "repetition": 0.1,
        "wrong_language": 0.0,
        "empty": 0.0,
    },
}


@pytest.fixture
def block():
    rows = [
        ("tiny", "trio", method, "0", "generation", metric, language, 40, value, value - 0.1, value + 0.05)
        for method, shares in SHARES.items()
        for metric, value in shares.items()
        for language in ("en", "zh", "sw", "targets")
        if (method, language) not in (("lens", "sw"), ("lens", "targets"))
    ]
    cells = pd.DataFrame(rows, columns=list(COLUMNS)).reindex(columns=[*COLUMNS, *COMPARED])
    setting = Setting(central="en", languages=("en", "zh", "sw"))
    return main_table(cells, {"trio": setting}, ["lens"])[0]


def history(factor):
    rows = [{"step": 0, "split": "dev", "loss": 3.0 * factor, "pull": 1.0, "push": 2.0 * factor, "retain": 0.0}]
    for step in range(1, 6):
        terms = {"loss": 3.0 * factor / step, "pull": 1 / step, "push": 2.0 * factor, "retain": 1e-4 * 10**step}
        rows.append({"step": step, "split": "train", **terms})
    return [*rows, rows[-1] | {"split": "dev"}]


@pytest.mark.parametrize("name", ["outcomes", "curves", "front"])
def test_files_are_the_same_each_time(name, block, front, tmp_path):
    digests = []
    for run in ("a", "b"):
        drawn = {
            "outcomes": lambda: figures.outcomes(block),
            "curves": lambda: figures.training_curves({"lens": [history(1.0)], "strong": [history(2.0)]}),
            "front": lambda: front,
        }[name]()
        paths = figures.save(drawn, tmp_path / run / "figure.v1")
        assert [path.name for path in paths] == ["figure.v1.svg", "figure.v1.png"]
        assert all(path.stat().st_size > 5000 for path in paths)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]


def bars_of(ax):
    """Line number -> the shares that are stacked on it, from the left, without empty ones."""
    found = {}
    for bar in ax.patches:
        found.setdefault(round(bar.get_y() + bar.get_height() / 2), []).append((bar.get_x(), bar.get_width()))
    return {place: [(left, width) for left, width in bars if width] for place, bars in found.items()}


def test_outcomes_are_stacked_from_usable_on_and_add_up_to_one(block):
    panels = figures.outcomes(block).axes
    assert [ax.get_title() for ax in panels] == ["en\n(central)", "zh", "sw", "targets"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["base", "lens"]
    base = [pytest.approx(bar) for bar in ((0, 0.4), (0.4, 0.1), (0.5, 0.3), (0.8, 0.2))]
    lens = [pytest.approx(bar) for bar in ((0, 0.8), (0.8, 0.1), (0.9, 0.1))]
    for ax, expected in zip(panels, [{0: base, 1: lens}] * 2 + [{0: base}] * 2, strict=True):
        assert bars_of(ax) == expected  # no sw of lens, hence no mean over the targets
        (line,) = (line for line in ax.get_lines() if line.get_linestyle() == ":")
        assert list(line.get_xdata()) == [0.4, 0.4]
        (segment,) = _interval(ax, 0)
        assert list(segment[:, 0]) == pytest.approx([0.3, 0.45])
    assert panels[0].get_ylim() == (1.5, -0.5)  # base on top


def _interval(ax, place):
    """The interval of a line's usable share."""
    bars = [container for container in ax.containers if hasattr(container, "has_xerr")]
    return bars[place].lines[2][0].get_segments()


def test_outcomes_set_apart_what_is_no_target(block):
    keys = ("en", "zh", "sw", "targets", "fr", "de")
    rows = tuple(
        dataclasses.replace(row, cells=dict.fromkeys(keys, next(iter(row.cells.values()))))
        for row in block.rows
        if row.method == "base"
    )
    # es is in another benchmark alone.
    panels = figures.outcomes(dataclasses.replace(block, others=("fr", "de", "es"), rows=rows)).axes
    white = {ax.get_title() for ax in panels if ax.get_facecolor()[:3] == (1, 1, 1)}
    assert white == {"zh", "sw"}
    assert [ax.get_title() for ax in panels] == ["en\n(central)", "zh", "sw", "targets", "fr\n(other)", "de\n(other)"]


def test_curves_draw_each_split_and_scale_wide_terms_logarithmically():
    loss, pull, push, retain = figures.training_curves({"lens": [history(1.0)]}).axes
    train, dev = loss.get_lines()
    assert list(train.get_xdata()) == [1, 2, 3, 4, 5] and train.get_markerfacecolor() == "white"
    assert list(dev.get_xdata()) == [0, 5] and dev.get_linestyle() == "None"
    assert list(train.get_ydata()) == pytest.approx([3 / step for step in range(1, 6)])
    assert [ax.get_yscale() for ax in (loss, pull, push, retain)] == ["linear", "linear", "linear", "symlog"]


def test_curves_are_means_over_seeds():
    """Of those that have the step and the term."""
    short = [row | {"push": None} for row in history(3.0)[:4]]
    loss, _, push, _ = figures.training_curves({"lens": [history(1.0), short]}).axes
    train, dev = loss.get_lines()
    assert list(train.get_ydata()) == pytest.approx([6.0, 3.0, 2.0, 3 / 4, 3 / 5])
    assert list(dev.get_ydata()) == pytest.approx([6.0, 3 / 5])
    assert list(push.get_lines()[0].get_ydata()) == pytest.approx([2.0] * 5)


def test_curves_of_many_methods_look_different_without_their_colours():
    (ax,) = figures.training_curves(
        {f"m{i}": [[{"step": 1, "split": "train", "loss": 1.0 + i}]] for i in range(28)}
    ).axes
    looks = {(line.get_marker(), line.get_linestyle()) for line in ax.get_lines() if line.get_linestyle() != "None"}
    assert len(looks) == 28


def test_curves_leave_out_what_no_history_has():
    rows = [{"step": step, "split": "train", "loss": 1.0 / step, "pull": None} for step in (1, 2, 3)]
    assert [ax.get_title(loc="left") for ax in figures.training_curves({"x": [rows]}).axes] == ["loss (weighted sum)"]
    with pytest.raises(LensflowError, match="train first"):
        figures.training_curves({})


def test_a_loss_of_another_kind_has_axes_of_its_own():
    tuned = [{"step": step, "split": "train", "loss": 4.0 / step} for step in (1, 2)]
    panels = {
        ax.get_title(loc="left"): [line.get_ydata().tolist() for line in ax.get_lines() if len(line.get_ydata())]
        for ax in figures.training_curves({"lens": [history(1.0)], "sft": [tuned]}).axes
    }
    assert panels["loss (cross-entropy, nats per token)"] == [[4.0, 2.0]]
    assert len(panels["loss (weighted sum)"]) == 2  # batches and dev texts of lens alone


def test_twenty_methods_can_be_told_apart_in_grey():
    points = [point("base", 3.0, 0.5), *(point(f"m{i}", 3.0 + i, 0.5, REACH) for i in range(20))]
    (ax,) = figures.trade_off(points, ("cost", "gain"), {}).axes
    marks = [container.lines[0] for container in ax.containers]
    assert len({(mark.get_marker(), mark.get_markerfacecolor() == "white") for mark in marks}) == 20
    assert all(mark.get_markeredgecolor() != mark.get_markerfacecolor() for mark in marks)


def point(method, cost, gain, reach=None, seeds=()):
    """A method with scores and, but for base, intervals of the difference that reach so far down and up."""
    cells = []
    for value, (low, high) in zip((cost, gain), reach or [(0, 0)] * 2, strict=True):
        compared = {"difference": 1.0, "difference_low": 1 - low, "difference_high": 1 + high} if reach else {}
        cells.append(Cell(value, value - 9, value + 9, 40, compared))
    return figures.Point(method, *cells, seeds)


REACH = [(0.1, 0.2), (0.03, 0.04)]


@pytest.fixture
def front():
    points = [
        point("base", 3.0, 0.5),
        point("good", 3.1, 0.9, REACH, [(3.0, 0.8), (3.2, 1.0)]),
        point("dominated", 3.2, 0.8, REACH),
        point("costly", 3.5, 0.95, REACH),
    ]
    return figures.trade_off(points, ("cost", "gain"), {})


def lines_of(ax):
    return {line.get_label(): [tuple(xy) for xy in line.get_xydata()] for line in ax.get_lines()}


def test_front_has_points_paired_intervals_and_seeds(front):
    (ax,) = front.axes
    assert lines_of(ax)["Pareto front"] == [(3.0, 0.5), (3.1, 0.9), (3.5, 0.95)]
    assert {line.get_drawstyle() for line in ax.get_lines() if line.get_label() == "Pareto front"} == {"steps-post"}
    assert lines_of(ax)["base"] == [(3.0, 0.5)]
    bars = {container.get_label(): container for container in ax.containers}
    assert list(bars) == ["good", "dominated", "costly"]  # base is what the others are compared with
    for name, (x, y) in {"good": (3.1, 0.9), "dominated": (3.2, 0.8)}.items():
        horizontal, vertical = (part.get_segments()[0] for part in bars[name].lines[2])
        assert horizontal[:, 0] == pytest.approx([x - 0.1, x + 0.2])
        assert vertical[:, 1] == pytest.approx([y - 0.03, y + 0.04])
    (seeds,) = (line for line in ax.get_lines() if len(line.get_xdata()) == 2 and line.get_markersize() == 3.5)
    assert [tuple(xy) for xy in seeds.get_xydata()] == [(3.0, 0.8), (3.2, 1.0)]


def test_curves_of_the_front_are_joined_in_their_order_and_count_for_it():
    strong, gentle = point("s", 3.5, 0.95, REACH), point("g", 3.1, 0.9, REACH)
    other = {"other": [("5", point("o", 3.3, 0.7, REACH))]}
    curves = {"lambda": [("1.0", strong), ("0.3", gentle)]} | other
    (ax,) = figures.trade_off([point("base", 3.0, 0.5)], ("cost", "gain"), curves).axes
    assert [(3.5, 0.95), (3.1, 0.9)] in lines_of(ax).values()
    assert lines_of(ax)["Pareto front"] == [(3.0, 0.5), (3.1, 0.9), (3.5, 0.95)]
    assert {text.get_text(): text.xy for text in ax.texts} == {
        "1.0": strong.place,
        "0.3": gentle.place,
        "5": (3.3, 0.7),
    }
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["Pareto front", "base", "lambda", "other"]
    colours = {container.lines[0].get_color() for container in ax.containers}
    assert len(ax.containers) == 3 and len(colours) == 2


def compared(block, **differences):
    """The block with a difference (low, middle, high) of lens in each of some languages."""
    rows = tuple(
        dataclasses.replace(
            row,
            cells={
                key: dataclasses.replace(
                    cell,
                    compared=dict(
                        zip(("difference_low", "difference", "difference_high"), differences[key], strict=True)
                    )
                    if row.method == "lens" and key in differences
                    else {},
                )
                for key, cell in row.cells.items()
            },
        )
        for row in block.rows
    )
    return dataclasses.replace(block, rows=rows)


def test_effects_are_differences_and_full_if_the_interval_excludes_nothing(block):
    figure = figures.effects(compared(block, en=(-0.1, -0.02, 0.05), zh=(0.1, 0.2, 0.3)))
    assert [ax.get_title() for ax in figure.axes] == ["en\n(central)", "zh"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["lens"]
    for ax, middle, ends, full in zip(
        figure.axes, (-0.02, 0.2), ((-0.1, 0.05), (0.1, 0.3)), (False, True), strict=True
    ):
        (segment,) = _interval(ax, 0)
        assert list(segment[:, 0]) == pytest.approx(list(ends))
        (point,) = (line for line in ax.get_lines() if line.get_marker() == "o")
        assert list(point.get_xdata()) == [middle] and (point.get_markerfacecolor() != "white") is full
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "95 % interval excludes 0",
        "interval includes 0",
    ]
    with pytest.raises(LensflowError, match="no difference to draw"):
        figures.effects(block)


@pytest.mark.parametrize("kind", [figures.outcomes, figures.effects])
def test_nothing_is_cut_off_in_a_setting_with_two_languages(block, kind):
    narrow = compared(dataclasses.replace(block, targets=("zh",)), en=(-0.1, 0.0, 0.1), zh=(-0.1, 0.0, 0.1))
    figure = kind(narrow)
    figure.draw_without_rendering()
    whole, legend = figure.bbox, figure.legends[0].get_window_extent()
    assert whole.x0 <= legend.x0 and legend.x1 <= whole.x1
    ticks = [label.get_window_extent() for ax in figure.axes for label in ax.get_xticklabels() if label.get_text()]
    assert all(left.x1 < right.x0 for left, right in pairwise(ticks))


def test_bars_of_the_front_stay_within_shares(block):
    wide = Cell(0.9, 0.8, 1.0, 9, {"difference": 0.5, "difference_low": 0.1, "difference_high": 0.9})
    base, nll = Cell(0.4, 0.3, 0.5, 9, {}), Cell(3.0, 2.9, 3.1, 9, {})
    points = [figures.Point("base", nll, base, []), figures.Point("lens", nll, wide, [])]
    figure = figures.trade_off(points, ("nll", "usable"), {})
    (bars,) = (container for container in figure.axes[0].containers if container.has_yerr)
    (segment,) = bars.lines[2][-1].get_segments()
    assert list(segment[:, 1]) == pytest.approx([0.5, 1.0])


def test_outcomes_in_many_languages_are_no_wider_than_the_report(block):
    languages = [f"l{i}" for i in range(40)]
    rows = tuple(
        dataclasses.replace(row, cells=dict.fromkeys(languages, next(iter(row.cells.values())))) for row in block.rows
    )
    wide = dataclasses.replace(block, others=tuple(languages), rows=rows)
    assert figures.outcomes(wide).get_figwidth() == figures.WIDEST


def test_mistakes_are_named(block):
    rows = tuple(row for row in block.rows if row.metric != "usable")
    with pytest.raises(LensflowError, match="no outcomes to draw"):
        figures.outcomes(dataclasses.replace(block, rows=rows))
