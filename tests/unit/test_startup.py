"""What starting a stage imports: every job pays for it, most of all where a job takes seconds."""

import subprocess
import sys

import pytest

from lensflow.workflow.stages import STAGES

MODELS = {"torch", "transformers", "tokenizers", "peft", "accelerate", "lm_eval", "vllm", "datasets"}
TABLES = {"pandas", "scipy", "statsmodels"}
DRAWING = {"matplotlib", "sklearn"}
PLANNING = "lensflow.workflow.plan"
# Stages that import like each other -> which large libraries none of them needs to start.
LEFT_OUT = {
    ("prepare_backbone", "pair_data", "fetch_items", "resolve_config"): MODELS - {"tokenizers"} | TABLES | DRAWING,
    ("score", "judge", "collect_scores", "make_table", "report"): MODELS | DRAWING,
    ("extract_hidden_states", "fit_subspaces", "train", "answer"): MODELS - {"torch", "tokenizers"} | TABLES | DRAWING,
    ("make_figures",): MODELS - {"torch"},
}


def test_every_stage_is_told_of():
    assert sorted(name for names in LEFT_OUT for name in names) == sorted(STAGES)


@pytest.mark.parametrize(("names", "left_out"), LEFT_OUT.items(), ids=lambda value: "")
def test_a_stage_imports_no_large_library_that_it_may_not_need(names, left_out):
    modules = [STAGES[name].module for name in names]
    if "pair_data" in names:
        modules.append(PLANNING)  # on every start of Snakemake
    program = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, *modules], capture_output=True, text=True, check=True)
    assert left_out & set(done.stdout.split()) == set()
