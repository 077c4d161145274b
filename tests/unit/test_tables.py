import csv
import dataclasses
import io
import math
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from lensflow.errors import LensflowError
from lensflow.measures import catalogue
from lensflow.presentation import legends
from lensflow.presentation.blocks import TableInputs, main_table
from lensflow.presentation.inputs import TableFiles
from lensflow.presentation.main_table import main
from lensflow.presentation.writers import html, latex
from lensflow.presentation.writers.csv import to_csv
from lensflow.presentation.writers.html import to_html
from lensflow.presentation.writers.latex import to_latex
from lensflow.presentation.writers.markdown import to_markdown
from lensflow.presentation.writers.terminal import to_text
from lensflow.schema.setting import Setting
from lensflow.stages import make_table

EVIL = "=cmd|x"
UGLY = "a_b%&"
SETTINGS = {"duo": Setting(central="en", languages=("zh", "en", "sw"))}


COMPARED = {
    "base": 0.5,
    "paired": 40,
    "left_out": 0,
    "difference": 0.1,
    "difference_low": 0.02,
    "difference_high": 0.18,
    "test": "exact permutation",
    "p": 0.001,
    "p_adjusted": 0.012,
}


def row(
    method, metric, language, value, *, seeds="0", benchmark="generation", half=0.1, n=40, setting="duo", **compared
):
    return dict.fromkeys(catalogue.COMPARED) | {
        "backbone": "tiny",
        "setting": setting,
        "method": method,
        "seeds": seeds,
        "benchmark": benchmark,
        "metric": metric,
        "language": language,
        "n": n,
        "value": value,
        "low": value - half,
        "high": value + 2 * half,
        **compared,
    }


def document(blocks):
    """The main table of blocks."""
    return main(TableInputs(tuple(blocks)))


