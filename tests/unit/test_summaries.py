import csv
import dataclasses
import io
import re

import pandas as pd
import pytest

from lensflow.artifacts.layout import Place
from lensflow.measures import catalogue
from lensflow.presentation import comparison_tables, cost_table, legends
from lensflow.presentation.blocks import TableInputs, main_table
from lensflow.presentation.sheets import Document
from lensflow.presentation.writers import csv as csv_writer
from lensflow.presentation.writers import markdown
from lensflow.presentation.writers.csv import to_csv
from lensflow.presentation.writers.html import to_html
from lensflow.presentation.writers.latex import to_latex
from lensflow.presentation.writers.markdown import to_markdown
from lensflow.presentation.writers.terminal import to_text
from lensflow.schema.setting import Setting

SETTINGS = {"trio": Setting(central="en", languages=("en", "zh", "sw"))}
PAIR = {"trio": Setting(central="en", languages=("en", "zh"))}
LENS = {"kind": "lens", "lambda": 0.3, "lr": 1e-5, "weights": {"pull": 1.0, "push": 1.0}}
METHODS = {
    "base": {"kind": "base"},
    "sft": {"kind": "sft"},
    "lens": LENS,
    "lens-push": LENS | {"weights": {"pull": 0.0, "push": 1.0}},
}


def row(method, benchmark, metric, language, value, seeds="0", **more):
    empty = dict.fromkeys(catalogue.COMPARED)
    place = {"backbone": "tiny", "setting": "trio", "method": method, "seeds": seeds, "benchmark": benchmark}
    score = {"metric": metric, "language": language, "n": 40, "value": value, "low": value - 0.01, "high": value + 0.02}
    return empty | place | score | more


def compared(difference, **more):
    return {"difference": difference, "difference_low": difference - 0.05, "difference_high": difference + 0.05, **more}


def block(rows, settings=SETTINGS):
    (one,) = main_table(pd.DataFrame(rows), settings, list(METHODS))
    return one


@pytest.fixture
def rows():
    found = []
    for method, value, change in (("base", 0.3, None), ("sft", 0.5, 0.2), ("lens", 0.9, 0.6), ("lens-push", 0.4, 0.1)):
        more = {} if change is None else compared(change, p=0.01, p_adjusted=0.02, mark="better")
        for language, less in (("en", 0.1), ("zh", 0.2), ("sw", 0.15), ("targets", 0)):
            for benchmark, metric in (
                ("generation", "usable"),
                ("cldr", "accuracy"),
                ("xcopa", "accuracy"),
                ("mine", "score"),
            ):
                found.append(row(method, benchmark, metric, language, value - less, **more))
        found.append(row(method, "likelihood", "nll", "en", 4 - value, **more))
        found.append(row(method, "generation", "cut", "targets", value, **more))
    return found


def one_sheet(document):
    """The sheet of a document of one block; None if it is empty."""
    return document.sheets[0] if document.sheets else None


def summary(of_block):
    return one_sheet(comparison_tables.summary(TableInputs((of_block,))))


def ablation(of_block, methods):
    return one_sheet(comparison_tables.ablation(TableInputs((of_block,), methods=methods)))


def cost(of_block, measured):
    costs = {Place("tiny", "trio", *training): content for training, content in measured.items()}
    elsewhere = {
        Place("tiny", "other", "lens", 0): {"seconds": 9e9},
        Place("huge", "trio", "lens", 0): {"seconds": 9e9},
    }
    return one_sheet(cost_table.cost(TableInputs((of_block,), costs=costs | elsewhere)))


def by_method(panel):
    return {line.heads[0]: line.entries for line in panel.lines}


def panels(sheet):
    """Title -> method -> column -> text with marks."""
    return {
        panel.title: {
            label: {
                column: f"{entry.text} {entry.marks}".strip()
                for column, entry in zip(panel.columns, entries, strict=True)
            }
            for label, entries in by_method(panel).items()
        }
        for panel in sheet.panels
    }


def test_summary_has_the_three_panels_of_the_paper(rows):
    found = panels(summary(block(rows)))
    assert list(found) == ["Understanding (targets)", "Generation (targets)", "Central language (en)"]
    understanding, generation, central = found.values()
    assert list(understanding) == ["base", "sft", "lens", "lens-push"]
    assert understanding["sft"] == {"accuracy ↑": "0.50 +", "accuracy (xcopa) ↑": "0.50 +", "score (mine)": "0.500 +"}
    assert generation["lens"] == {"usable ↑": "0.90 +"}  # how often prompts are copied stands in the main table
    assert central["base"] == {
        "usable ↑": "0.20",
        "accuracy ↑": "0.20",
        "accuracy (xcopa) ↑": "0.20",
        "nll ↓": "3.700",
        "score (mine)": "0.200",
    }


