"""The documents say what the code does and what the pipeline printed."""

import re
from pathlib import Path

import pandas as pd
import pytest

from lensflow.config import Evaluation, Extraction, Judge, Lora, Resources, Run, Setting
from lensflow.methods.cpt import Cpt
from lensflow.methods.lens import Lens
from lensflow.methods.prompt import Prompt
from lensflow.methods.qalign import Qalign
from lensflow.methods.sft import Sft
from lensflow.methods.steer import Steer

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


def test_the_readmes_numbers_of_the_study_are_those_of_its_tables():
    """Of each question's methods, the mean over the targets of the multilingual setting."""
    text = (ROOT / "README.md").read_text().split("## Is it worth it?")[1].split("\n## ")[0]
    push, random, prompting, steering, tuning = text.split("\n- ")[1:]
    study = pd.read_csv(ROOT / "docs/study/main.csv")
    study = study[(study.setting == "en-zh-ar-bn-sw") & (study.language == "targets")]
    values = study.set_index(["metric", "method"])

    def said(question: str, metric: str, *methods: str, column: str = "value") -> None:
        for method in methods:
            shown = f"{values.loc[(metric, method), column]:.2f}"
            assert re.search(rf"\b{re.escape(shown)}\b", question), (metric, method, shown)

    said(push, "fidelity", "base", "lens-gentle", "lens-push-only", "lens-pull-only")
    said(push, "line_pass_rate", "lens-gentle", "lens-no-push")
    said(random, "fidelity", "lens-random", "lens-permuted")
    said(random, "line_pass_rate", "lens-random")
    said(prompting, "fidelity", "prompt-english", "prompt-native")
    said(steering, "fidelity", "steer-gentle")
    said(steering, "repetition", "steer-strong")
    said(tuning, "fidelity", "sft-lora")
    said(tuning, "repetition", "sft-lora", "lens-gentle")
    said(tuning, "nll", "lens-gentle", column="difference")
    said(tuning, "accuracy", "base", "lens-gentle")


def test_the_documents_pictures_exist():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / picture).is_file()