@pytest.fixture
def scores():
    rows = [
        row(method, "fidelity", language, value)
        for method, values in {
            EVIL: (0.9, 0.8, 0.7, 0.75),
            "base": (1.0, 0.5, 0.25, 0.375),
            UGLY: (0.6, 0.5, 0.4, 0.45),
        }.items()
        for language, value in zip(("en", "zh", "sw", "targets"), values, strict=True)
    ]
    rows += [
        row("base", "nll", "en", 3.08349, benchmark="likelihood", half=0.0004),
        row(UGLY, "nll", "en", 3.08351, benchmark="likelihood", half=0.0004),
        row(EVIL, "fidelity", "en", 0.111, setting="other"),
        # script_mass is not defined for sw, which is written in Latin script
        row("base", "script_mass", "zh", 0.4, benchmark="likelihood"),
        row(UGLY, "script_mass", "zh", 0.6, benchmark="likelihood"),
        row("base", "script_mass", "targets", 0.4, benchmark="likelihood"),
        row(UGLY, "script_mass", "targets", 0.6, benchmark="likelihood"),
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def blocks(scores):
    return main_table(scores, SETTINGS, [UGLY, EVIL])


def test_order_of_columns_and_rows(blocks):
    (block,) = blocks
    assert block.columns == {"en": "en (central)", "zh": "zh", "sw": "sw", "targets": "targets"}
    assert [(row.metric, row.method) for row in block.rows] == [
        (metric, method) for metric in ("fidelity", "script_mass", "nll") for method in ("base", UGLY, EVIL)
    ]


def test_every_cell_of_the_setting_is_shown(scores, blocks):
    shown = {
        (row.method, row.metric, language): (cell.value, cell.low, cell.high, cell.n)
        for row in blocks[0].rows
        for language, cell in row.cells.items()
    }
    kept = scores[scores.setting == "duo"]
    expected = {(s.method, s.metric, s.language): (s.value, s.low, s.high, s.n) for s in kept.itertuples()}
    assert shown == expected
    assert shown["base", "fidelity", "zh"][0] == 0.5


def test_languages_that_are_only_evaluated_stand_behind_the_mean(scores):
    more = pd.DataFrame([row(UGLY, "fidelity", language, 0.5) for language in ("fr", "de")])
    (block,) = main_table(pd.concat([scores, more]), SETTINGS, [])
    assert list(block.columns.values()) == ["en (central)", "zh", "sw", "targets", "fr (other)", "de (other)"]
    assert block.others == ("fr", "de")
    assert "| 0.50 [0.40, 0.70] n=40 | 0.50 [0.40, 0.70] n=40 |\n" in to_markdown(document([block]))


def test_one_target_needs_no_mean(scores):
    scores = scores[~scores.language.isin(["sw", "targets"])]
    (block,) = main_table(scores, {"duo": Setting(central="en", languages=("en", "zh"))}, [])
    assert list(block.columns) == ["en", "zh"]


def test_several_seeds_are_one_row(scores):
    scores.loc[(scores.method == UGLY) & (scores.metric == "fidelity"), "seeds"] = "0 1 5"
    (block,) = main_table(scores, SETTINGS, [UGLY])
    assert [row.label for row in block.rows if row.metric == "fidelity"] == ["base", f"{UGLY} (3 seeds)", EVIL]
    assert [row.seeds for row in block.rows if row.metric == "fidelity"] == [(0,), (0, 1, 5), (0,)]
    assert [row.label for row in block.rows if row.metric == "nll"] == ["base", UGLY, EVIL]


def test_metric_of_another_benchmark_keeps_its_own_rows(scores):
    more = pd.DataFrame([row("base", "accuracy", "zh", 0.5, benchmark=name) for name in ("xcopa", "cldr")])
    more = pd.concat([more, pd.DataFrame([row("base", "bleu", "zh", 12.5, benchmark="flores")])])
    (block,) = main_table(pd.concat([scores, more]), SETTINGS, [])
    names = list(dict.fromkeys(row.heading for row in block.rows))
    assert names == ["fidelity ↑", "script_mass ↑", "accuracy (xcopa) ↑", "accuracy ↑", "nll ↓", "bleu (flores)"]


def test_mistakes_are_named(scores):
    for column in ("low", "p_adjusted"):
        with pytest.raises(LensflowError, match=f"'{column}'"):
            main_table(scores.drop(columns=column), SETTINGS, [])
    with pytest.raises(LensflowError, match="tiny/duo/base/generation/fidelity/en occurs twice"):
        main_table(pd.concat([scores, scores[scores.method == "base"]]), SETTINGS, [])
    with pytest.raises(LensflowError, match="no score for the settings trio"):
        main_table(scores, {"trio": Setting(central="it", languages=("it", "pt"))}, [])


def test_markdown(blocks):
    lines = to_markdown(document(blocks)).splitlines()
    body = [line for line in lines if line.startswith("|")]
    # an unescaped | would add a column
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in body} == {7}
    assert body[0] == "| metric | method | en (central) | zh | sw | targets |"
    assert body[2].startswith("| fidelity ↑ | base | 1.00 [0.90, 1.20] n=40 | 0.50 [0.40, 0.70] n=40 |")
    assert r"| =cmd\|x |" in body[4] and r"| a\_b%\& |" in body[3]
    assert body[-1] == r"| nll ↓ | =cmd\|x | – | – | – | – |"
    assert body[-3].startswith("| nll ↓ | base | 3.083 [3.083, 3.084] n=40 | –")
    assert "- n: items per language; generation n = 40, likelihood n = 40" in lines
    assert not any(line.startswith("- accuracy") for line in lines)  # the legend explains what is shown


def test_latex(blocks):
    text = to_latex(document(blocks))
    own, bounds = next((a, b) for a, b in pairwise(text.splitlines()) if "0.60" in a and "fidelity" not in a)
    assert own == r" & a\_b\%\& & 0.60 & 0.50 & 0.40 & 0.45 \\"
    assert bounds.startswith(r" &  & {\tiny [0.50, 0.80]} & {\tiny [0.40, 0.70]} & ")
    assert r" & =cmd\textbar{}x & " in text
    assert r"nll $\downarrow$ & base & 3.083 " in text and " & -- & " in text
    assert text.isascii()
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {5}
    assert text.count(r"\midrule") == 3
    assert latex.escape("\\{~^$#") == r"\textbackslash{}\{\textasciitilde{}\textasciicircum{}\$\#"


def test_csv(scores, blocks):
    records = list(csv.DictReader(io.StringIO(to_csv(document(blocks)))))
    assert list(records[0]) == [
        *catalogue.COLUMNS[:7],
        "value",
        "low",
        "high",
        "n",
        "told_language",
        "not_applied",
        *catalogue.COMPARED,
    ]
    assert {record["method"] for record in records} == {"base", f"'{EVIL}", UGLY}
    assert not any(field.startswith(("=", "+", "@")) for record in records for field in record.values())
    assert {record["setting"] for record in records} == {"duo"}
    found = {(record["method"], record["metric"], record["language"]): float(record["value"]) for record in records}
    assert found["base", "fidelity", "targets"] == 0.375
    assert found[UGLY, "nll", "en"] == 3.08351
    assert (UGLY, "nll", "zh") not in found