def test_summary_of_one_target_names_it(rows):
    rows = [row for row in rows if row["language"] in ("en", "zh")]
    found = panels(summary(block(rows, PAIR)))
    assert list(found) == ["Understanding (zh)", "Generation (zh)", "Central language (en)"]
    assert found["Generation (zh)"]["sft"] == {"usable ↑": "0.30 +"}


def test_what_was_not_measured_has_no_column_or_a_dash(rows):
    rows = [row for row in rows if row["benchmark"] in ("cldr", "xcopa")]
    rows = [row for row in rows if row["benchmark"] != "xcopa" or (row["method"] != "sft" and row["language"] == "en")]
    found = panels(summary(block(rows)))
    assert list(found) == ["Understanding (targets)", "Central language (en)"]
    assert list(found["Understanding (targets)"]["sft"]) == ["accuracy ↑"]
    assert found["Central language (en)"]["sft"] == {"accuracy ↑": "0.40 +", "accuracy (xcopa) ↑": "–"}


def test_best_and_second_best_are_those_of_the_main_table(rows):
    one = block(rows)
    (panel,) = (panel for panel in summary(one).panels if panel.title.startswith("Generation"))
    assert {label: entry.rank for label, (entry,) in by_method(panel).items()} == {
        "base": 0,
        "sft": 2,
        "lens": 1,
        "lens-push": 0,
    }
    assert legends.BEST_NOTE in summary(one).notes


def test_legend_of_the_summary_explains_what_it_shows(rows):
    notes = summary(block(rows)).notes
    assert any(note.startswith("accuracy: ") for note in notes) and not any(note.startswith("cut:") for note in notes)
    # The tests are those of the whole block, shown or not.
    count = sum(row["p"] is not None for row in rows)
    assert any(f"({count} tests in " in note for note in notes)


def test_ablation_says_what_differs_and_by_how_much_from_base(rows):
    found = panels(ablation(block(rows), METHODS))
    assert found["Settings that differ"] == {"lens": {"weights.pull": "1.0"}, "lens-push": {"weights.pull": "0.0"}}
    assert found["Generation (targets)"] == {
        "lens": {"usable ↑": "+0.60 +"},
        "lens-push": {"usable ↑": "+0.10 +"},
    }
    panel = ablation(block(rows), METHODS).panels[2]
    assert by_method(panel)["lens"][0].note == "[0.55, 0.65]" and by_method(panel)["lens"][0].low == pytest.approx(0.55)


def test_ablation_of_one_variant_or_none(rows):
    alone = block([row for row in rows if row["method"] != "lens-push"])
    assert "Settings that differ" not in panels(ablation(alone, METHODS))
    assert ablation(block([row for row in rows if "lens" not in row["method"]]), METHODS) is None


def test_a_method_with_several_seeds_is_one_row(rows):
    for one in rows:
        if one["method"] == "lens" and one["metric"] == "usable":
            one["seeds"] = "0 1 2"
    for sheet in (summary(block(rows)), ablation(block(rows), METHODS)):
        for panel in sheet.panels:
            assert [label for label in by_method(panel) if label.startswith("lens")] == ["lens (3 seeds)", "lens-push"]


@pytest.fixture
def costs():
    one = {
        "seconds": 1234.5,
        "prepared_seconds": 60.7,
        "device": "cpu",
        "peak_memory": 2.5e9,
        "tokens": 1_000_000,
        "trained_parameters": 7_000_000,
    }
    metered = one | {"seconds": 100.0, "prepared_seconds": 0, "energy_joules": 7200.0}
    return {("lens", 0): one, ("sft", 0): metered, ("sft", 1): metered | {"seconds": 300.0}, ("other", 0): one}


def test_cost_has_units_means_and_spans(rows, costs):
    sheet = cost(block(rows), costs)
    assert panels(sheet)["Training"] == {
        "sft (2 seeds)": {
            "time (s)": "200",
            "before (s)": "0",
            "peak memory (GB)": "2.50",
            "tokens": "1,000,000",
            "trained parameters": "7,000,000",
            "energy (Wh)": "2.00",
        },
        "lens": {
            "time (s)": "1,234",
            "before (s)": "61",
            "peak memory (GB)": "2.50",
            "tokens": "1,000,000",
            "trained parameters": "7,000,000",
            "energy (Wh)": "–",
        },
    }
    assert by_method(sheet.panels[0])["sft (2 seeds)"][0].note == "(100 to 300)"
    assert [entry.note for entry in by_method(sheet.panels[0])["sft (2 seeds)"][1:]] == [
        ""
    ] * 5  # the same for both seeds
    assert "mean over seeds" in sheet.notes[0] and any("(cpu)" in note for note in sheet.notes)
    assert cost(block(rows), {}) is None


