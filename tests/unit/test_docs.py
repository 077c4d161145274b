"""The documents say what the code does and what the pipeline printed."""

import re
from pathlib import Path

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


def test_the_documents_pictures_exist():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / picture).is_file()