def test_html(blocks):
    (block,) = blocks
    page = to_html(document([block]))
    assert block.caption == "tiny, setting duo (central language en)"
    assert re.search(r"<th >a_b%&amp;</th>\s*<td >0.60 <small>\[0.50, 0.80\] n=40</small></td>", page)
    assert page.count("<td >–</td>") == (2 + 2 + 4) + (3 + 3 + 4)  # script_mass and nll of base, a_b and =cmd


def test_html_escapes(scores):
    (block,) = main_table(scores.replace(UGLY, "<script>x</script>"), SETTINGS, [])
    page = to_html(document([block]))
    assert "<script>" not in page and "&lt;script&gt;x&lt;/script&gt;" in page


def test_an_html_table_escapes_all_but_markup():
    evil = "<script>"
    cells = pd.DataFrame([[evil, Markup("<b>1</b>")]], index=[evil], columns=[evil, "zh"])
    page = html.table(cells, evil)
    assert evil not in page and page.count("&lt;script&gt;") == 4 and "<td ><b>1</b></td>" in page


def test_text_is_aligned_and_narrow():
    languages = [f"l{i}" for i in range(20)]
    rows = [row(method, "fidelity", language, 0.5) for method in ("base", "m" * 60) for language in languages]
    blocks = main_table(
        pd.DataFrame(rows), {"duo": SimpleNamespace(central="l0", languages=languages, targets=languages[1:])}, []
    )
    text = to_text(document(blocks))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 140
    header, base, method = lines[1:4]
    assert [m.start() for m in re.finditer(r"\S+±", base)] == [m.start() for m in re.finditer(r"\S+±", method)]
    assert header.index("l1") == base.index("0.50±0.15", base.index("0.50±0.15") + 1)
    assert text.count("0.50±0.15") == 2 * 20
    assert lines[-1] == "± half of the 95 % interval; generation n = 40"


def test_score_without_interval_is_shown_without(scores):
    scores.loc[scores.metric == "nll", ["low", "high"]] = np.nan
    blocks = main_table(scores, SETTINGS, [])
    assert "| nll ↓ | base | 3.083 n=40 |" in to_markdown(document(blocks))
    assert "nan" not in to_text(document(blocks)) + to_latex(document(blocks)) + to_csv(document(blocks))


def ranked(better, *cells, **differences):
    """The ranks of methods a, b, ... and base, from (value, low, high) of each; differences to base by method."""
    metric = {"↑": "fidelity", "↓": "nll", "": "bleu"}[better]
    rows = []
    for method, (value, low, high) in zip(("base", "a", "b", "c"), cells, strict=False):
        compared = dict(zip(("difference_low", "difference_high"), differences.get(method, ()), strict=False))
        rows.append(row(method, metric, "zh", value, **compared) | {"low": low, "high": high})
    setting = {"duo": Setting(central="en", languages=("en", "zh"))}
    (block,) = main_table(pd.DataFrame(rows), setting, [])
    return block.ranks["generation", metric, "zh"]


def test_best_and_second_best_need_intervals_apart_from_all_that_is_worse():
    apart = (0.1, 0.0, 0.15), (0.9, 0.8, 1.0), (0.5, 0.4, 0.6), (0.3, 0.2, 0.35)
    wins = {"a": (0.5, 0.9), "b": (0.2, 0.6), "c": (0.1, 0.3)}
    assert ranked("↑", *apart, **wins) == {"a": 1, "b": 2}
    assert ranked("↑", *apart[:2], **wins) == {"a": 1}  # the last of all is not the second best
    assert ranked("", *apart, **wins) == {}
    # The third overlaps the second, or the first: then nothing is said of that one, and of those behind it.
    assert ranked("↑", *apart[:3], (0.3, 0.2, 0.45), **wins) == {"a": 1}
    assert ranked("↑", *apart[:3], (0.3, 0.2, 0.85), **wins) == {}


def test_best_where_less_is_better():
    apart = (0.9, 0.8, 1.0), (0.1, 0.0, 0.15), (0.5, 0.4, 0.6)
    assert ranked("↓", *apart, a=(-0.9, -0.5), b=(-0.6, -0.2)) == {"a": 1, "b": 2}


