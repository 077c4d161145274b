import json
import math
import random

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from lensflow.cli import main as main_module
from lensflow.errors import LensflowError
from lensflow.mathematics import statistics
from lensflow.mathematics.statistics import Sample
from lensflow.measures import catalogue, comparisons
from lensflow.measures.comparisons import compare
from lensflow.presentation.inputs import TableFiles
from lensflow.schema.setting import Setting
from lensflow.stages import collect_scores, make_table

SETTINGS = {
    "duo": Setting(central="en", languages=("en", "zh", "sw")),
    "one": Setting(central="en", languages=("en", "zh")),
}
MARGINS = {"fidelity": 0.05, "nll": 0.05}


def score(metric, items, weights=None):
    """What `evaluation.score` gives, but for the interval."""
    kept = [i for i, item in enumerate(items) if item is not None]
    below = sum(1 if weights is None else weights[i] for i in kept)
    value = sum(items[i] for i in kept) / below if kept else None
    result = {"metric": metric, "n": len(kept), "value": value, "low": None, "high": None, "items": list(items)}
    if kept:
        result |= {"low": value - 0.1, "high": value + 0.1}
    return result if weights is None else result | {"weights": list(weights)}


def cell(language, *of_metrics, ids=None, digest=None, benchmark="generation"):
    ids = [f"q{i}" for i in range(len(of_metrics[0]["items"]))] if ids is None else ids
    digest = f"{random.random()}" if digest is None else digest
    return {"benchmark": benchmark, "language": language, "cell": digest, "ids": ids, "scores": list(of_metrics)}


def content(*cells):
    return list(cells)


def table(base, methods, blocks=(("b", "duo"),), margins=MARGINS):
    """Of method or (method, seed) -> cells, the rows by (method, metric, language), None where a column is empty."""
    runs = {("b", "none", "base", 0): base} if base else {}
    for key, value in methods.items():
        method, seed = key if isinstance(key, tuple) else (key, 0)
        runs["b", blocks[0][1], method, seed] = value
    frame = compare(runs, blocks, SETTINGS, margins)
    assert list(frame.columns) == [*catalogue.COLUMNS, *catalogue.COMPARED]
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return {(row["method"], row["metric"], row["language"]): row for row in records}


def bits(rng, n, share):
    return (rng.random(n) < share).astype(int).tolist()


def test_a_cell_against_base_on_the_same_items():
    base = content(cell("zh", score("fidelity", [1] * 10 + [0] * 20)))
    lens = content(cell("zh", score("fidelity", [0] + [1] * 20 + [0] * 9)))
    rows = table(base, {"lens": lens}, [("b", "one")])
    row = rows["lens", "fidelity", "zh"]
    assert (row["seeds"], row["n"], row["value"], row["low"]) == ("0", 30, pytest.approx(2 / 3), pytest.approx(17 / 30))
    assert (row["base"], row["paired"], row["left_out"]) == (pytest.approx(1 / 3), 30, 0)
    assert row["difference"] == pytest.approx(10 / 30) and row["test"] == "exact permutation"
    assert (row["questions"], row["room"]) == (30, 20)
    limits = statistics.paired_shares_interval(1, 11, 30)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(limits)
    assert row["p"] == row["p_adjusted"] == pytest.approx(binomtest(1, 12).pvalue)
    assert row["mark"] == "better" and row["retention"] is None
    assert all(rows["base", "fidelity", "zh"][key] is None for key in catalogue.COMPARED)
    assert rows.keys() == {(method, "fidelity", "zh") for method in ("base", "lens")}  # one target needs no mean


def test_items_are_matched_by_id_and_those_of_one_side_left_out_and_counted():
    rng = np.random.default_rng(0)
    ids = [f"q{i}" for i in range(40)]
    first, second = bits(rng, 40, 0.3), bits(rng, 40, 0.8)
    base = content(cell("zh", score("line_pass_rate", [None, None, *first[2:]]), ids=ids))
    order = rng.permutation(40)[:37]
    mine = [second[i] if i % 7 else None for i in order]
    lens = content(cell("zh", score("line_pass_rate", mine), ids=[ids[i] for i in order]))
    row = table(base, {"lens": lens}, [("b", "one")])["lens", "line_pass_rate", "zh"]
    counts = {i for i in order if i % 7}, set(range(2, 40))
    both = counts[1] & set(order)  # what base was asked and counts, of what the method was asked
    assert row["paired"] == len(counts[0] | both) and row["left_out"] == len(counts[1] - set(order)) > 0
    assert row["base"] == pytest.approx(np.mean([first[i] for i in both]))
    assert row["difference"] == pytest.approx(np.mean([second[i] for i in counts[0]]) - row["base"])
    assert row["test"] == "permutation" and row["questions"] == 37


