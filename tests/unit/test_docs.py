"""The documents say what the code does and what the pipeline printed."""

import re
from pathlib import Path

import pandas as pd
import pytest

from lensflow.methods.base import Lora
from lensflow.methods.cpt import Cpt
from lensflow.methods.lens.config import Lens
from lensflow.methods.prompt import Prompt
from lensflow.methods.qalign import Qalign
from lensflow.methods.sft import Sft
from lensflow.methods.steer import Steer
from lensflow.schema.backbone import Resources
from lensflow.schema.evaluation import Evaluation
from lensflow.schema.extraction import Extraction
from lensflow.schema.judge import Judge
from lensflow.schema.setting import Setting
from lensflow.workflow.experiment import Run

ROOT = Path(__file__).parents[2]


def test_the_readmes_table_was_printed_by_the_demo():
    printed = {line.rstrip() for line in (ROOT / "docs/demo/main.txt").read_text().splitlines()}
    text = (ROOT / "README.md").read_text()
    table = text[text.index("gemma-3-270m, setting") :].split("```")[0]
    lines = [line for line in table.splitlines() if line]
    assert len(lines) > 10
    assert [line for line in lines if line not in printed] == []


@pytest.mark.parametrize(
    "section", [Cpt, Evaluation, Extraction, Judge, Lens, Lora, Prompt, Qalign, Resources, Run, Setting, Sft, Steer]
)
def test_every_key_is_explained(section):
    text = (ROOT / "config/README.md").read_text()
    names = {field.alias or name for name, field in section.model_fields.items()} - {"kind"}
    assert {name for name in names if not re.search(rf"[`.]{name}`|\b{name}:", text)} == set()


STUDY = ROOT / "docs/study"
# The columns of README's table of the study: metric, language, panel of versus.md, decimals.
COLUMNS = [
    ("fidelity", "targets", "Generation (targets)", 2),
    ("line_pass_rate", "targets", "Generation (targets)", 2),
    ("accuracy", "targets", "Understanding (targets)", 2),
    ("repetition", "targets", "Generation (targets)", 2),
    ("accuracy", "en", "Central language (en)", 2),
    ("nll", "en", "Central language (en)", 3),
]


def test_the_readmes_numbers_of_the_study_are_those_of_its_tables():
    """Values of main.csv; the marks, of a shown difference to lens-gentle, are those of versus.md."""
    text = (ROOT / "README.md").read_text().split("## Is it worth it?")[1].split("\n## ")[0]
    shown = {cells[0]: cells[1:] for cells in rows_of(text)[2:]}
    main = pd.read_csv(STUDY / "main.csv")
    main = main[main.setting == "en-zh-bn-sw"].set_index(["metric", "language", "method"]).sort_index()
    marks = marks_of((STUDY / "versus.md").read_text().split("setting en-zh-bn-sw")[1])
    assert len(shown) > 10
    for method, cells in shown.items():
        name = method.strip("†")
        expected = [
            f"{main.value[metric, language, name]:.{decimals}f} {marks.get((panel, method, metric), '')}".strip()
            for metric, language, panel, decimals in COLUMNS
        ]
        assert cells == expected, method
        assert main.told_language["fidelity", "targets", name] == method.endswith("†")
    raised = main[main.mark == "better"].loc["script_mass", "targets"]
    assert {method for method in raised.index if method.startswith("lens")} == {
        *("lens-gentle", "lens-no-pull", "lens-no-retain", "lens-push-only")
    }
    for method in ("base", "lens-gentle"):
        assert (
            f"{main.value['script_mass', 'targets', method]:.2f}" in text.split("script mass")[1].split("- A random")[0]
        )
    versus = re.sub(r" [+−≠](?= \[)", "", (STUDY / "versus.md").read_text().split("setting en-zh-bn-sw")[1])
    said = re.findall(r"[+-][\d.]+ \[[^]]+\]", " ".join(text.split()))
    assert len(said) > 8 and [difference for difference in said if f"| {difference} |" not in versus] == []


def rows_of(markdown: str) -> list[list[str]]:
    """The cells of a table's lines."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def marks_of(versus: str) -> dict[tuple[str, str, str], str]:
    """Panel, method and metric -> what is marked as better (+) or worse (−) there."""
    found = {}
    for part in versus.split("\n**")[1:]:
        panel = part.split("**")[0]
        heads, _, *rows = rows_of(part)
        for method, *cells in rows:
            for head, cell in zip(heads[1:], cells, strict=True):
                metric = head.split()[0].replace("\\", "")
                found[panel, method.split(" (")[0], metric] = (
                    mark[0] if (mark := re.findall(r" ([+−≠]) ", cell)) else ""
                )
    return found


def test_the_documents_pictures_exist():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / picture).is_file()
