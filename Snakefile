"""Wiring only: configuration, stages, targets. What a stage does stands in src/lensflow, one module each."""

import sys
from pathlib import Path

from snakemake.sourcecache import LocalSourceFile
from snakemake.utils import min_version

min_version("9.27")

# What the workflow reads of its own folder: what exists, reported numbers, what the demo runs, task files.
OWN_FILES = [
    "config/catalog/backbones.yaml",
    "config/catalog/benchmarks.yaml",
    "config/catalog/corpora.yaml",
    "config/catalog/methods.yaml",
    "config/catalog/settings.yaml",
    "config/reported/language-confusion.yaml",
    "config/reported/lens.yaml",
    "config/demo.yaml",
    "config/tasks/cldr.yaml",
    "config/tasks/letter/kmmlu.yaml",
    "config/tasks/letter/m_mmlu.yaml",
    "config/tasks/letter/xcopa.yaml",
    "config/tasks/letter/xstorycloze.yaml",
    "config/tasks/letter/xwinograd.yaml",
]

# That folder, also below a `module` statement. Of a workflow on a git host Snakemake fetches the files one by one.
HERE = workflow.current_basedir
if isinstance(HERE, LocalSourceFile):
    HERE = Path(HERE)
else:
    HERE = [Path(workflow.source_path(file)) for file in OWN_FILES][0].parents[2]


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/states.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/judging.smk"
include: "workflow/rules/presentation.smk"


rule all:
    default_target: True
    input:
        targets(),


onstart:
    # Snakemake itself would end with a traceback when it clears the way for the first stage.
    if os.path.exists(RESULTS) and not os.access(RESULTS, os.W_OK):
        sys.exit(
            f"error: {RESULTS}: cannot be written; change its permissions or its read-only mount, or run elsewhere"
            " with --directory"
        )
    # Of its default limit, which is none here, Snakemake makes a timer for every job that ends, and each of them wakes the
    # scheduler once a second for good: half a core after a hundred jobs (snakemake issues 2967, 3744).
    limiter = workflow.scheduler.job_rate_limiter
    if limiter and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
    Progress(Path("logs")).start()


onerror:
    for line in [line for file in log for line in failures(Path(file), Path.cwd())]:
        print(line, file=sys.stderr)
    print(
        "Run the same command again to go on; what is finished is kept.",
        file=sys.stderr,
    )