def test_items_that_count_on_one_side_alone_are_part_of_the_comparison():
    """The method lets only its good answers count. On common items it is base's equal; of what counts it is better."""
    base = content(cell("zh", score("line_pass_rate", [1] * 40 + [0] * 40)))
    lens = content(cell("zh", score("line_pass_rate", [1] * 40 + [0] * 5 + [None] * 35)))
    row = table(base, {"lens": lens}, [("b", "one")])["lens", "line_pass_rate", "zh"]
    assert (row["paired"], row["left_out"]) == (80, 0)
    assert row["difference"] == pytest.approx(40 / 45 - 1 / 2) and row["difference_low"] > 0
    assert row["mark"] == "better"


def test_ratios_are_compared_by_swapping_items():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 60, size=50)
    nats = tokens * 3.0 + rng.normal(size=50) * 5
    other = nats - tokens * 0.1 + rng.normal(size=50)
    base, lens = (content(cell("zh", score("nll", items.tolist(), tokens.tolist()))) for items in (nats, other))
    row = table(base, {"lens": lens}, [("b", "one")])["lens", "nll", "zh"]
    assert row["difference"] == pytest.approx((other.sum() - nats.sum()) / tokens.sum())
    pair = [Sample(items[None, None], tokens[None, None].astype(float)) for items in (nats, other)]
    assert (
        row["p"] == statistics.paired_permutation(*statistics.null_deviations(*pair)) and row["test"] == "permutation"
    )
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(statistics.difference_interval(*pair))
    assert row["mark"] == "better"  # lower is better


@pytest.mark.parametrize(
    ("metric", "change", "mark"),
    [
        ("fidelity", 0.4, "better"),
        ("fidelity", -0.4, "worse"),
        ("repetition", 0.4, "worse"),
        ("unparsed", -0.4, "better"),
        ("bleu", 0.4, "differs"),
        ("bleu", -0.4, "differs"),
        ("fidelity", 0.0, None),
    ],
)
def test_the_mark_knows_which_direction_is_better(metric, change, mark):
    rng = np.random.default_rng(0)
    base, lens = (content(cell("zh", score(metric, bits(rng, 100, share)))) for share in (0.5, 0.5 + change))
    assert table(base, {"lens": lens}, [("b", "one")])["lens", metric, "zh"]["mark"] == mark


def test_equal_cells_give_no_test():
    items = [1, 0] * 20
    base, same = (content(cell("en", score("fidelity", items), digest="same")) for _ in range(2))
    other = content(cell("en", score("fidelity", items)))
    rows = table(base, {"same": same, "other": other})
    row = rows["same", "fidelity", "en"]
    assert row["p"] is row["p_adjusted"] is row["test"] is None
    assert (row["difference"], row["difference_low"], row["difference_high"], row["retention"]) == (0, 0, 0, "kept")
    assert rows["other", "fidelity", "en"]["p"] == 1
    assert rows["other", "fidelity", "en"]["retention"] == "not shown"  # of 40 items


