import hashlib
import math

import numpy as np
import pytest

from lensflow.errors import LensflowError
from lensflow.mathematics import analysis
from lensflow.presentation import figures, state_figures


def states(r, d=8, n=12):
    rng = np.random.default_rng(r)
    languages = [f"l{i}" for i in range(r + 1)]
    specific = np.linalg.qr(rng.normal(size=(d, r)))[0]
    before = {language: rng.normal(size=(n, d)).astype(np.float32) for language in languages}
    shifts = {language: specific @ rng.normal(size=r) for language in languages}
    after = {language: (before[language] + shifts[language]).astype(np.float32) for language in languages}
    agnostic = rng.normal(size=d)
    return before, after, agnostic, specific, languages


def lines(ax):
    return {line.get_label(): line.get_ydata() for line in ax.get_lines()}


@pytest.fixture
def layers():
    """Numbers of four layers and three targets, as `analysis` gives them."""
    rng = np.random.default_rng(0)
    shares = np.sort(rng.random((4, 2, 3)), axis=2)[:, :, [1, 0, 2]]
    means = np.sort(rng.random((2, 4, 3)), axis=2)[:, :, [1, 0, 2]]
    of_language = {language: rng.random((2, 4)) for language in ("zh", "sw", "bn")}
    values = -np.sort(-rng.random((4, 3)), axis=1)
    directions = rng.normal(size=(3, 8))
    return shares, means, of_language, values, analysis.cosines(directions, directions), rng.random((4, 3))


def test_separability_has_a_line_and_a_band_for_languages_and_texts(layers):
    shares = layers[0]
    (ax,) = state_figures.separability_by_layer(shares, True).axes
    assert lines(ax).keys() == {"between languages", "between texts"}
    for place, (label, band) in enumerate(zip(lines(ax), ax.collections, strict=True)):
        assert lines(ax)[label] == pytest.approx(shares[:, place, 0])
        edges = {tuple(corner) for corner in band.get_paths()[0].vertices.round(6)}
        for layer, (_, low, high) in enumerate(shares[:, place].round(6), start=1):
            assert {(layer, low), (layer, high)} <= edges
    assert ax.get_xlabel() == "layer (the top one after the final norm)"


def test_retrieval_shows_both_kinds_of_states_and_chance(layers):
    _, means, of_language, *_ = layers
    panels = state_figures.retrieval_by_layer(means, of_language, 0.05, False).axes
    for place, ax in enumerate(panels):
        drawn = lines(ax)
        assert list(drawn) == ["zh", "sw", "bn", "mean", "chance"]
        assert drawn["mean"] == pytest.approx(means[place, :, 0]) and set(drawn["chance"]) == {0.05}
        assert drawn["sw"] == pytest.approx(of_language["sw"][place])
        assert ax.get_xlabel() == "layer"
    assert "without" in panels[1].get_title(loc="left")
    alone = state_figures.retrieval_by_layer(means, {"zh": of_language["zh"]}, 0.05, False).axes[0]
    assert list(lines(alone)) == ["zh", "chance"] and lines(alone)["zh"] == pytest.approx(means[0, :, 0])


def test_spectrum_shows_values_and_what_they_explain(layers):
    values = layers[3]
    left, right = state_figures.spectrum_by_layer(values, 2, True).axes
    for place in range(3):
        assert lines(left)[str(place + 1)] == pytest.approx(values[:, place])
        explained = [sum(layer[: place + 1] ** 2) / sum(layer**2) for layer in values]
        assert lines(right)[str(place + 1)] == pytest.approx(explained)
    assert [line.get_linestyle() for line in left.get_lines()] == ["-", "-", ":"]  # the third is beyond the rank
    assert len(state_figures.spectrum_by_layer(values[:, :1], 1, True).axes) == 1


def test_cosines_are_written_into_their_places(layers):
    between, to_top = layers[4:]
    square, ax = state_figures.direction_cosines(between, to_top, ["zh", "sw", "bn"], True).axes
    written = {text.get_position()[::-1]: text.get_text() for text in square.texts}
    assert written == {place: f"{value:z.2f}" for place, value in np.ndenumerate(between)}
    assert lines(ax)["sw"] == pytest.approx(to_top[:, 1])
    (alone,) = state_figures.direction_cosines(between[:1, :1], to_top[:, :1], ["zh"], True).axes
    assert list(lines(alone)) == ["zh"]


@pytest.mark.parametrize("r", [2, 4])
def test_map_keeps_the_geometry_of_the_means(r):
    before, after, agnostic, specific, languages = states(r)
    ax, _, _ = state_figures.state_map(before, after, agnostic, specific, languages).axes
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
    before, after, agnostic, specific, languages = states(1)
    ax, _, _ = state_figures.state_map(before, after, agnostic, specific, languages).axes
    old, new = (np.asarray(points.get_offsets())[:, 0] for points in ax.collections[:2])
    assert np.allclose(old, (before["l0"] @ specific)[:, 0], atol=1e-5)
    assert np.allclose(new, (after["l0"] @ specific)[:, 0], atol=1e-5)
    assert [label.get_text() for label in ax.get_yticklabels()] == languages


@pytest.mark.parametrize("r", [1, 3])
def test_map_shows_the_agnostic_coordinate_and_the_neighbourhoods(r):
    before, after, agnostic, specific, languages = states(r)
    _, strips, neighbours = state_figures.state_map(before, after, agnostic, specific, languages).axes
    clouds = [points.get_offsets() for points in strips.collections if len(points.get_offsets()) > 1]
    for place, language in enumerate(languages):
        for cloud, of_side in zip(clouds[2 * place :], (before, after), strict=False):
            expected = of_side[language] @ agnostic / np.linalg.norm(agnostic)
            assert np.asarray(cloud)[:, 0] == pytest.approx(expected, abs=1e-5)
    everything = np.concatenate([side[language] for language in languages for side in (before, after)])
    embedded = np.concatenate([np.asarray(points.get_offsets()) for points in neighbours.collections])
    assert embedded == pytest.approx(analysis.neighbour_embedding(everything.astype(float)))
    assert not neighbours.get_xticks().size and not neighbours.get_yticks().size


@pytest.mark.parametrize("name", ["map1", "map3", "separability", "retrieval", "spectrum", "cosines"])
def test_files_are_the_same_each_time(name, layers, tmp_path):
    shares, means, of_language, values, between, to_top = layers
    draw = {
        "map1": lambda: state_figures.state_map(*states(1)),
        "map3": lambda: state_figures.state_map(*states(3)),
        "separability": lambda: state_figures.separability_by_layer(shares, True),
        "retrieval": lambda: state_figures.retrieval_by_layer(means, of_language, 0.05, True),
        "spectrum": lambda: state_figures.spectrum_by_layer(values, 3, True),
        "cosines": lambda: state_figures.direction_cosines(between, to_top, ["zh", "sw", "bn"], True),
    }[name]
    digests = []
    for run in ("a", "b"):
        paths = figures.save(draw(), tmp_path / run / "figure")
        assert all(path.stat().st_size > 5000 for path in paths)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]


def test_mistakes_are_named():
    before, after, agnostic, specific, languages = states(2)
    with pytest.raises(LensflowError, match=r"after\.l1"):
        state_figures.state_map(before, {k: v for k, v in after.items() if k != "l1"}, agnostic, specific, languages)
    with pytest.raises(LensflowError, match=r"before\.l0.*7"):
        state_figures.state_map(before, after, agnostic, specific[:7], languages)
