"""The documents say what the code does and what the pipeline printed."""

import importlib
import re
from pathlib import Path

import pandas as pd
import pytest

from lensflow.methods.base import Lora
from lensflow.methods.cpt import Cpt
from lensflow.methods.lens.config import Lens
from lensflow.methods.logit_bias import LogitBias
from lensflow.methods.prompt import Prompt
from lensflow.methods.qalign import Qalign
from lensflow.methods.registry import METHODS
from lensflow.methods.sdrrl import Sdrrl
from lensflow.methods.sft import Sft
from lensflow.schema.backbone import Resources
from lensflow.schema.evaluation import Evaluation
from lensflow.schema.extraction import Extraction
from lensflow.schema.judge import Judge
from lensflow.schema.setting import Setting
from lensflow.storage.parsing import read_yaml
from lensflow.workflow.experiment import Run

ROOT = Path(__file__).parents[2]


def test_the_readmes_verdict_was_printed_by_the_demo():
    printed = (ROOT / "docs/demo/main.txt").read_text().splitlines()
    text = (ROOT / "README.md").read_text()
    said = text[text.index("More usable answers") :].split("```")[0].splitlines()
    assert len(said) == 4 and [line for line in said if line not in printed] == []


CLAIM = re.compile(r"([+−]\d\.\d{3}) \[([+−]\d\.\d{3}), ([+−]\d\.\d{3})\]( [+−])?")


def test_the_readmes_claims_are_cells_of_the_demo():
    """Each difference, interval and mark, in the order of the columns; the share of loops that the text names."""
    main = pd.read_csv(ROOT / "docs/demo/main.csv")
    main = main[(main.backbone == "gemma-3-270m") & (main.setting == "multilingual") & (main.language == "targets")]
    cells = main.set_index(["method", "metric"])
    text = (ROOT / "README.md").read_text()
    methods = ("lens-gentle", "diffmean", "prompt-shots")
    rows = [line for line in text.splitlines() if line.startswith(tuple(f"| {method} |" for method in methods))]
    assert len(rows) == len(methods)
    for row in rows:
        method, claims = row.split("|")[1].strip(), CLAIM.findall(row)
        assert len(claims) == 3
        for claim, metric in zip(claims, ("usable", "wrong_language", "repetition"), strict=True):
            cell = cells.loc[method, metric]
            shown = [cell.difference, cell.difference_low, cell.difference_high]
            mark = {"better": " +", "worse": " −"}.get(cell["mark"], "")
            assert claim == (*(f"{value:+.3f}".replace("-", "−") for value in shown), mark)
            assert cell.n == 360
    assert f"loops in {cells.loc['base', 'repetition'].value:.3f} of these answers" in " ".join(text.split())


def _cells(name: str) -> pd.DataFrame:
    """A table of the study: method, metric, language -> its cell."""
    return pd.read_csv(ROOT / "docs/study" / name).set_index(["method", "metric", "language"]).sort_index()


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    return _cells("main.csv")


def _check_rows(text: str, table: pd.DataFrame, n: int) -> None:
    """Check that each row of the text's table has a method's cells."""
    rows = [line for line in text.splitlines() if CLAIM.search(line) and line.startswith("| ")]
    assert rows
    for row in rows:
        method = row.split("|")[1].strip()
        cells = [table.loc[method, metric, "targets"] for metric in ("usable", "wrong_language", "repetition")]
        assert CLAIM.findall(row) == [_claimed(cell) for cell in cells] and {cell.n for cell in cells} == {n}


def _claimed(cell: pd.Series) -> tuple[str, ...]:
    numbers = (f"{cell[key]:+.3f}".replace("-", "−") for key in ("difference", "difference_low", "difference_high"))
    return (*numbers, {"better": " +", "worse": " −"}.get(cell["mark"], ""))


