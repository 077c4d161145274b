import dataclasses
import hashlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lensflow import figures
from lensflow.errors import LensflowError
from lensflow.tables import COLUMNS, COMPARED, Cell, main_table


@pytest.fixture
def block():
    rows = [
        ("tiny", "trio", method, "0", "generation", metric, language, 40, value, value - 0.1, value + 0.05)
        for method, value in (("base", 0.4), ("lens", 0.8))
        for metric in ("fidelity", "repetition")
        for language in ("en", "zh", "sw", "targets")
        if (method, language) not in (("lens", "sw"), ("lens", "targets"))
    ]
    cells = pd.DataFrame(rows, columns=list(COLUMNS)).reindex(columns=[*COLUMNS, *COMPARED])
    setting = SimpleNamespace(central="en", languages=("en", "zh", "sw"))
    return main_table(cells, {"trio": setting}, ["lens"])[0]


def history(factor):
    rows = [{"step": 0, "split": "dev", "loss": 3.0 * factor, "pull": 1.0, "push": 2.0 * factor, "retain": 0.0}]
    for step in range(1, 6):
        terms = {"loss": 3.0 * factor / step, "pull": 1 / step, "push": 2.0 * factor, "retain": 1e-4 * 10**step}
        rows.append({"step": step, "split": "train", **terms})
    return [*rows, rows[-1] | {"split": "dev"}]


@pytest.mark.parametrize("name", ["bars", "curves", "front"])
def test_files_are_the_same_each_time(name, block, front, tmp_path):
    digests = []
    for run in ("a", "b"):
        drawn = {
            "bars": lambda: figures.fidelity_bars(block),
            "curves": lambda: figures.training_curves({"lens": history(1.0), "strong": history(2.0)}),
            "front": lambda: front,
        }[name]()
        paths = figures.save(drawn, tmp_path / run / "figure.v1")
        assert [path.name for path in paths] == ["figure.v1.svg", "figure.v1.png"]
        assert all(path.stat().st_size > 5000 for path in paths)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]


def test_bars_have_the_values_and_intervals_of_the_block(block):
    top, bottom = figures.fidelity_bars(block).axes
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("fidelity ↑", "repetition ↓")
    base, lens = (bars for bars in top.containers if hasattr(bars, "patches"))
    assert [bar.get_height() for bar in base] == pytest.approx([0.4] * 4)
    assert [bar.get_height() for bar in lens] == pytest.approx([0.8] * 2)  # no sw, hence no mean over the targets
    (lines,) = base.errorbar.lines[2]
    assert [tuple(segment[:, 1]) for segment in lines.get_segments()[:3]] == [pytest.approx((0.3, 0.45))] * 3
    assert lens.patches[0].get_hatch() and not base.patches[0].get_hatch()
    lefts = [bar.get_x() for bar in base]
    assert lefts[1] - lefts[0] > lefts[2] - lefts[1]  # the central language stands apart


def test_bars_set_apart_what_is_neither_central_nor_target(block):
    cells = {key: next(iter(block.rows[0].cells.values())) for key in ("en", "zh", "sw", "targets", "fr", "de")}
    rows = (dataclasses.replace(block.rows[0], cells=cells),)
    (ax,) = figures.fidelity_bars(dataclasses.replace(block, others=("fr", "de"), rows=rows)).axes
    (bars,) = (bars for bars in ax.containers if hasattr(bars, "patches"))
    lefts = np.array([bar.get_x() for bar in bars])
    assert np.diff(lefts) == pytest.approx([1.5, 1, 1.5, 1.5, 1])
    assert [label.get_text() for label in ax.get_xticklabels()][-2:] == ["fr\n(other)", "de\n(other)"]
    elsewhere = dataclasses.replace(block, others=("fr", "de", "es"), rows=rows)  # es is in another benchmark alone
    (ax,) = figures.fidelity_bars(elsewhere).axes
    assert [label.get_text() for label in ax.get_xticklabels()][-1] == "de\n(other)"


def test_curves_draw_each_split_and_scale_wide_terms_logarithmically():
    loss, pull, push, retain = figures.training_curves({"lens": history(1.0)}).axes
    train, dev = loss.get_lines()
    assert list(train.get_xdata()) == [1, 2, 3, 4, 5] and train.get_marker() == "None"
    assert list(dev.get_xdata()) == [0, 5] and dev.get_linestyle() == "None"
    assert list(train.get_ydata()) == pytest.approx([3 / step for step in range(1, 6)])
    assert [ax.get_yscale() for ax in (loss, pull, push, retain)] == ["linear", "linear", "linear", "symlog"]


def test_curves_leave_out_what_no_history_has():
    rows = [{"step": step, "split": "train", "loss": 1.0 / step, "push": None} for step in (1, 2, 3)]
    assert [ax.get_title(loc="left") for ax in figures.training_curves({"x": rows}).axes] == ["loss (weighted sum)"]
    with pytest.raises(LensflowError, match="train first"):
        figures.training_curves({})


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


def test_bars_of_many_methods_are_no_wider_than_the_report(block):
    rows = tuple(dataclasses.replace(block.rows[0], method=f"m{i}") for i in range(30))
    assert figures.fidelity_bars(dataclasses.replace(block, rows=rows)).get_figwidth() == figures.WIDEST


def test_mistakes_are_named(block):
    rows = tuple(row for row in block.rows if row.metric != "fidelity")
    with pytest.raises(LensflowError, match="no fidelity scores"):
        figures.fidelity_bars(dataclasses.replace(block, rows=rows))
