"""Configuration, names of files, closed wildcards, resources, targets."""

import os
import re
import shlex
import sys
from importlib.resources import files
from pathlib import Path

from lensflow.artifacts.hub import datasets_root
from lensflow.artifacts.hub import local_files as files_of_copy
from lensflow.artifacts.layout import NO_SETTING, Place
from lensflow.errors import LensflowError
from lensflow.presentation import table_list
from lensflow.provenance.code import code_digest
from lensflow.schema.types import LANGUAGE_PATTERN
from lensflow.storage.digests import VERIFY, file_digest
from lensflow.workflow.experiment import read
from lensflow.workflow.failures import failures
from lensflow.workflow.plan import Plan, as_parameter, pattern
from lensflow.workflow.progress import Progress
from lensflow.workflow.project import INSTALLED
from lensflow.workflow.stages import STAGES
from lensflow.workflow.tracking import VARIABLE as TRACKERS

# Where results lie; a `module` statement can put a prefix before it.
RESULTS = workflow.modifier.path_modifier.modify("results")

try:
    # `config` is what the command line or a `module` statement says, on top of this workflow's own files.
    PLAN = Plan(read([], HERE, config), Path.cwd(), HERE)
    if (
        workflow.storage_settings.default_storage_provider is None
    ):  # else they lie elsewhere
        PLAN.check_disk(Path(RESULTS))
except LensflowError as error:
    # One line, without the traceback that Snakemake adds to exceptions.
    sys.exit(f"error: {error}")

os.environ[VERIFY] = (
    PLAN.config.verify
)  # of the jobs; a job on another machine reads this file, too
os.environ[TRACKERS] = ",".join(PLAN.config.trackers)
ROOT = datasets_root(PLAN.config.datasets_root)
DATASETS_ROOT_OPTION = ["--datasets-root", str(ROOT)] if ROOT else []
# Whoever names files of single checkpoints wants no other checkpoint trained and answered. A job on another machine reads
# this file again and knows it by the name of its rule. Snakemake itself knows its targets only after it has read this.
ONE_BY_ONE = any(
    re.match(r"results/.+/seed\d+/|answer_\w+_only_\d+\b", word)
    for word in sys.argv[1:]
)
RUN = "results/{backbone}/{setting}/{method}/seed{seed}"


wildcard_constraints:
    backbone=pattern(PLAN.backbones),
    benchmark=pattern(PLAN.benchmarks),
    corpus=pattern(PLAN.corpus_digests),
    language=LANGUAGE_PATTERN.strip("^$"),
    setting=pattern([*PLAN.config.settings, NO_SETTING]),
    method=pattern(PLAN.config.methods),
    seed="[0-9]+",


def checkpoint_of(wildcards):
    """The checkpoint that a job's wildcards name."""
    return Place(
        wildcards.backbone, wildcards.setting, wildcards.method, int(wildcards.seed)
    )


def of_languages(pattern, use):
    """An input function: for each language of the setting one file of the corpus that it has for `use`."""

    def paths(wildcards):
        setting = PLAN.config.settings[wildcards.setting]
        return expand(
            pattern,
            corpus=PLAN.corpus(wildcards.setting, use),
            language=setting.languages,
            allow_missing=True,
        )

    return paths


def states_of(use):
    """An input function: the hidden states of the corpus that the setting has for `use`, in all its languages."""
    return of_languages(
        "results/{backbone}/hidden_states/{corpus}/{language}.safetensors", use
    )


def with_states(paths):
    """An input function: `paths` for a method that needs hidden states, nothing for the others."""
    return lambda wildcards: (
        paths(wildcards) if PLAN.needs_states(wildcards.method) else []
    )


def on_states(paths):
    """An input function: `paths` where a method of the backbone and setting needs hidden states, nothing else."""
    return lambda wildcards: (
        paths(wildcards)
        if PLAN.on_states(wildcards.backbone, wildcards.setting)
        else []
    )


def local_files(stage_config):
    """The files of a data set's local copy; a change in one reads it again."""
    if "dataset" not in stage_config:
        return []
    found = files_of_copy(stage_config["dataset"]["path"], ROOT)
    # local: not below the prefix of a `module` statement.
    return [local(str(path)) for path in found]


def described_by(backbone):
    """The files beside the weights of a backbone that is a folder: tokenizer, templates, what ends an answer.

    A change in one prepares the backbone again. The weights are left out: they are large, and every stage that reads
    them compares them with the manifest.
    """
    source = PLAN.config.backbones[backbone].source
    if source.kind != "folder":
        return []
    folder = Path(source.path).expanduser()
    # local: see `local_files`.
    return sorted(
        local(str(path))
        for path in folder.iterdir()
        if path.suffix in (".json", ".jinja")
    )


