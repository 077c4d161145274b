import dataclasses
import hashlib
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lensflow import figures
from lensflow.errors import LensflowError
from lensflow.tables import COLUMNS, COMPARED, main_table


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


def states(r, d=8, n=12):
    rng = np.random.default_rng(r)
    languages = [f"l{i}" for i in range(r + 1)]
    specific = np.linalg.qr(rng.normal(size=(d, r)))[0]
    before = {language: rng.normal(size=(n, d)).astype(np.float32) for language in languages}
    shifts = {language: specific @ rng.normal(size=r) for language in languages}
    after = {language: (before[language] + shifts[language]).astype(np.float32) for language in languages}
    return before, after, specific, languages


def drawn(name, block):
    if name == "bars":
        return figures.fidelity_bars(block)
    if name == "curves":
        return figures.training_curves({"lens": history(1.0), "strong": history(2.0)})
    return figures.state_map(*states(int(name[-1])))


@pytest.mark.parametrize("name", ["bars", "curves", "map1", "map3"])
def test_files_are_the_same_each_time(name, block, tmp_path):
    digests = []
    for run in ("a", "b"):
        paths = figures.save(drawn(name, block), tmp_path / run / "figure.v1")
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


@pytest.mark.parametrize("r", [2, 4])
def test_map_keeps_the_geometry_of_the_means(r):
    before, after, specific, languages = states(r)
    (ax,) = figures.state_map(before, after, specific, languages).axes
    clouds = [np.asarray(points.get_offsets()) for points in ax.collections if len(points.get_offsets()) > 1]
    assert len(clouds) == 2 * len(languages)
    arrows = [points for points in ax.collections if len(points.get_offsets()) == 1]
    for language, old, new, arrow in zip(languages, clouds[::2], clouds[1::2], arrows, strict=True):
        assert np.allclose(arrow.get_offsets(), old.mean(axis=0), atol=1e-6)
        assert np.allclose([arrow.U[0], arrow.V[0]], new.mean(axis=0) - old.mean(axis=0), atol=1e-6)
        true = (after[language] - before[language]).mean(axis=0) @ specific
        drawn_length = math.hypot(arrow.U[0], arrow.V[0])
        # two components lose nothing of a plane, and a projection never lengthens
        assert drawn_length <= np.linalg.norm(true) + 1e-6
        assert r > 2 or drawn_length == pytest.approx(np.linalg.norm(true), abs=1e-5)


def test_map_of_one_direction_shows_the_coordinate_itself():
    before, after, specific, languages = states(1)
    (ax,) = figures.state_map(before, after, specific, languages).axes
    old, new = (np.asarray(points.get_offsets())[:, 0] for points in ax.collections[:2])
    assert np.allclose(old, (before["l0"] @ specific)[:, 0], atol=1e-5)
    assert np.allclose(new, (after["l0"] @ specific)[:, 0], atol=1e-5)
    assert [label.get_text() for label in ax.get_yticklabels()] == languages


def test_mistakes_are_named(block):
    before, after, specific, languages = states(2)
    with pytest.raises(LensflowError, match=r"after\.l1"):
        figures.state_map(before, {k: v for k, v in after.items() if k != "l1"}, specific, languages)
    with pytest.raises(LensflowError, match=r"before\.l0.*7"):
        figures.state_map(before, after, specific[:7], languages)
    rows = tuple(row for row in block.rows if row.metric != "fidelity")
    with pytest.raises(LensflowError, match="no fidelity scores"):
        figures.fidelity_bars(dataclasses.replace(block, rows=rows))