def test_against_base_the_interval_of_the_difference_counts():
    wide = (0.5, 0.2, 0.8), (0.6, 0.3, 0.9)
    assert ranked("↑", *wide, a=(0.05, 0.15)) == {"a": 1}
    assert ranked("↑", *wide, a=(-0.05, 0.25)) == {}
    assert ranked("↑", *wide) == {}  # not compared
    assert ranked("↑", wide[1], wide[0], a=(-0.15, -0.05)) == {"base": 1}
    assert ranked("↓", *wide, a=(0.05, 0.15)) == {"base": 1}
    # Left-out items can turn the difference around; then the order of the values is not supported.
    assert ranked("↑", *wide, a=(-0.15, -0.05)) == {}


def clear_order(told=()):
    """The block of x, which is better than y, which is better than base."""
    rows = [
        row("base", "nll", "zh", 3.0, half=0.01),
        row("x", "nll", "zh", 1.0, half=0.01, difference_low=-2.1, difference_high=-1.9),
        row("y", "nll", "zh", 2.0, half=0.01, difference_low=-1.1, difference_high=-0.9),
    ]
    setting = {"duo": Setting(central="en", languages=("en", "zh"))}
    return main_table(pd.DataFrame(rows), setting, [], told)


def test_who_is_told_the_language_does_not_compete():
    (block,) = clear_order(told=["x"])
    assert block.ranks["generation", "nll", "zh"] == {"y": 1}


def test_ranks_are_written_in_every_format():
    blocks = clear_order()
    assert "| x | – | **1.000** [0.990, 1.020] n=40 |" in to_markdown(document(blocks))
    assert "| y | – | <ins>2.000</ins> [1.990, 2.020] n=40 |" in to_markdown(document(blocks))
    assert r" & x & -- & \textbf{1.000} \\" in to_latex(document(blocks))
    assert r" & y & -- & \underline{2.000} \\" in to_latex(document(blocks))
    assert "<td ><b>1.000</b> <small>" in to_html(document(blocks[:1]))
    assert "<td ><u>2.000</u> <small>" in to_html(document(blocks[:1]))
    assert legends.BEST_NOTE in legends.legend(blocks)
    (block,) = blocks
    unclear = dataclasses.replace(block, rows=block.rows[:1])
    assert legends.BEST_NOTE not in legends.legend([unclear])


@pytest.mark.parametrize(
    ("metrics", "methods", "counts"),
    [(2, 5, [10]), (3, 5, [15, 0]), (4, 5, [20, 0]), (5, 5, [20, 5]), (2, 25, [25, 25, 0])],
)
def test_tables_in_latex_fit_on_a_page_and_keep_a_metric_together(metrics, methods, counts):
    rows = [row(f"m{i}", f"x{j}", "zh", 0.5) for j in range(metrics) for i in range(methods)]
    setting = {"duo": Setting(central="en", languages=("en", "zh"))}
    text = to_latex(document(main_table(pd.DataFrame(rows), setting, [])))
    parts = text.split(r"\begin{table}")[1:]
    found = [part.count("& 0.500") for part in parts]
    assert found == counts  # the legend takes as much room as ten rows; where there is less, it stands by itself
    assert [("continued" in part) for part in parts] == [False] + [True] * (len(parts) - 1)
    assert [("higher is better" in part) for part in parts] == [False] * (len(parts) - 1) + [True]


@pytest.fixture
def marked():
    """One cell better, one worse and kept, one of unknown direction that differs and is not shown to be kept."""
    rows = [row("base", metric, language, 0.5) for metric in ("fidelity", "bleu") for language in ("en", "zh")]
    rows += [
        row("lens", "fidelity", "zh", 0.6, mark="better", **COMPARED),
        row("lens", "fidelity", "en", 0.46, mark="worse", margin=0.05, retention="kept", **COMPARED),
        row("lens", "bleu", "en", 0.7, mark="differs", margin=0.2, retention="not shown", **COMPARED),
        row("lens", "bleu", "zh", 0.51, **COMPARED | {"p": 0.8, "p_adjusted": 1.0, "left_out": 3}),
    ]
    return main_table(pd.DataFrame(rows), {"duo": Setting(central="en", languages=("en", "zh"))}, [])


