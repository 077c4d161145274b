"""The table of stages against the modules, the rules and the command line."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from lensflow.cli.main import main, parser
from lensflow.schema.strict import Strict
from lensflow.workflow.plan import Plan
from lensflow.workflow.stages import CHECKPOINT, STAGES, Argument, Stage

ROOT = Path(__file__).parents[2]
RULES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
EVERY = pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
WILDCARDS = {*CHECKPOINT, "part", "corpus", "language", "benchmark"}


def test_every_module_is_a_row():
    files = {path.stem for path in (ROOT / "src/lensflow/stages").glob("[a-z]*.py")}
    assert files == set(STAGES)


@EVERY
def test_a_row_has_a_module_with_run(stage: Stage):
    run = importlib.import_module(stage.module).run
    first, *others = inspect.signature(run).parameters.values()
    assert first.name == "config" and run.__doc__
    assert {parameter.name for parameter in others} == {argument.name for argument in stage.arguments}
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in others)
    assert issubclass(stage.config, Strict)


@EVERY
def test_a_row_has_a_rule_of_its_name(stage: Stage):
    named = set(re.findall(r"^\s*(?:rule|checkpoint)\s+(\w+):", RULES, re.MULTILINE))
    if stage.name == "answer":  # one rule per part of the plan, which names it
        rule = r"^\s*rule:\n\s*name:\s*\w+\.rule\n(?:(?!rule:)[\s\S])*\blensflow "
        assert re.search(rf"{rule}{stage.command}\b", RULES, re.MULTILINE)
    else:
        assert stage.name in named
    assert f"lensflow {stage.command}" in RULES


@EVERY
def test_a_row_is_a_subcommand_with_a_summary(stage: Stage, capsys):
    with pytest.raises(SystemExit) as left:
        parser().parse_args([stage.command, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    options = {*re.findall(r"(?<![\w-])--[a-z-]+", said)} - {"--help"}
    assert options == {"--config", *(f"--{argument.name.replace('_', '-')}" for argument in stage.arguments)}
    summary = inspect.getdoc(importlib.import_module(stage.module).run).splitlines()[0]
    assert " ".join(said.split()).count(" ".join(summary.split()))


@EVERY
def test_a_row_works_on_known_wildcards_and_writes_below_the_results(stage: Stage):
    assert set(stage.scope) <= WILDCARDS
    assert stage.outputs and not any(output.startswith(("/", "results")) for output in stage.outputs)


@pytest.mark.parametrize("stage", [stage for stage in STAGES.values() if stage.scope], ids=lambda stage: stage.name)
def test_the_plan_gives_the_configuration_of_a_row(stage: Stage):
    assert callable(getattr(Plan, stage.name))


def test_a_benchmark_on_a_corpus_has_no_items_to_fetch(capsys):
    assert main(["show-config", "fetch_items", "generation/en"]) == 2
    error = "error: 'generation/en' is not part of the work of stage fetch_items in this plan; name a "
    error += "benchmark/language of its runs\n"
    assert capsys.readouterr().err == error


def test_options_of_arguments():
    assert Argument("x", "text").options == {"type": Path, "help": "text", "required": True}
    assert Argument("x", "text", int, default=0).options == {"type": int, "help": "text", "default": 0}
    needed = Argument("x", "text", many=True).options
    assert (needed["nargs"], needed["required"]) == ("+", True)
    free = Argument("x", "text", many=True, default=()).options
    assert (free["nargs"], free["required"]) == ("*", False)