def shared_files(wildcards):
    """The files of a folder that a method of kind `shared` loads; a change in one loads it again."""
    method = PLAN.config.methods[wildcards.method]
    folder = Path(method.directions if method.kind == "shared" else "")
    if method.kind != "shared" or not folder.is_dir():
        return []
    # local: see `local_files`.
    return sorted(local(str(path)) for path in folder.rglob("*") if path.is_file())


def evaluated_on(checkpoint):
    """The texts of corpora and the items of data sets that a checkpoint is evaluated on."""
    corpora = PLAN.evaluation_corpora(checkpoint).items()
    benchmarks = PLAN.evaluation_items(checkpoint).items()
    return [
        f"results/{folder}/{name}/{language}.jsonl"
        for folder, used in (("data", corpora), ("benchmarks", benchmarks))
        for name, languages in used
        for language in languages
    ]


def results_of(output):
    """Where a run's output lies, the folder of all results: below a module's prefix, or a storage's local copies."""
    return Path(output).parents[4]


def needs(job):
    """What the backbone of a job, by its wildcards or its part, needs of the machine."""
    return PLAN.config.backbones[job.backbone].resources


def configured(stage):
    """A parameter function: the configuration of a stage for the wildcards of a job, as one text."""
    return lambda wildcards: as_parameter(PLAN.config_of(stage, wildcards))


def code_of(stage):
    """The digest of the code behind a stage."""
    return code_digest(STAGES[stage].module)


def each_attempt(amount):
    """A resource function: at every further attempt as much again."""
    return lambda wildcards, attempt: attempt * amount


def memory(default):
    """A resource function: MB of a job that loads the backbone; `default` may be a function of the wildcards."""

    def mb(wildcards, attempt):
        own = needs(wildcards).mem_gb
        if own is None:
            return attempt * (default(wildcards) if callable(default) else default)
        return attempt * round(1000 * own)

    return mb


def minutes(wildcards, attempt):
    """Of a job that loads the backbone."""
    return attempt * (needs(wildcards).runtime or 60)


def memory_of(part, default):
    """A resource function: MB of a job for a part of the plan, which loads the backbone."""
    return lambda wildcards, attempt: memory(default)(part, attempt)


def minutes_of(part):
    """A resource function: minutes of such a job."""
    return lambda wildcards, attempt: minutes(part, attempt)


def threads_of_model(wildcards):
    """Threads of a job that computes the whole model."""
    return needs(wildcards).threads or workflow.cores


def partition(wildcards):
    """SLURM's, for a job that loads the backbone."""
    return needs(wildcards).partition


def one_gpu(wildcards):
    """A GPU for a stage that uses no more than one, if the backbone is given any."""
    return min(1, needs(wildcards).gpus)


def gpus_to_train(wildcards):
    """GPUs that share a training: as many as the method asks for, if the backbone is given them."""
    method = PLAN.config.methods[wildcards.method]
    return min(getattr(method, "gpus", 1), needs(wildcards).gpus)


def drawn_pairs():
    """Each backbone and setting that there are figures of: something is trained in it, or a sweep is about it."""
    trained = [(c.backbone, c.setting) for c in PLAN.shown()]
    swept = [(point.backbone, point.of_setting) for point in PLAN.points]
    return list(dict.fromkeys(trained + swept))


def command():
    """The command line that this workflow was started with, up to the target.

    In a clone it is written as seen from there; of an installed workflow, as seen from the run's folder.
    """
    installed = HERE == INSTALLED
    here = Path.cwd() if installed else workflow.basedir
    files = [os.path.relpath(path, here) for path in workflow.overwrite_configfiles]
    values = workflow.config_settings.config_args
    folder = os.path.relpath(Path.cwd(), here)
    options = shlex.join(
        [
            *(["--configfile", *files] if files else []),
            *(["--config", *values] if values else []),
            *(["--directory", folder] if folder != "." else []),
            "--cores",
            "2",
        ]
    )
    snakefile = '--snakefile "$(lensflow snakefile)" ' if installed else ""
    return f"snakemake {snakefile}{options}"


def of_trainings(name):
    """An input function: a file of each training that is shown, or of those of the wildcards' backbone and setting."""

    def paths(wildcards):
        return [
            f"results/{c.folder}/{name}"
            for c in PLAN.shown(wildcards.get("backbone"))
            if wildcards.get("setting") in (None, c.setting)
        ]

    return paths


def tables():
    """The tables, each in every format."""
    return [f"results/tables/{name}" for name in table_list.files()]


def targets():
    """Everything that a run ends in."""
    return [
        *tables(),
        *[
            f"results/figures/{backbone}.{setting}"
            for backbone, setting in drawn_pairs()
        ],
        "results/report.html",
    ]