def test_marks_in_markdown(marked):
    text = to_markdown(document(marked))
    assert "| fidelity ↑ | lens | 0.46 −✓ [0.36, 0.66] n=40 | **0.60** + [0.50, 0.80] n=40 |" in text
    assert "| lens | 0.700 ≠? [0.600, 0.900] n=40 | 0.510 [0.410, 0.710] n=40 |" in text


def test_marks_in_latex(marked):
    text = to_latex(document(marked))
    assert r" & lens & 0.46 $-$$\surd$ & \textbf{0.60} + \\" in text and r" & lens & 0.700 $\neq$? & 0.510 \\" in text
    assert r"p $\leq$ 0.05" in text and text.isascii()


def test_marks_in_html(marked):
    page = to_html(document(marked[:1]))
    better = "better than base, difference +0.10 [0.02, 0.18], adjusted p 0.012"
    assert f'<td ><b>0.60</b> <span class="better" title="{better}">+</span> <small>' in page
    worse = "worse than base, difference +0.10 [0.02, 0.18], adjusted p 0.012, kept within 0.05"
    assert f'<span class="worse" title="{worse}">−✓</span>' in page
    differs = "difference +0.100 [0.020, 0.180], adjusted p 0.012, not shown to be kept within 0.2"
    assert f'<span class="differs" title="{differs}">≠?</span>' in page
    assert page.count("<span") == 3


def test_a_comparison_of_one_item_has_no_interval():
    alone = {"difference": 0.25, "p": 1.0, "p_adjusted": 1.0, "margin": 0.05, "retention": "not shown"}
    rows = [row("base", "fidelity", "en", 0.0), row("lens", "fidelity", "en", 0.25, **alone)]
    setting = {"duo": Setting(central="en", languages=("en", "zh"))}
    blocks = main_table(pd.DataFrame(rows), setting, [])
    assert "difference +0.25, adjusted p 1, not shown to be kept within 0.05" in to_html(document(blocks))
    low, difference, high = blocks[0].rows[-1].cells["en"].difference
    assert difference == 0.25 and math.isnan(low) and math.isnan(high)


def test_marks_in_the_terminal(marked):
    lines = to_text(document(marked)).splitlines()
    assert lines[3].split() == ["lens", "0.46±0.15", "−✓", "0.60±0.15", "+"]
    assert lines[5].split() == ["lens", "0.700±0.150", "≠?", "0.510±0.150"]
    assert lines[-2] == "+ better than base, − worse than base, ≠ differs from base, ✓ kept, ? not shown to be kept"


def test_marks_in_csv(marked):
    records = {
        (record["method"], record["metric"], record["language"]): record
        for record in csv.DictReader(io.StringIO(to_csv(document(marked))))
    }
    mine = records["lens", "fidelity", "en"]
    assert (mine["mark"], mine["margin"], mine["retention"]) == ("worse", "0.05", "kept")
    assert (mine["difference"], mine["p"], mine["p_adjusted"]) == ("0.1", "0.001", "0.012")
    assert mine["test"] == "exact permutation"
    assert records["lens", "bleu", "zh"]["mark"] == records["base", "bleu", "zh"]["p"] == ""


def test_legend_says_test_correction_family_and_margins(marked):
    lines = legends.legend(marked)
    (tests,) = (line for line in lines if "maxT" in line)
    assert tests.startswith("+ better, − worse than base on the same items, ≠ differs where neither direction")
    assert "exploratory, two-sided p ≤ 0.05 after a step-down maxT correction (Westfall and Young) within a" in tests
    assert "all methods and languages against base (4 tests in 2 families)" in tests
    (left,) = (line for line in lines if "left out" in line)
    assert left.startswith("3 scores (one item in one metric and language) are left out of these comparisons")
    (margins,) = (line for line in lines if "non-inferiority" in line)
    assert margins.startswith("✓ kept, ? not shown to be kept in the central language")
    assert margins.endswith("one-sided at 2.5 %, each by itself; margins: fidelity 0.05, bleu 0.2")
    assert not any("by construction" in line for line in lines)
    (tests,) = (line for line in legends.legend(marked * 2) if "maxT" in line)
    assert "(8 tests in 4 families)" in tests


