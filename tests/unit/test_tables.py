import csv
import io
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lensflow import tables
from lensflow.errors import LensflowError

EVIL = "=cmd|x"
UGLY = "a_b%&"
SETTINGS = {"duo": SimpleNamespace(central="en", languages=("zh", "en", "sw"))}


def row(method, metric, language, value, *, seed=0, benchmark="generation", half=0.1, n=40, setting="duo"):
    setting = "none" if method == "base" else setting
    return {
        "backbone": "tiny",
        "setting": setting,
        "method": method,
        "seed": seed,
        "benchmark": benchmark,
        "metric": metric,
        "language": language,
        "n": n,
        "value": value,
        "low": value - half,
        "high": value + 2 * half,
    }


@pytest.fixture
def scores():
    rows = [
        row(method, "fidelity", language, value)
        for method, values in {EVIL: (0.9, 0.8, 0.7), "base": (1.0, 0.5, 0.25), UGLY: (0.6, 0.5, 0.4)}.items()
        for language, value in zip(("en", "zh", "sw"), values, strict=True)
    ]
    rows += [
        row("base", "nll", "en", 3.08349, benchmark="likelihood", half=0.0004),
        row(UGLY, "nll", "en", 3.08351, benchmark="likelihood", half=0.0004),
        row("base", "fidelity", "fr", 0.123),  # a language of no setting here
        row(EVIL, "fidelity", "en", 0.111, setting="other"),
        # script_mass is not defined for sw, which is written in Latin script
        row("base", "script_mass", "zh", 0.4, benchmark="likelihood"),
        row(UGLY, "script_mass", "zh", 0.6, benchmark="likelihood"),
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def blocks(scores):
    return tables.main_table(scores, SETTINGS, [UGLY, EVIL])


def test_order_of_columns_and_rows(blocks):
    (block,) = blocks
    assert block.columns == {"en": "en (central)", "zh": "zh", "sw": "sw", "targets": "targets"}
    assert [(row.metric, row.method) for row in block.rows] == [
        (metric, method) for metric in ("fidelity", "script_mass", "nll") for method in ("base", UGLY, EVIL)
    ]


def test_every_score_of_the_setting_is_in_its_cell_and_base_comes_from_none(scores, blocks):
    shown = {
        (row.method, row.metric, language): (cell.value, cell.low, cell.high, cell.n)
        for row in blocks[0].rows
        for language, cell in row.cells.items()
        if language != "targets"
    }
    kept = scores[scores.setting.isin(["none", "duo"]) & (scores.language != "fr")]
    expected = {(s.method, s.metric, s.language): (s.value, s.low, s.high, s.n) for s in kept.itertuples()}
    assert shown == expected
    assert shown["base", "fidelity", "zh"][0] == 0.5


def test_mean_over_targets_leaves_out_the_central_language(blocks):
    mean = blocks[0].rows[0].cells["targets"]
    assert mean.value == pytest.approx((0.5 + 0.25) / 2)
    assert (mean.low, mean.high) == pytest.approx((0.375 - 0.1 * 2**0.5 / 2, 0.375 + 0.2 * 2**0.5 / 2))
    assert mean.n == 80


def test_mean_is_over_the_languages_that_have_the_metric_and_missing_without_one_of_them(scores):
    (block,) = tables.main_table(scores[~((scores.method == EVIL) & (scores.language == "sw"))], SETTINGS, [])
    by_name = {(row.metric, row.method): row.cells for row in block.rows}
    assert by_name["script_mass", "base"]["targets"].value == 0.4
    assert "targets" not in by_name["fidelity", EVIL]


def test_mean_interval_covers_as_simulated():
    rng = np.random.default_rng(0)
    deviations = np.array([0.02, 0.05, 0.03])
    means = (rng.normal(size=(200_000, 3)) * deviations).mean(axis=1)
    mean = tables.mean_cell([tables.Cell(0.0, -1.96 * s, 1.96 * s, 10) for s in deviations])
    assert np.mean((means > mean.low) & (means < mean.high)) == pytest.approx(0.95, abs=0.003)


def test_one_target_needs_no_mean(scores):
    (block,) = tables.main_table(scores, {"duo": SimpleNamespace(central="en", languages=("en", "zh"))}, [])
    assert list(block.columns) == ["en", "zh"]


def test_several_seeds_are_several_rows(scores):
    more = pd.DataFrame([row(UGLY, "fidelity", "zh", 0.55, seed=1)])
    (block,) = tables.main_table(pd.concat([scores, more]), SETTINGS, [UGLY])
    labels = [row.label for row in block.rows if row.metric == "fidelity"]
    assert labels == ["base", f"{UGLY} (seed 0)", f"{UGLY} (seed 1)", EVIL]


def test_metric_of_another_benchmark_keeps_its_own_rows(scores):
    more = pd.DataFrame([row("base", "accuracy", "zh", 0.5, benchmark=name) for name in ("xcopa", "cldr")])
    more = pd.concat([more, pd.DataFrame([row("base", "bleu", "zh", 12.5, benchmark="flores")])])
    (block,) = tables.main_table(pd.concat([scores, more]), SETTINGS, [])
    names = list(dict.fromkeys(row.heading for row in block.rows))
    assert names == ["fidelity ↑", "script_mass ↑", "accuracy (xcopa) ↑", "accuracy ↑", "nll ↓", "bleu (flores)"]


def test_mistakes_are_named(scores):
    with pytest.raises(LensflowError, match="'low'"):
        tables.main_table(scores.drop(columns="low"), SETTINGS, [])
    with pytest.raises(LensflowError, match="tiny/none/base/0/generation/fidelity/en occurs twice"):
        tables.main_table(pd.concat([scores, scores[scores.method == "base"]]), SETTINGS, [])
    with pytest.raises(LensflowError, match="no score for the settings trio"):
        tables.main_table(scores, {"trio": SimpleNamespace(central="it", languages=("it", "pt"))}, [])


def test_markdown(blocks):
    lines = tables.to_markdown(blocks).splitlines()
    body = [line for line in lines if line.startswith("|")]
    # an unescaped | would add a column
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in body} == {7}
    assert body[0] == "| metric | method | en (central) | zh | sw | targets |"
    assert body[2].startswith("| fidelity ↑ | base | 1.00 [0.90, 1.20] n=40 | 0.50 [0.40, 0.70] n=40 |")
    assert r"| =cmd\|x |" in body[4] and r"| a\_b%\& |" in body[3]
    assert body[-1] == r"| nll ↓ | =cmd\|x | – | – | – | – |"
    assert body[-3].startswith("| nll ↓ | base | 3.083 [3.083, 3.084] n=40 | –")
    assert "- n: items a language; generation n = 40, likelihood n = 40" in lines
    assert not any(line.startswith("- accuracy") for line in lines)  # the legend explains what is shown


