"""Subcommands about the configuration: check, show-config, schema."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensflow.cli.commands import Subparsers, add_command, add_configfile, show, summary_of
from lensflow.errors import LensflowError
from lensflow.workflow import project
from lensflow.workflow.stages import STAGES


def add(commands: Subparsers) -> None:
    """Add the subcommands."""
    sub = add_command(commands, "check", check, summary_of(check))
    add_configfile(sub)
    sub.add_argument(
        "--results", type=Path, default=Path("results"), help="folder that the run will write (default: results)"
    )
    sub = add_command(commands, "show-config", show_config, summary_of(show_config))
    stages = [stage.name for stage in STAGES.values() if stage.scope]
    sub.add_argument("stage", choices=stages, help="a stage of the workflow")
    sub.add_argument(
        "name",
        help="what the stage works on: B, corpus/language, benchmark/language, B/corpus, S, B/part or B/S/M/seed0",
    )
    add_configfile(sub)
    sub = add_command(commands, "explain", explain, summary_of(explain))
    sub.add_argument("key", help="such as evaluation.limit, methods.lens-gentle.lambda, or only limit")
    add_command(commands, "snakefile", snakefile, summary_of(snakefile))
    sub = add_command(commands, "schema", schema, summary_of(schema))
    sub.add_argument("--output", type=Path, required=True, help="YAML file to write")


def plan_of(files: Sequence[Path], more: Mapping[str, Any] | None = None) -> Any:
    """Return the plan of a configuration from files and the values that replace theirs.

    Raises:
        LensflowError: the configuration is not valid.
    """
    from lensflow.workflow.experiment import read
    from lensflow.workflow.plan import Plan

    return Plan(read(files, project.folder(), more), Path.cwd(), project.folder().absolute())


def check(args: argparse.Namespace) -> None:
    """Check a configuration and all files that it names."""
    plan = checked_plan(args.configfile, args.results)
    where = ", ".join(map(str, args.configfile)) or "the demo"
    counts = f"{len(plan.backbones)} backbones, {len(plan.checkpoints)} checkpoints, {len(plan.trained())} to train"
    print(f"ok: {where}: {counts}")


def checked_plan(files: Sequence[Path], results: Path, more: Mapping[str, Any] | None = None) -> Any:
    """Return the plan of a configuration after checking all that it names; print hints.

    Raises:
        LensflowError: the check found a mistake.
    """
    from lensflow.artifacts.hub import datasets_root
    from lensflow.workflow.inputs import doubts, read_data
    from lensflow.workflow.lengths import check_lengths
    from lensflow.workflow.machine import gpu_memory_gb, hints, instructions

    plan = plan_of(files, more)
    plan.check_disk(results)
    plan.check_training()
    data, folders = read_data(plan, datasets_root(plan.config.datasets_root)), plan.folders()
    found = [*plan.check_backbones(folders), *check_lengths(plan, data, folders)]
    for line in [*found, *doubts(plan, data), *hints(plan, gpu_memory_gb(), instructions())]:
        print(f"hint: {line}")
    return plan


def show_config(args: argparse.Namespace) -> None:
    """Print the configuration of a stage, as the stage's --config takes it."""
    stage = STAGES[args.stage]
    parts = args.name.split("/", len(stage.scope) - 1)
    if len(parts) != len(stage.scope):
        raise LensflowError(f"'{args.name}': stage {stage.name} needs a name of the form {'/'.join(stage.scope)}")
    print(show(plan_of(args.configfile).config_of(stage.name, dict(zip(stage.scope, parts, strict=True)))))


def explain(args: argparse.Namespace) -> None:
    """Print the meaning, the values and the default of a key of the configuration."""
    from lensflow.workflow import explaining

    print(explaining.explain(args.key))


def snakefile(args: argparse.Namespace) -> None:
    """Print the path of the installed workflow's Snakefile, for snakemake --snakefile or a module statement."""
    print(project.INSTALLED / "Snakefile")


def schema(args: argparse.Namespace) -> None:
    """Write the JSON schema of the configuration."""
    import yaml

    from lensflow.storage.atomic import write_text
    from lensflow.workflow.experiment import Config

    content = yaml.safe_dump(Config.model_json_schema(by_alias=True), sort_keys=False, allow_unicode=True)
    write_text(args.output, f"# Generated: lensflow schema --output {args.output.as_posix()}\n{content}")
