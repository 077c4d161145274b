"""Wiring only: configuration, stages, targets. What a stage does stands in src/lensflow, one module each."""

import sys

from snakemake.utils import min_version

min_version("9.27")


# What exists, then what to run. `--configfile` replaces the lists of the latter (config/README.md).
configfile: f"{workflow.basedir}/config/catalog/backbones.yaml"
configfile: f"{workflow.basedir}/config/catalog/corpora.yaml"
configfile: f"{workflow.basedir}/config/catalog/settings.yaml"
configfile: f"{workflow.basedir}/config/catalog/methods.yaml"
configfile: f"{workflow.basedir}/config/catalog/benchmarks.yaml"
configfile: f"{workflow.basedir}/config/demo.yaml"


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


onerror:
    print(
        "A stage did not finish: its log, above, ends with why, or without a word if it was killed (for want of memory?)."
        " Run again to go on; what is finished is kept.",
        file=sys.stderr,
    )
