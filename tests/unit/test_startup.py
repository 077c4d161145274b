"""What starting Snakemake or a stage imports: every job pays for it, most of all where a job takes seconds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lensflow.workflow.stages import STAGES

MODELS = {"torch", "transformers", "tokenizers", "peft", "accelerate", "lm_eval", "vllm", "datasets"}
TABLES = {"pandas", "scipy", "statsmodels"}
DRAWING = {"matplotlib", "sklearn"}
ROOT = Path(__file__).parents[2]
# Stages that import like each other -> which large libraries none of them needs to start.
LEFT_OUT = {
    ("prepare_backbone", "pair_data", "fetch_items", "resolve_config"): MODELS - {"tokenizers"} | TABLES | DRAWING,
    ("score", "judge", "collect_scores"): MODELS | DRAWING,
    ("make_table", "report"): MODELS | DRAWING | TABLES - {"pandas"},
    ("extract_hidden_states", "fit_subspaces", "train", "answer"): MODELS - {"torch", "tokenizers"} | TABLES | DRAWING,
    ("make_figures",): MODELS - {"torch"},
}


def test_every_stage_is_told_of():
    assert sorted(name for names in LEFT_OUT for name in names) == sorted(STAGES)


@pytest.mark.parametrize(("names", "left_out"), LEFT_OUT.items(), ids=lambda value: "")
def test_a_stage_imports_no_large_library_that_it_may_not_need(names, left_out):
    modules = [STAGES[name].module for name in names]
    assert left_out & loaded_by(f"import {', '.join(modules)}") == set()


def test_the_snakefile_imports_no_large_library():
    """What the rules import, and the plan of the demo, which imports the kinds that it uses."""
    rules = [path.read_text(encoding="utf-8") for path in (ROOT / "Snakefile", *ROOT.glob("workflow/rules/*.smk"))]
    imports = [line for text in rules for line in re.findall(r"^(?:from|import) (?!snakemake).*$", text, re.MULTILINE)]
    assert "from lensflow.presentation import table_list" in imports
    loaded = loaded_by("\n".join([*imports, "Plan(read([], Path(), {}), Path(), Path())"]))
    assert loaded & (MODELS - {"tokenizers"} | TABLES | DRAWING) == set()


def loaded_by(statements: str) -> set[str]:
    """Return the modules that a Python process has imported after these statements."""
    program = f"{statements}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())