def test_a_family_is_one_metric_of_a_block_and_changes_sides_by_question():
    rng = np.random.default_rng(0)
    languages, metrics = ("en", "zh", "sw"), ("fidelity", "empty")

    def random_content(share):
        return content(*(cell(x, *(score(metric, bits(rng, 40, share)) for metric in metrics)) for x in languages))

    runs = {("b", "none", "base", 0): random_content(0.5)}
    runs |= {("b", "duo", method, seed): random_content(0.65) for method, seed in (("x", 0), ("y", 0), ("y", 1))}
    runs["b", "one", "x", 0] = random_content(0.6)
    frame = compare(runs, [("b", "duo"), ("b", "one")], SETTINGS, {})

    def right(method, setting, language, metric):
        members = ("zh", "sw") if language == "targets" else (language,)
        its = [cells for place, cells in runs.items() if place[1:3] == (setting, method)]
        scores = [s for cells in its for c in cells if c["language"] in members for s in c["scores"]]
        return np.mean([s["items"] for s in scores if s["metric"] == metric], axis=0)

    for setting, size in (("duo", 2 * 4), ("one", 3)):
        for metric in metrics:
            tested = frame[(frame.setting == setting) & (frame.metric == metric) & frame.p.notna()]
            assert len(tested) == size
            differences = [
                right(row.method, setting, row.language, metric) - right("base", "none", row.language, metric)
                for row in tested.itertuples()
            ]
            family = statistics.max_t(np.array(differences).T)
            assert tested.p_adjusted.to_numpy() == pytest.approx(np.maximum(family.adjusted, tested.p))
            assert (tested.needed == family.needed).all()
            assert not tested.mark.isna().all() or (tested.p_adjusted > 0.05).all()


def test_the_mean_over_targets_takes_a_question_s_languages_together():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=200)  # the same in both languages
    items = {
        (method, language): (hard + 0.1 * rng.normal(size=200) < limit).astype(int).tolist()
        for method, limit in (("base", 0.0), ("lens", 0.5))
        for language in ("en", "zh", "sw")
    }
    base, lens = (
        content(*(cell(language, score("fidelity", items[method, language])) for language in ("en", "zh", "sw")))
        for method in ("base", "lens")
    )
    rows = table(base, {"lens": lens})
    row = rows["lens", "fidelity", "targets"]
    both = np.array([items["lens", "zh"], items["lens", "sw"]])
    assert row["value"] == pytest.approx(both.mean()) and (row["n"], row["paired"]) == (400, 400)
    alone = statistics.proportion_interval(both[0].sum(), 200)
    assert row["high"] - row["low"] > 0.95 * (alone[1] - alone[0])  # the second language tells nothing new
    assert row["base"] == pytest.approx(np.mean([items["base", "zh"], items["base", "sw"]]))
    assert row["test"] == "exact permutation" and row["mark"] == "better" and row["questions"] == 200
    assert rows["base", "fidelity", "targets"]["low"] < rows["base", "fidelity", "targets"]["value"]


def test_the_mean_is_over_targets_that_have_the_metric_and_missing_without_one_of_them():
    items = [1, 0] * 10
    of_script = cell("zh", score("script_mass", items), benchmark="likelihood")
    base = content(cell("zh", score("fidelity", items)), cell("sw", score("fidelity", items)), of_script)
    lens = content(cell("zh", score("fidelity", items)), of_script)
    rows = table(base, {"lens": lens})
    assert rows["lens", "script_mass", "targets"]["value"] == 0.5
    assert ("base", "fidelity", "targets") in rows and ("lens", "fidelity", "targets") not in rows


def test_seeds_are_taken_together():
    rng = np.random.default_rng(0)
    base_items, seeds = bits(rng, 100, 0.5), {seed: bits(rng, 100, 0.9) for seed in (3, 0, 7)}
    base = content(cell("en", score("fidelity", base_items)))
    methods = {("lens", seed): content(cell("en", score("fidelity", items))) for seed, items in seeds.items()}
    row = table(base, methods)["lens", "fidelity", "en"]
    ones = np.ones((1, 3, 100))
    other = Sample(np.array([[seeds[seed] for seed in (0, 3, 7)]], dtype=float), ones)
    reference = Sample(np.array([[base_items]], dtype=float), ones[:, :1])
    assert (row["seeds"], row["n"], row["value"]) == ("0 3 7", 100, pytest.approx(other.value))
    assert (row["low"], row["high"]) == pytest.approx(statistics.interval(other))
    assert row["p"] == statistics.exact_p(reference, other) and row["test"] == "exact permutation"
    assert (row["mark"], row["retention"]) == ("better", "kept")