def test_the_study_says_what_its_tables_say(study):
    text = (ROOT / "docs/study/README.md").read_text()
    printed = (ROOT / "docs/study/verdict.txt").read_text()
    assert text.split("```")[1].strip() == printed.strip()
    primary, rest = text.split("## What the parts of Lens")
    explored, rest = rest.split("## Other directions, other training items")
    drawn, second = rest.split("## A second model")
    _check_rows(primary, study, 1200)
    _check_rows(explored, explore := _cells("explore/main.csv").loc[lambda cells: ~cells.index.duplicated()], 600)
    _check_rows(drawn, _cells("draws/main.csv"), 300)
    _check_rows(second, other := _cells("second/main.csv"), 600)
    said = " ".join(text.split())
    versus = pd.read_csv(ROOT / "docs/study/draws/versus.csv").query("column == 'usable ↑'").set_index("method")
    for method, words in (("lens-rotated (20 seeds)", "give"), ("lens-resampled (5 seeds)", "to Lens is")):
        numbers = (f"{value:+.3f}".replace("-", "−") for value in versus.loc[method, ["value", "low", "high"]])
        assert "{} {} [{}, {}]".format(words, *numbers) in said
    of_seeds = pd.read_csv(ROOT / "docs/study/draws/usable.csv").groupby(["method", "seed"]).value.mean()
    for method in ("lens-rotated", "lens-resampled"):
        assert f"etween {of_seeds[method].min():.3f} and {of_seeds[method].max():.3f} of" in said
    assert f"Lens reaches {of_seeds['lens', 0]:.3f}, and base {of_seeds['base', 0]:.3f}." in said
    assert (of_seeds["lens-rotated"] < of_seeds["lens", 0]).all() and len(of_seeds["lens-rotated"]) == 20
    assert f"{other.loc['lens-until', 'empty', 'targets'].value:.3f} are empty" in said
    assert f"{other.loc['base', 'usable', 'targets'].value:.3f} of base's answers are usable" in said
    usable = [other.loc[method, "usable", "en"].value for method in ("lens-until", "base")]
    assert f"{usable[0]:.2f} of its answers are usable, against {usable[1]:.2f} of base's" in said
    assert set(other.index[other.not_applied].get_level_values(0)) == {"lens-gentle"}
    (left,) = re.findall(r"lens-gentle \((.*?)\): not applied", (ROOT / "docs/study/second/verdict.txt").read_text())
    assert f"Lens was not applied: {left} of the way is left" in said
    wrong = [study.loc[method, "wrong_language", "bn"].value for method in ("lens", "base")]
    assert f"{wrong[0]:.2f} of its answers are in another language, against {wrong[1]:.2f} of base's" in said
    assert f"Base loops in {study.loc['base', 'repetition', 'targets'].value:.3f} of these" in said
    doses = _cells("explore/sweeps.csv").loc[lambda cells: ~cells.index.duplicated()]  # base is a point of every sweep
    change, low, high, _ = _claimed(doses.loc["lens.weights.pull-1000", "usable", "targets"])
    assert f"(usable {change} [{low}, {high}])" in said
    change, low, high, _ = _claimed(explore.loc["prompt-shots", "usable", "targets"])
    assert f"raise them by {change} [{low}, {high}]" in said
    strong, wrong_left, loops = (
        table.loc[method, metric, "targets"].value
        for table, method, metric in (
            (explore, "diffmean-strong", "repetition"),
            (doses, "lens.lambda-1", "wrong_language"),
            (doses, "lens.lambda-1", "repetition"),
        )
    )
    assert f"strength, {strong:.3f} of its answers are loops" in said
    assert f"({wrong_left:.3f} are left), but {loops:.3f} of the answers are loops" in said
    assert set(explore.index[explore.not_applied].get_level_values(0)) == {"lens-published"}
    kl = [study.loc[method, "kl", "en"].value for method in ("sft-5e-5", "lens")]
    assert f"KL {kl[0]:.3f} nats per token, against {kl[1]:.3f} of Lens" in said
    assert not study.not_applied.any()
    for control, value in (("usable_reference", 1), ("usable_echo", 0)):
        assert (study.loc["base", control].value == value).all()


def test_the_studys_claims_are_those_of_the_protocol(study):
    claims = pd.read_csv(ROOT / "docs/study/claims.csv")
    protocol = read_yaml(ROOT / "config/study/protocol.yaml")
    assert list(dict.fromkeys(claims.claim)) == [claim["name"] for claim in protocol["claims"]]
    for one in claims[claims.metric == "usable"].itertuples():
        language = {"targets": "targets", "central": "en"}[one.language]
        scores = [study.loc[method, "usable", language].value for method in (one.method, one.comparator)]
        assert one.difference == pytest.approx(scores[0] - scores[1], abs=1e-6)


