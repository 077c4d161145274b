"""One statement in each module of the package is changed in turn: exactly the jobs that run the module are planned.

The digests of all jobs are compared for every module, in this process. For ten modules, in every package that a stage
can reach, Snakemake itself is asked as well. Which modules a stage reaches is worked out here a second time, from the
lines that say `import`.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from lensflow.artifacts.layout import BASE
from lensflow.provenance import code
from lensflow.workflow import experiment
from lensflow.workflow.plan import Plan
from lensflow.workflow.stages import STAGES
from tests.workflow.test_judged import config_of
from tests.workflow.test_reruns import edited, rules_planned
from tests.workflow.workspace import REPOSITORY, Workspace, demo_config

SOURCES = {
    ".".join(path.relative_to(code.FOLDER.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(code.FOLDER.rglob("*.py"))
}
SAID = "lensflow.schema.messages"  # only says in words what is wrong
# Rules whose code depends on kinds: what these are, beside the stage's own module.
METHODS = {"lens": "lens.kind", "sft": "sft", "steer": "logit_bias"}
KINDS = [f"lensflow.benchmarks.{name}" for name in ("generation", "likelihood", "lm_eval.kind", "mt_bench")]
ENGINES = [f"lensflow.models.engines.{name}" for name in ("hf", "vllm")]
BEHIND = {
    **{name: [f"lensflow.stages.{name}"] for name in STAGES if name not in ("train", "answer", "score")},
    **{f"train {name}": ["lensflow.stages.train", f"lensflow.methods.{path}"] for name, path in METHODS.items()},
    "answer": ["lensflow.stages.answer", *KINDS, *ENGINES],
    "score base": ["lensflow.stages.score", *KINDS],
    "score trained": ["lensflow.stages.score", *KINDS[:3]],
}


def imported(module: str) -> set[str]:
    """Return the modules that a module's lines import from the package, with the packages that these lie in."""
    text = SOURCES[module].read_text(encoding="utf-8")
    names = set(re.findall(r"^\s*import (lensflow[\w.]*)", text, re.MULTILINE))
    for package, rest in re.findall(r"^\s*from (lensflow[\w.]*) import (\([^)]*\)|.*)", text, re.MULTILINE):
        names |= {package, *(f"{package}.{name}" for name in re.findall(r"\w+", rest.split("#")[0]))}
    return {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)} & set(SOURCES)


def reached(modules: Iterable[str]) -> set[str]:
    """Return modules and all that they import, directly or not."""
    found: set[str] = set()
    pending = [".".join(name.split(".")[:end]) for name in modules for end in range(1, name.count(".") + 2)]
    while pending:
        if (module := pending.pop()) not in found:
            found.add(module)
            pending += imported(module)
    return found - {SAID}


def with_another_statement(text: str) -> str:
    """Put a statement before the last `return`, or at the end where nothing is returned."""
    lines = text.splitlines(keepends=True)
    for node in sorted(ast.walk(ast.parse(text)), key=lambda node: -getattr(node, "lineno", 0)):
        if isinstance(node, ast.Return) and not lines[node.lineno - 1][: node.col_offset].strip():
            lines.insert(node.lineno - 1, f"{' ' * node.col_offset}changed = 1\n")
            return "".join(lines)
    return f"{text}\nCHANGED = 1\n"


def with_other_words(text: str) -> str:
    """Change a docstring, the texts of exceptions, and add a comment."""
    parsed = ast.parse(text)
    for node in ast.walk(parsed):
        if isinstance(node, ast.Raise):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    part.value += " In other words."
        elif isinstance(node, ast.FunctionDef) and not ast.get_docstring(node):
            node.body.insert(0, ast.Expr(ast.Constant("In other words.")))
    return f"# A comment.\n{ast.unparse(ast.fix_missing_locations(parsed))}\n"


@pytest.fixture
def digests(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[str, str], dict[str, str]]]:
    """Give a function that returns the digest of each kind of job as if a module had another text."""
    config = config_of({"model": "m"})
    config["methods"] |= {"sft": {"kind": "sft"}, "steer": {"kind": "logit_bias"}}
    config["runs"][0]["benchmarks"] += ["generation", "cldr"]
    config["runs"][1] |= {"methods": ["lens-a", "sft", "steer"], "benchmarks": ["generation", "likelihood", "cldr"]}
    plan = Plan(experiment.read([], workspace.root, config), workspace.root, workspace.root)
    read = code._summary.__wrapped__  # not what it remembers
    known = {path: read(path) for path in SOURCES.values()}

    def of(module: str, text: str) -> dict[str, str]:
        copy = tmp_path / f"{module}.py"
        copy.write_text(text, encoding="utf-8")
        changed = known | {SOURCES[module]: read(copy)}
        monkeypatch.setattr(code, "_summary", changed.__getitem__)
        code.code_digest.cache_clear()
        return jobs(plan)

    yield of
    monkeypatch.undo()
    code.code_digest.cache_clear()