def test_items_that_one_seed_was_not_asked_are_left_out_and_those_that_do_not_count_are_not():
    base = content(cell("zh", score("fidelity", [1, 0] * 10)))
    methods = {
        ("lens", 0): content(cell("zh", score("fidelity", [1] * 20))),
        ("lens", 1): content(cell("zh", score("fidelity", [None, None, *[1] * 16]))),
    }
    row = table(base, methods, [("b", "one")])["lens", "fidelity", "zh"]
    assert (row["n"], row["paired"], row["left_out"], row["base"]) == (20, 18, 2, 0.5)


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_seed_and_three_that_answer_alike_have_the_same_p_and_mark(seeds):
    """The old rule asked for Student's t over three seeds besides, which three equal seeds cannot pass more easily."""
    base = content(cell("zh", score("fidelity", [0] * 30 + [1] * 10)))
    lens = content(cell("zh", score("fidelity", [1] * 10 + [0] * 20 + [1] * 10)))
    row = table(base, {("lens", seed): lens for seed in range(seeds)}, [("b", "one")])["lens", "fidelity", "zh"]
    assert (row["p"], row["mark"], row["test"]) == (2**-9, "better", "exact permutation")
    assert row["difference_low"] == pytest.approx(statistics.paired_shares_interval(0, 10, 40)[0], abs=0.02)


def test_a_mark_needs_an_interval_without_0():
    """Of three seeds two do nothing and one is right: the questions agree, the seeds do not."""
    base = content(cell("zh", score("fidelity", [0] * 60)))
    good, idle = (content(cell("zh", score("fidelity", [right] * 60))) for right in (1, 0))
    rows = table(base, {("odd", 0): good, ("odd", 1): idle, ("odd", 2): idle, ("one", 0): good}, [("b", "one")])
    odd, one = (rows[method, "fidelity", "zh"] for method in ("odd", "one"))
    assert odd["p_adjusted"] < 1e-4 and odd["difference_low"] < 0 and odd["mark"] is None
    assert one["p_adjusted"] < 1e-4 and one["mark"] == "better"


@pytest.mark.parametrize(
    ("metric", "items", "room"),
    [
        ("fidelity", [1] * 8 + [0] * 2, 2),
        ("repetition", [1] * 8 + [0] * 2, 8),
        ("bleu", [1] * 8 + [0] * 2, 8),
        ("rating", [3.0] * 10, 10),
        ("fidelity", [None] * 3 + [1] * 7, 3),
    ],
)
def test_room_is_what_can_get_better(metric, items, room):
    base, lens = (content(cell("zh", score(metric, of))) for of in (items, [1] * 10))
    row = table(base, {"lens": lens}, [("b", "one")])["lens", metric, "zh"]
    assert (row["room"], row["questions"]) == (room, 10)


def test_equivalence_is_asked_in_every_language_of_metrics_with_a_margin():
    same, other = [1] * 285 + [0] * 15, [0] * 30 + [1] * 255 + [0] * 15

    def of(items):
        return content(*(cell(x, score("fidelity", items), score("empty", items)) for x in ("en", "zh")))

    rows = table(of(same), {"same": of(same), "other": of(other)}, [("b", "one")])
    for language in ("en", "zh"):
        assert rows["same", "fidelity", language]["equivalence"] == "shown"
        assert rows["other", "fidelity", language]["equivalence"] == "not shown"
        assert rows["same", "empty", language]["equivalence"] is None


def test_retention_is_asked_of_the_central_language_and_of_metrics_with_a_margin():
    rng = np.random.default_rng(0)
    names = ("fidelity", "repetition", "bleu")
    same = [1] * 285 + [0] * 15

    def of(items):
        return content(*(cell(language, *(score(name, items) for name in names)) for language in ("en", "zh")))

    lost = [0] * 30 + same[30:]
    rows = table(of(same), {"same": of(same), "lost": of(lost)}, margins={"fidelity": 0.05, "bleu": 0.05})
    assert rows["same", "fidelity", "en"]["retention"] == "kept" and rows["same", "fidelity", "en"]["margin"] == 0.05
    assert rows["lost", "fidelity", "en"]["retention"] == "not shown"
    assert rows["same", "bleu", "en"]["retention"] == "kept"
    for key in (("same", "repetition", "en"), ("same", "fidelity", "zh"), ("base", "fidelity", "en")):
        assert rows[key]["retention"] is None
    few = {language: bits(rng, 20, 0.9) for language in ("base", "lens")}
    rows = table(*(content(cell("en", score("fidelity", few["base"]))), {"lens": of(few["lens"])}))
    assert rows["lens", "fidelity", "en"]["p"] > 0.05
    assert rows["lens", "fidelity", "en"]["retention"] == "not shown"  # no difference seen is not none shown