def test_the_readme_says_what_the_study_found(study):
    text = (ROOT / "README.md").read_text()
    said = text[text.index("In our [study]") :].split("\n\n")[0]
    cells = [study.loc[method, "usable", "targets"] for method in ("lens", "prompt-shots", "sft-5e-5")]
    assert [claim[:3] for claim in CLAIM.findall(said)] == [_claimed(cell)[:3] for cell in cells]


@pytest.mark.parametrize(
    "section",
    [Cpt, Evaluation, Extraction, Judge, Lens, LogitBias, Lora, Prompt, Qalign, Resources, Run, Sdrrl, Setting, Sft],
)
def test_every_key_is_explained(section):
    text = (ROOT / "docs/configuration.md").read_text()
    names = {field.alias or name for name, field in section.model_fields.items()} - {"kind"}
    assert {name for name in names if not re.search(rf"[`.]{name}`|\b{name}:", text)} == set()


def test_the_documents_pictures_exist():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / picture).is_file()


def test_the_reference_pages_are_what_the_script_writes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "performance")
    pages = importlib.import_module("reference").PAGES
    assert {name: page() for name, page in pages.items()} == {
        name: (ROOT / "docs/reference" / name).read_text(encoding="utf-8") for name in pages
    }


@pytest.fixture
def method_pages(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "performance")
    return importlib.import_module("method_pages")


def test_the_methods_pages_are_what_the_script_writes(method_pages):
    there = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs/methods").iterdir()}
    assert method_pages.pages() == there


@pytest.mark.parametrize("kind", METHODS.builtin())
def test_a_methods_docstring_says_where_it_is_from_and_what_it_is_told(method_pages, kind):
    text, config = " ".join(method_pages.docstring(kind).split()), METHODS.config_of(kind)
    told = re.search(r"is told the (prompt's |wanted )?language|is told the language of the answer", text)
    assert bool(told) == config.told_language != ("is told no language" in text)
    if kind != "base":
        assert re.search(r"\d{4}\.\d{5}|et al\.", text)
        assert re.search("[Dd]efault", text) if config.model_fields.keys() - {"kind"} else "There are no keys." in text


RESULT = "x,pair,lens-gentle,usable,targets,0.5,0.25,0.75,8,0.125,-0.25,0.5,better,\n"


def test_a_methods_results_and_cost_are_those_of_the_tables(method_pages, tmp_path):
    columns = "backbone,setting,method,metric,language,value,low,high,n,difference,difference_low,difference_high"
    (tmp_path / "demo").mkdir()
    main, cost = (tmp_path / "demo" / f"{name}.csv" for name in ("main", "cost"))
    central = RESULT.replace("targets", "en").replace("better,", ",not shown")
    rows = f"{columns},mark,retention\n{RESULT}{central}{RESULT.replace('usable', 'cut')}".splitlines()
    main.write_text("\n".join([f"{rows[0]},not_applied", *(f"{row},False" for row in rows[1:])]))
    without = method_pages.pages(tmp_path)
    page = without["lens.md"]
    row = "| x, pair | lens-gentle | usable ↑ | {} | 0.500 [0.250, 0.750] | 8 | +0.125 [-0.250, +0.500] | {} |"
    assert row.format("targets", "better") in page and row.format("en", "not shown to be kept") in page
    assert page.count("| x, pair |") == 2 and page.endswith("What it cost is not in the committed results.\n")
    assert without["sft.md"].endswith("## What it gave and what it cost\n\nThe demo does not have it.\n")
    main.write_text(main.read_text().replace("False", "True"))
    assert "| lens-gentle ‡ not applied | usable" in method_pages.pages(tmp_path)["lens.md"]
    lines = [f"x,pair,Training,{name},time (s),1234.5,,," for name in ("lens-gentle (3 seeds)", "sft-lora", "nobody")]
    cost.write_text("backbone,setting,panel,method,column,value,low,high,rank\n" + "\n".join(lines))
    page = method_pages.pages(tmp_path)["lens.md"]
    table = page[page.rindex("| backbone, setting |") :].splitlines()
    assert table == [
        "| backbone, setting | method | time (s) |",
        "| --- | --- | --: |",
        "| x, pair | lens-gentle (3 seeds) | 1,234.5 |",
    ]


def test_every_page_is_on_the_site():
    site = (ROOT / "zensical.toml").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    parts = {name for name in pages if name.split("/")[0] in ("benchmarks", "study", "demo") and name not in site}
    assert {name for name in pages - parts if f'"{name}"' not in site} == set()