def test_latex(blocks):
    text = tables.to_latex(blocks)
    own, bounds = next((a, b) for a, b in pairwise(text.splitlines()) if "0.60" in a and "fidelity" not in a)
    assert own == r" & a\_b\%\& & 0.60 & 0.50 & 0.40 & 0.45 \\"
    assert bounds.startswith(r" &  & {\tiny [0.50, 0.80] n=40} & {\tiny [0.40, 0.70] n=40} & ")
    assert r" & =cmd\textbar{}x & " in text
    assert r"nll $\downarrow$ & base & 3.083 " in text and " & -- & " in text
    assert text.isascii()
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {5}
    assert text.count(r"\midrule") == 3
    assert tables._latex("\\{~^$#") == r"\textbackslash{}\{\textasciitilde{}\textasciicircum{}\$\#"


def test_csv(scores, blocks):
    records = list(csv.DictReader(io.StringIO(tables.to_csv(blocks))))
    assert list(records[0]) == [*tables.COLUMNS[:7], "value", "low", "high", "n"]
    assert {record["method"] for record in records} == {"base", f"'{EVIL}", UGLY}
    assert not any(field.startswith(("=", "+", "@")) for record in records for field in record.values())
    assert {record["setting"] for record in records} == {"duo"}
    found = {(record["method"], record["metric"], record["language"]): float(record["value"]) for record in records}
    assert found["base", "fidelity", "targets"] == 0.375
    assert found[UGLY, "nll", "en"] == 3.08351
    assert (UGLY, "nll", "zh") not in found


def test_html(blocks):
    ((caption, html),) = tables.to_html(blocks)
    assert caption == "tiny, setting duo (central language en)"
    assert '<th scope="row">a_b%&amp;</th><td><b>0.60</b> <small>[0.50, 0.80] n=40</small></td>' in html
    assert html.count("<td>–</td>") == (2 + 2 + 4) + (3 + 3 + 4)  # script_mass and nll of base, a_b and =cmd


def test_html_escapes(scores):
    (block,) = tables.main_table(scores.replace(UGLY, "<script>x</script>"), SETTINGS, [])
    ((_, html),) = tables.to_html([block])
    assert "<script>" not in html and "&lt;script&gt;x&lt;/script&gt;" in html


def test_text_is_aligned_and_narrow():
    languages = [f"l{i}" for i in range(20)]
    rows = [row(method, "fidelity", language, 0.5) for method in ("base", "m" * 60) for language in languages]
    blocks = tables.main_table(pd.DataFrame(rows), {"duo": SimpleNamespace(central="l0", languages=languages)}, [])
    text = tables.to_text(blocks)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 140
    header, base, method = lines[1:4]
    assert [m.start() for m in re.finditer(r"\S+±", base)] == [m.start() for m in re.finditer(r"\S+±", method)]
    assert header.index("l1") == base.index("0.50±0.15", base.index("0.50±0.15") + 1)
    assert text.count("0.50±0.15") == 2 * 20
    assert lines[-1] == "± half of the 95 % interval; generation n = 40"


def test_score_without_interval_is_shown_without(scores):
    scores.loc[scores.metric == "nll", ["low", "high"]] = np.nan
    blocks = tables.main_table(scores, SETTINGS, [])
    assert "| nll ↓ | base | 3.083 n=40 |" in tables.to_markdown(blocks)
    assert "nan" not in tables.to_text(blocks) + tables.to_latex(blocks) + tables.to_csv(blocks)