def test_languages_that_only_base_has_belong_to_other_settings():
    items = [1, 0] * 10
    base = content(*(cell(language, score("fidelity", items)) for language in ("en", "zh", "sw", "fr", "de")))
    lens = content(*(cell(language, score("fidelity", items)) for language in ("en", "zh", "fr")))
    rows = table(base, {"lens": lens}, [("b", "one")])
    assert {language for _, _, language in rows} == {"en", "zh", "fr"}


def test_without_base_and_without_common_items_there_is_no_comparison():
    items = [1, 0] * 10
    lens = content(cell("en", score("fidelity", items)))
    assert table(None, {"lens": lens})["lens", "fidelity", "en"]["difference"] is None
    base = content(cell("en", score("fidelity", items), ids=[f"other{i}" for i in range(20)]))
    row = table(base, {"lens": lens})["lens", "fidelity", "en"]
    assert row["value"] == 0.5 and row["difference"] is row["p"] is row["retention"] is None


def test_scores_of_no_item_and_single_items():
    base = content(cell("en", score("fidelity", [1]), score("rating", [3.0]), score("empty", [None])))
    lens = content(cell("en", score("fidelity", [0]), score("rating", [5.0]), score("empty", [None])))
    rows = table(base, {"lens": lens, ("many", 0): lens, ("many", 1): lens})
    assert ("lens", "empty", "en") not in rows
    assert rows["lens", "fidelity", "en"]["p"] == rows["lens", "rating", "en"]["p"] == 1
    assert rows["many", "rating", "en"]["p"] == 1 and rows["many", "rating", "en"]["low"] is None
    assert all(row["mark"] is None for row in rows.values())


def test_two_items_of_one_id_are_a_mistake():
    bad = content(cell("en", score("fidelity", [1, 0]), ids=["q", "q"]))
    with pytest.raises(LensflowError, match="generation has two items of one id in en; give"):
        table(bad, {"lens": bad})


@pytest.mark.parametrize(("seeds", "of_seed"), [(1, 0.0), (3, 0.1)])
def test_a_family_without_any_difference_has_a_mark_in_at_most_five_of_a_hundred(monkeypatch, seeds, of_seed):
    monkeypatch.setattr(statistics, "SWAPS", 499)
    rng, runs, marked = np.random.default_rng(seeds), 200, dict.fromkeys(("fidelity", "rating"), 0)

    def drawn(logit, of_seed=0.0):
        rows = []
        for language in ("en", "zh", "sw"):
            luck = logit + rng.normal(size=60) + of_seed * rng.normal()
            share = score("fidelity", (luck > 0).astype(int).tolist())
            rows.append(cell(language, share, score("rating", luck.tolist())))
        return content(*rows)

    for _ in range(runs):
        logit = rng.normal(size=60)
        methods = {(method, seed): drawn(logit, of_seed) for method in ("x", "y") for seed in range(seeds)}
        rows = table(drawn(logit), methods).values()
        for metric in marked:
            marked[metric] += any(row["mark"] for row in rows if row["metric"] == metric)
    assert max(marked.values()) / runs <= 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / runs)


@pytest.fixture
def results(tmp_path):
    """Base and two seeds of a method, as stage `score` writes them."""
    rng = np.random.default_rng(0)
    paths = []
    for setting, method, seed, share in (("none", "base", 0, 0.3), ("duo", "lens", 0, 0.9), ("duo", "lens", 1, 0.9)):
        path = tmp_path / "b" / setting / method / f"seed{seed}" / "scores.json"
        path.parent.mkdir(parents=True)
        cells = (cell(language, score("fidelity", bits(rng, 80, share))) for language in ("en", "zh", "sw", "fr"))
        path.write_text(json.dumps({"weights": "w", "engine": "hf", "dtype": "float32", "cells": list(cells)}))
        rated = cell("en", score("rating", rng.integers(1, 5, size=8).tolist()), benchmark="mt-bench")
        judged = path.with_name("judged.json")
        judged.write_text(json.dumps({"weights": "w", "engine": "hf", "dtype": "float32", "cells": [rated]}))
        paths += [path, judged]
    return paths