@pytest.mark.parametrize(
    ("rooms", "line"),
    [
        ((8, 24, 24), "none"),
        ((3, 8, 24), "n = 24 in 1 of 3 tests: 7 questions must get better and none worse, and 3 can; n = 56 "),
        (
            (0, 4, 24),
            "in 2 of 3 tests: 7 questions must get better and none worse, and 0 to 4 can; n = 42 would do, but for",
        ),
        ((0, 0, 0), "and 0 can"),
    ],
)
def test_legend_says_where_no_mark_is_possible(rooms, line):
    rows = [row("base", "fidelity", language, 0.5) for language in ("en", "zh", "sw")]
    for language, room in zip(("en", "zh", "sw"), rooms, strict=True):
        rows.append(row("lens", "fidelity", language, 0.5, **COMPARED, questions=24, room=room, needed=7))
    found = [text for text in legends.legend(main_table(pd.DataFrame(rows), SETTINGS, [])) if "no mark" in text]
    if min(rooms) >= 7:
        assert not found
    else:
        assert len(found) == 1 and line in found[0]


def test_legend_says_where_the_central_language_is_kept_by_construction():
    same = {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0, "margin": 0.05, "retention": "kept"}
    rows = [row("base", "fidelity", "en", 0.5), row("steer", "fidelity", "en", 0.5, **same)]
    setting = {"duo": Setting(central="en", languages=("en", "zh"))}
    lines = legends.legend(main_table(pd.DataFrame(rows), setting, []))
    assert any(line.startswith("a difference of 0 to base") and "by construction" in line for line in lines)


def test_methods_that_are_told_the_language_are_marked_in_every_format(scores):
    blocks = main_table(scores, SETTINGS, [UGLY, EVIL], [EVIL])
    markdown, latex, text = (write(document(blocks)) for write in (to_markdown, to_latex, to_text))
    page = to_html(document(blocks[:1]))
    note = "† is told the prompt's language at test time: not like-for-like, and so neither best nor second best"
    assert r"| fidelity ↑ | =cmd\|x† |" in markdown and f"- {note}" in markdown.splitlines()
    assert r" & =cmd\textbar{}x$\dagger$ & " in latex and r"$\dagger$ is told the prompt's language" in latex
    assert latex.isascii()
    assert "<th >=cmd|x†</th>" in page and "† is told the prompt" in page
    assert "=cmd|x†" in text and note in text.splitlines()
    records = list(csv.DictReader(io.StringIO(to_csv(document(blocks)))))
    assert {(r["method"], r["told_language"]) for r in records} == {
        ("base", "False"),
        (UGLY, "False"),
        (f"'{EVIL}", "True"),
    }
    unmarked = main_table(scores, SETTINGS, [UGLY, EVIL])
    assert "†" not in "".join([to_markdown(document(unmarked)), to_text(document(unmarked)), *legends.legend(unmarked)])
    several = scores.replace({"seeds": {"0": "0 1"}})
    (row, *_) = (r for b in main_table(several, SETTINGS, [], [EVIL]) for r in b.rows if r.method == EVIL)
    assert row.label == "=cmd|x (2 seeds)†"


def test_the_configuration_says_which_methods_are_told(scores, tmp_path):
    path = tmp_path / "comparisons.csv"
    scores.to_csv(path, index=False)
    config = {"settings": {"duo": {"central": "en", "languages": ["zh", "en", "sw"]}}, "blocks": [["tiny", "duo"]]}
    config |= {"versus": None}
    direct = tmp_path / "versus.csv"
    scores.iloc[:0].to_csv(direct, index=False)
    claims = tmp_path / "claims.csv"
    claims.write_text(",".join(catalogue.CLAIMED))
    config |= {
        "methods": {UGLY: {"kind": "logit_bias"}},
        "told_language": [UGLY],
        "command": "snakemake",
        "results": "results",
    }
    make_table.write_tables(config, TableFiles(path, direct, claims, []), tmp_path / "tables")
    assert r"| a\_b%\&† |" in (tmp_path / "tables/main.md").read_text()


def test_legend_of_known_metrics_and_of_nothing_compared(marked, blocks):
    (block,) = marked
    fidelity = dataclasses.replace(block, rows=tuple(row for row in block.rows if row.metric == "fidelity"))
    assert "≠" not in "".join(legends.legend([fidelity]))
    assert not any("maxT" in line or "margins" in line for line in legends.legend(blocks))


def test_metrics_to_come_have_a_direction():
    better = {
        name: catalogue.METRICS[name].better for name in ("line_pass_rate", "word_pass_rate", "exact_match", "rating")
    }
    assert set(better.values()) == {"↑"}
    assert catalogue.METRICS["unparsed"].better == "↓"