def jobs(plan: Plan) -> dict[str, str]:
    """Return the digests that workflow/rules hand over, by the names of `BEHIND`."""
    found = {name: code.code_digest(STAGES[name].module) for name in BEHIND if name in STAGES and name != "answer"}
    found |= {f"train {c.method.split('-')[0]}": plan.training_code(c.method) for c in plan.trained()}
    found |= {f"score {'base' if c.method == BASE else 'trained'}": plan.scoring_code(c) for c in plan.checkpoints}
    (part,) = plan.parts()
    return found | {"answer": plan.answering_code(part)}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys() == BEHIND.keys()
    return {name for name in before if before[name] != after[name]}


def test_a_statement_in_any_module_counts_where_the_module_is_reached_and_nowhere_else(digests):
    behind = {name: reached(modules) for name, modules in BEHIND.items()}
    before = digests("lensflow", SOURCES["lensflow"].read_text())
    wrong = {}
    for module, path in SOURCES.items():
        after = digests(module, with_another_statement(path.read_text(encoding="utf-8")))
        expected = {name for name, modules in behind.items() if module in modules}
        if changed(before, after) != expected:
            wrong[module] = changed(before, after) ^ expected
    assert wrong == {}
    assert behind["answer"] & {"lensflow.measures.catalogue", "lensflow.presentation.blocks"} == set()
    assert not any(
        module.startswith(("lensflow.cli", "lensflow.workflow")) for own in behind.values() for module in own
    )


def test_words_count_nowhere(digests):
    before = digests("lensflow", SOURCES["lensflow"].read_text())
    for module, path in SOURCES.items():
        assert changed(before, digests(module, with_other_words(path.read_text(encoding="utf-8")))) == set(), module


# What Snakemake plans after a rule, among the rules of the demo.
AFTER = {
    "prepare_backbone": {"extract_hidden_states", "train", "answer"},
    "pair_data": {"extract_hidden_states", "fit_subspaces", "train", "answer", "score"},
    "fetch_items": {"answer", "score"},
    "extract_hidden_states": {"fit_subspaces", "train", "make_figures"},
    "fit_subspaces": {"train", "make_figures"},
    "train": {"answer", "make_table", "make_figures", "report"},
    "answer": {"score"},
    "score": {"collect_scores", "report"},
    "collect_scores": {"make_table", "make_figures", "report"},
    "resolve_config": {"make_table", "make_figures", "report"},
    "make_table": set(),
    "make_figures": {"report"},
    "report": set(),
}
IN_THE_DEMO = {
    **{name: modules for name, modules in BEHIND.items() if name in AFTER},
    "train": BEHIND["train lens"],
    "answer": ["lensflow.stages.answer", *(KINDS[index] for index in (0, 2)), *ENGINES],
    "score": ["lensflow.stages.score", *(KINDS[index] for index in (0, 2))],
}
ASKED = [
    "lensflow.cli.stages",
    "lensflow.stages.train",
    "lensflow.presentation.blocks",
    "lensflow.methods.lens.training",
    "lensflow.benchmarks.generation",
    "lensflow.models.engines.vllm",
    "lensflow.measures.catalogue",
    "lensflow.artifacts.states",
    "lensflow.mathematics.subspaces",
    "lensflow.schema.dataset",
    "lensflow.storage.cache",
]


def downstream(rules: set[str]) -> set[str]:
    """Return rules and all that run after them."""
    found = set(rules)
    while more := {later for rule in found for later in AFTER[rule]} - found:
        found |= more
    return found


@pytest.fixture(scope="module")
def finished(workspace: Workspace) -> Workspace:
    done = workspace.snakemake(demo_config())
    assert done.returncode == 0, done.stderr
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize("module", ASKED)
def test_snakemake_plans_the_rules_that_reach_a_changed_module(finished: Workspace, module: str) -> None:
    file = SOURCES[module].relative_to(REPOSITORY).as_posix()
    text = SOURCES[module].read_text(encoding="utf-8")
    holding = {rule for rule, modules in IN_THE_DEMO.items() if module in reached(modules)}
    with edited(finished.root, (file, text, with_another_statement(text))):
        assert rules_planned(finished, demo_config()) == downstream(holding)
    with edited(finished.root, (file, text, with_other_words(text))):
        assert rules_planned(finished, demo_config()) == set()