CONFIG = {
    "blocks": [["b", "duo"]],
    "settings": {"duo": {"central": "en", "languages": ["en", "zh", "sw"]}},
    "retention_margins": {"fidelity": 0.05},
    "versus": "lens",
    "sweeps": [],
    "swept": [],
}


def test_collect_scores_writes_all_tables_from_which_the_tables_are_made(results, tmp_path):
    arguments = [
        "--config",
        json.dumps(CONFIG),
        "--scores",
        *map(str, results),
        "--output",
        str(tmp_path / "scores.csv"),
    ]
    assert main_module.main(["collect-scores", *arguments]) == 0
    of_runs = pd.read_csv(tmp_path / "scores.csv")
    assert list(of_runs.columns) == list(collect_scores.COLUMNS) and len(of_runs) == 3 * (4 + 1)
    files = TableFiles(tmp_path / "comparisons.csv", tmp_path / "versus.csv", tmp_path / "claims.csv", [])
    shown = {**CONFIG, "methods": {"base": {}, "lens": {}}, "command": "snakemake", "results": "results"}
    make_table.write_tables(shown, files, tmp_path / "tables")
    main, direct = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("comparisons", "versus"))
    assert list(direct.columns) == [catalogue.AGAINST, *main.columns]
    assert set(direct[catalogue.AGAINST]) == {"lens"} and set(direct.method) == {"base"}
    mirrored = main[main.method == "lens"].merge(direct, on=["metric", "language"])
    assert len(mirrored) == len(direct) > 4
    for end, mirror in (("", ""), ("_low", "_high"), ("_high", "_low")):
        assert mirrored[f"difference{end}_x"].tolist() == pytest.approx((-mirrored[f"difference{mirror}_y"]).tolist())
    assert mirrored.p_x.tolist() == pytest.approx(mirrored.p_y.tolist()) and direct.margin.isna().all()
    assert "Difference to lens" in (tmp_path / "tables/versus.md").read_text()
    text = (tmp_path / "tables/main.md").read_text()
    assert "| metric | method | en (central) | zh | sw | targets | fr (other) |" in text
    (row,) = (line for line in text.splitlines() if "lens" in line and "fidelity" in line)
    assert row.startswith("| fidelity ↑ | lens (2 seeds) | **0.") and row.count(" + ") == 4 and row.count(" +✓ ") == 1
    assert "margins: fidelity 0.05" in text and "(6 tests in 2 families)" in text
    assert "lens (2 seeds)" in make_table.terminal_table(shown, tmp_path / "comparisons.csv")


def test_missing_comparisons_are_named(tmp_path):
    with pytest.raises(LensflowError, match=r"comparisons\.csv: no such file; check the path, or run the workflow"):
        make_table.terminal_table(CONFIG, tmp_path / "comparisons.csv")


def test_marks_are_those_of_a_loop_over_cells():
    """Every p once more, a cell at a time, without the shared swaps and the common axis."""
    rng = np.random.default_rng(5)
    ids = {language: [f"{language}{i}" for i in rng.permutation(30)] for language in ("en", "zh", "sw")}
    items = {
        (method, language): (rng.normal(size=30) + (method == "lens")).tolist()
        for method in ("base", "lens")
        for language in ids
    }
    base, lens = (
        content(*(cell(language, score("rating", items[method, language]), ids=ids[language]) for language in ids))
        for method in ("base", "lens")
    )
    rows = table(base, {"lens": lens})
    for language in ids:
        p = statistics.paired_permutation(items["base", language], items["lens", language])
        assert rows["lens", "rating", language]["p"] == pytest.approx(float(p), abs=0.003)
    joined = [np.concatenate([items[method, language] for language in ("zh", "sw")]) for method in ("base", "lens")]
    p = float(statistics.paired_permutation(*joined))  # no id in common: independent items
    assert rows["lens", "rating", "targets"]["p"] == pytest.approx(p, abs=0.003)
    assert rows["lens", "rating", "targets"]["test"] == comparisons.PERMUTATION