def test_cost_without_a_number_that_could_not_be_read(rows):
    sheet = cost(block(rows), {("lens", 0): {"seconds": 1.0, "energy_joules": None}})
    assert list(panels(sheet)["Training"]["lens"].values()) == ["1", "–", "–", "–", "–", "–"]


@pytest.fixture
def sheet(rows):
    ugly = {"lens": "a_b%&", "sft": "=cmd|x"}
    return summary(block([row | {"method": ugly.get(row["method"], row["method"])} for row in rows]))


def test_markdown(sheet):
    lines = to_markdown(Document((sheet,))).splitlines()
    assert lines[0] == "### Methods side by side: tiny, setting trio (central language en)"
    start = lines.index("**Generation (targets)**")
    assert lines[start + 2 : start + 5] == [
        "| method | usable ↑ |",
        "| --- | ---: |",
        "| base | 0.30 [0.29, 0.32] |",
    ]
    assert (
        r"| a\_b%\& | **0.90** + [0.89, 0.92] |" in lines and r"| =cmd\|x | <ins>0.50</ins> + [0.49, 0.52] |" in lines
    )
    assert [f"- {markdown.escape(note)}" for note in sheet.notes] == [line for line in lines if line[:2] == "- "]


def test_latex(sheet):
    text = to_latex(Document((sheet,)))
    assert text.isascii() and text.startswith("% \\usepackage{booktabs,graphicx}\n")
    assert r"a\_b\%\& & \textbf{0.90} + \\" in text and r"=cmd\textbar{}x & \underline{0.50} + \\" in text
    for part in re.findall(r"\\begin{tabular}{(l*r*)}(.*?)\\end{tabular}", text, flags=re.DOTALL):
        lines = [line for line in part[1].splitlines() if line.endswith(r"\\") and "rlap" not in line]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(part[0])}


def test_text_for_the_terminal_has_the_panels_under_their_titles(sheet):
    lines = to_text(Document((sheet,), brief=("one note",))).splitlines()
    start = lines.index("Generation (targets)")
    assert lines[0] == sheet.caption and lines[-1] == "one note"
    assert [line.split() for line in lines[start + 1 : start + 3]] == [
        ["method", "usable", "↑"],
        ["base", "0.30±0.02"],  # of [0.29, 0.32]
    ]
    assert lines[start + 1].index("usable") == lines[start + 2].index("0.30")


def test_csv(sheet):
    records = list(csv.DictReader(io.StringIO(to_csv(Document((sheet,))))))
    assert list(records[0]) == list(csv_writer.COLUMNS)
    (mine,) = (r for r in records if r["method"] == "a_b%&" and r["column"] == "usable ↑" and "Gen" in r["panel"])
    assert [mine[key] for key in ("value", "low", "high", "rank")] == ["0.9", "0.89", "0.92", "1"]
    assert not any(field.startswith(("=", "+", "@")) for record in records for field in record.values())
    assert to_csv(Document(())).splitlines() == [",".join(csv_writer.COLUMNS)]


def test_csv_of_numbers_is_exact_and_text_stays_text(rows, costs):
    records = list(csv.DictReader(io.StringIO(to_csv(Document((cost(block(rows), costs),))))))
    found = {(record["method"], record["column"]): record for record in records}
    assert found["lens", "trained parameters"]["value"] == "7000000" and found["lens", "time (s)"]["low"] == ""
    assert found["sft (2 seeds)", "time (s)"]["high"] == "300" and ("lens", "energy (Wh)") not in found
    variants = csv.DictReader(io.StringIO(to_csv(Document((ablation(block(rows), METHODS),)))))
    assert [record["value"] for record in variants if record["column"] == "weights.pull"] == ["1.0", "0.0"]


def test_html_escapes(rows):
    evil = "<script>x</script>"
    one = block([row | {"method": evil if row["method"] == "lens" else row["method"]} for row in rows])
    html = to_html(Document((summary(one),)))
    assert evil not in html and "&lt;script&gt;x&lt;/script&gt;" in html
    assert "<td ><b>0.90</b> +<small>[0.89, 0.92]</small></td>" in html and "<td ><u>0.50</u> +<small>" in html
    assert "<caption>Central language (en)</caption>" in html
    strange = dataclasses.replace(summary(one), notes=("<b>",))
    assert "<li>&lt;b&gt;</li>" in to_html(Document((strange,)))
