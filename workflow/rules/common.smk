"""Names of files, closed wildcards, targets."""

import sys
from importlib.resources import files
from pathlib import Path

from lensflow.config import load
from lensflow.errors import LensflowError
from lensflow.files import file_digest
from lensflow.items import datasets_root
from lensflow.workflow import BASE, Checkpoint, Plan, as_parameter, code_digest, pattern

try:
    PLAN = Plan(load(config), Path.cwd(), Path(str(workflow.basedir)))
    PLAN.check_disk(Path("results"))
except LensflowError as error:
    # One line, without the traceback that Snakemake adds to exceptions.
    sys.exit(f"error: {error}")

ROOT = datasets_root(PLAN.config.datasets_root)
DATASETS_ROOT_OPTION = ["--datasets-root", str(ROOT)] if ROOT else []
RUN = "results/{backbone}/{setting}/{method}/seed{seed}"


wildcard_constraints:
    backbone=pattern(PLAN.backbones),
    benchmark=pattern(PLAN.benchmarks),
    corpus=pattern(PLAN.corpus_digests),
    language="[a-z]{2,3}",
    setting=pattern([*PLAN.config.settings, BASE[0]]),
    method=pattern(PLAN.config.methods),
    seed="[0-9]+",


def checkpoint_of(wildcards):
    """The checkpoint that a job's wildcards name."""
    return Checkpoint(
        wildcards.backbone, wildcards.setting, wildcards.method, int(wildcards.seed)
    )


def of_languages(pattern, corpus):
    """An input function: one file of `corpus` ("probing" or "training") for each language of the setting."""

    def paths(wildcards):
        setting = PLAN.config.settings[wildcards.setting]
        return expand(
            pattern,
            corpus=getattr(setting, corpus),
            language=setting.languages,
            allow_missing=True,
        )

    return paths


def with_states(paths):
    """An input function: `paths` for a method that needs hidden states, nothing for the others."""
    return lambda wildcards: (
        paths(wildcards) if PLAN.needs_states(wildcards.method) else []
    )


def manifest_of(wildcards):
    """The manifest of the checkpoint that is evaluated: the backbone itself or an exported one."""
    if wildcards.method == "base":
        return f"results/{wildcards.backbone}/backbone/manifest.json"
    return f"{RUN.format(**wildcards)}/checkpoint/manifest.json"


def evaluated_checkpoint(wildcards):
    """What must be there to evaluate a checkpoint."""
    manifest = manifest_of(wildcards)
    return manifest if wildcards.method == "base" else str(Path(manifest).parent)


def applied_intervention(wildcards):
    """What a method does while its checkpoint is evaluated; nothing for the backbone itself."""
    return (
        []
        if wildcards.method == "base"
        else f"{RUN}/intervention.safetensors".format(**wildcards)
    )


def evaluated_texts(wildcards):
    """The texts of corpora that a checkpoint is evaluated on."""
    return [
        f"results/data/{corpus}/{language}.jsonl"
        for corpus, languages in PLAN.evaluation_corpora(
            checkpoint_of(wildcards)
        ).items()
        for language in languages
    ]


def local_files(stage_config):
    """The files of a data set's local copy; a change in one reads it again."""
    if ROOT is None or "dataset" not in stage_config:
        return []
    folder = ROOT / stage_config["dataset"]["path"]
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())


def evaluated_items(wildcards):
    """The items of data sets that a checkpoint is evaluated on."""
    return [
        f"results/benchmarks/{benchmark}/{language}.jsonl"
        for benchmark, languages in PLAN.evaluation_items(
            checkpoint_of(wildcards)
        ).items()
        for language in languages
    ]


def trained_pairs():
    """Each backbone and setting that something is trained in."""
    return list(dict.fromkeys((c.backbone, c.setting) for c in PLAN.trained()))


def targets():
    """Everything that a run ends in."""
    return [
        "results/tables/main.md",
        "results/tables/main.tex",
        "results/tables/main.csv",
        *[
            f"results/figures/{backbone}.{setting}"
            for backbone, setting in trained_pairs()
        ],
        "results/report.html",
    ]
