"""One subcommand per stage, from the table of stages."""

import argparse
import ast
import functools
import importlib
from pathlib import Path
from typing import Any

from lensflow.cli.commands import STAGE_CONFIG, Subparsers, add_command, is_inline, read_config
from lensflow.provenance.code import FOLDER, code_digest
from lensflow.schema.parsing import parse
from lensflow.workflow import tracking
from lensflow.workflow.stages import STAGES, Stage


def add(commands: Subparsers) -> None:
    """Add the subcommands of the stages."""
    for stage in STAGES.values():
        sub = add_command(commands, stage.command, functools.partial(run, stage), _summary(stage))
        sub.set_defaults(logged=True)
        sub.add_argument("--config", required=True, help=STAGE_CONFIG)
        for argument in stage.arguments:
            sub.add_argument(f"--{argument.name.replace('_', '-')}", **argument.options)


def run(stage: Stage, args: argparse.Namespace) -> None:
    """Run a stage and leave a record beside its output. A stage with several outputs writes its own records."""
    from lensflow.provenance.records import recording

    content = read_config(args.config)
    config = parse(stage.config, content, "--config")
    given = {argument.name: getattr(args, argument.name) for argument in stage.arguments}

    def compute() -> None:
        importlib.import_module(stage.module).run(config, **given)

    if "output" not in given:
        compute()
        return
    file = {} if is_inline(args.config) else {"config": Path(args.config)}
    with recording(stage.name, _code(stage, content), content, given | file):
        compute()
    tracking.track(stage.name, given["output"])


def _code(stage: Stage, config: Any) -> str:
    """Return the code digest of a stage, which may depend on the configuration of the stage."""
    if stage.name == "train":
        from lensflow.methods.registry import AnyMethod, method_digest

        return method_digest(parse(AnyMethod, config["method"], "--config method").kind)
    if stage.name == "score":
        from lensflow.benchmarks.registry import AnyBenchmark, modules_of

        benchmarks = [parse(AnyBenchmark, cell["benchmark"], "--config cells") for cell in config["cells"]]
        return code_digest(stage.module, *modules_of(benchmark.kind for benchmark in benchmarks))
    return code_digest(stage.module)


def _summary(stage: Stage) -> str:
    """Return the first line of the docstring of a stage's `run`, without importing the packages of the stage."""
    tree = ast.parse((FOLDER / "stages" / f"{stage.name}.py").read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run")
    return (ast.get_docstring(found) or "").splitlines()[0]
