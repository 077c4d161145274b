"""Digests of code: they change with every statement that a stage can run, and with nothing else."""

import ast
import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensflow.methods.registry import METHODS
from lensflow.provenance import code
from lensflow.workflow.stages import STAGES

CACHED = (code.code_digest, code.closure, code.imports_of, code._summary)


def forget() -> None:
    for function in CACHED:
        function.cache_clear()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the package, of which the digests are taken; nothing of it is imported."""
    folder = tmp_path / "lensflow"
    shutil.copytree(code.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__", "*.jsonl"))
    monkeypatch.setattr(code, "FOLDER", folder)
    forget()
    yield folder
    forget()


def module_of(file: Path, folder: Path) -> str:
    parts = file.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def digests() -> dict[str, str]:
    """The digest of every stage, and of the training of every method."""
    forget()
    return code_digests()


def code_digests() -> dict[str, str]:
    found = {name: code.code_digest(stage.module) for name, stage in STAGES.items()}
    trained = {f"train {kind}": METHODS.path_of(kind) for kind in METHODS.builtin()}
    return found | {name: code.code_digest(STAGES["train"].module, path) for name, path in trained.items()}


def closures() -> dict[str, list[str]]:
    """The modules that each digest covers, from imports that are read in another way than the digests' own."""
    files = {module_of(file, code.FOLDER): file for file in code.FOLDER.rglob("*.py")}
    below = {module: _imported(file, set(files)) for module, file in files.items()}
    starts = {name: {stage.module} for name, stage in STAGES.items()}
    starts |= {f"train {kind}": {STAGES["train"].module, METHODS.path_of(kind)} for kind in METHODS.builtin()}
    return {name: sorted(_reached(start, below) - code.WORDING) for name, start in starts.items()}


def _imported(file: Path, known: set[str]) -> set[str]:
    """What stands in a file's import statements, wherever they are; lines are joined where brackets are open."""
    named = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            text = ast.unparse(node).removeprefix("from ").removeprefix("import ")
            module, _, names = text.partition(" import ")
            inner = [name.split(" as ")[0] for name in names.split(", ")] if names else []
            candidates = [name.split(" as ")[0] for name in module.split(", ")]
            named |= {*candidates, *(f"{module}.{name}" for name in inner)}
    return named & known


def _reached(start: set[str], below: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    pending = set(start)
    while pending:
        module = pending.pop()
        parts = module.split(".")
        around = {".".join(parts[:end]) for end in range(1, len(parts))}  # their __init__ runs too
        reached.add(module)
        pending |= (below[module] | around) - reached
    return reached


def edited(file: Path, edit: Callable[[str], str]) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(edit(text), encoding="utf-8")
    ast.parse(file.read_text(encoding="utf-8"))


# --- Which modules count ----------------------------------------------------------------------------------------------


def test_the_closure_is_what_is_imported(copy):
    starts = {name: [stage.module] for name, stage in STAGES.items()}
    starts |= {f"train {kind}": [STAGES["train"].module, METHODS.path_of(kind)] for kind in METHODS.builtin()}
    assert {name: code.closure(*modules) for name, modules in starts.items()} == closures()


def test_imports_inside_functions_and_of_packages_count(copy):
    assert {"lensflow.errors", "lensflow.storage.cache", "lensflow"} <= set(code.closure("lensflow.stages.score"))
    assert "lensflow.benchmarks.lm_eval.tasks" in code.closure("lensflow.benchmarks.lm_eval.kind")  # in a function
    assert "lensflow.stages.train" not in code.closure("lensflow.stages.score")


def test_a_relative_import_is_refused(copy):
    edited(copy / "stages" / "score.py", lambda text: f"{text}\nfrom . import judge\n")
    with pytest.raises(SyntaxError, match=r"score\.py, line \d+: a relative import; write the whole path$"):
        code.closure("lensflow.stages.score")


def test_a_module_from_outside_counts_with_its_own_file(copy, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"outside_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("from lensflow.mathematics import losses\nx = 1\n")
    before = code.code_digest(name)
    assert "lensflow.mathematics.losses" in code.closure(name)
    (tmp_path / f"{name}.py").write_text("from lensflow.mathematics import losses\nx = 2\n")
    forget()
    changed = code.code_digest(name)
    edited(copy / "mathematics" / "losses.py", lambda text: f"{text}\nX = 1\n")
    forget()
    assert len({before, changed, code.code_digest(name)}) == 3


# --- Which edits count ------------------------------------------------------------------------------------------------

EDITS = {
    "comment": lambda text: f"# A comment.\n{text}\n# Another.\n",
    "docstring": lambda text: text.replace('"""', '"""Reworded. ', 1),
    "exception": lambda text: text.replace('LensflowError("', 'LensflowError("Reworded: ').replace(
        'LensflowError(f"', 'LensflowError(f"Reworded: '
    ),
}


def test_what_changes_no_result(copy):
    before = digests()
    files = [file for file in copy.rglob("*.py") if "raise LensflowError" in file.read_text(encoding="utf-8")]
    assert len(files) > 30
    for edit in EDITS.values():
        for file in files:
            edited(file, edit)
        assert digests() == before
    edited(copy / "schema" / "messages.py", lambda text: text.replace("did you mean", "do you mean"))
    assert digests() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("raise ValueError('a')", "raise KeyError('a')"),
        ("raise ValueError(f'{a}')", "raise ValueError(a, 1)"),
        ("x = 'a'", "x = 'b'"),
        ("def f():\n    return 'a'", "def f():\n    return 'b'"),
        ("def f(x='a'):\n    'Text.'", "def f(x='b'):\n    'Text.'"),
        ("if a:\n    raise ValueError('a')", "if b:\n    raise ValueError('a')"),
    ],
)
def test_what_changes_a_result(old, new):
    assert code._code(ast.parse(old)) != code._code(ast.parse(new))


# --- What is kept for the next start ----------------------------------------------------------------------------------


@pytest.fixture
def parsed(copy, monkeypatch):
    """The files that are parsed, where bytecode may be written."""
    files = []

    def parse(source, *args):
        files.append(source)
        return ast_parse(source, *args)

    ast_parse = ast.parse
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(code.ast, "parse", parse)
    return files


def test_a_file_is_parsed_once_until_it_changes(copy, parsed):
    before = digests()
    assert len(parsed) > 100
    parsed.clear()
    assert digests() == before and parsed == []
    changed = copy / "storage" / "cache.py"
    changed.write_text(f"{changed.read_text(encoding='utf-8')}\nADDED = 1\n", encoding="utf-8")
    assert digests() != before and parsed == [changed.read_bytes()]


@pytest.mark.parametrize("content", ["", "[]", '{"valid_for": ', '{"digest": "x", "named": []}'])
def test_a_damaged_summary_is_made_again(copy, parsed, content):
    before = code.code_digest("lensflow.storage.cache")
    (kept,) = (copy / "storage" / "__pycache__").glob("cache.*.json")
    sound = kept.read_text()
    kept.write_text(content)
    forget()
    assert code.code_digest("lensflow.storage.cache") == before and kept.read_text() == sound


def test_a_module_that_appears_under_an_imported_name_counts(copy, parsed):
    before = code.closure("lensflow.storage.cache")
    name = copy / "storage" / "atomic" / "__init__.py"  # a package now; one of the names imported from it is a module
    name.parent.mkdir()
    (copy / "storage" / "atomic.py").replace(name)
    (name.parent / "write_json.py").write_text("")
    forget()
    assert set(code.closure("lensflow.storage.cache")) - set(before) == {"lensflow.storage.atomic.write_json"}


# --- Which stages a statement counts for ------------------------------------------------------------------------------


def test_one_statement_of_each_module_changes_exactly_the_stages_above_it(copy, monkeypatch):
    """Every module of the package in turn, every stage and every method."""
    for name in ("_file_of", "version"):  # they do not change here, and take most of the time
        monkeypatch.setattr(code, name, functools.cache(getattr(code, name)))
    summaries: dict[Path, Any] = {}
    summarised = code._summary.__wrapped__

    def summary(file: Path) -> Any:
        if file not in summaries:
            summaries[file] = summarised(file)
        return summaries[file]

    monkeypatch.setattr(code, "_summary", summary)
    before, covered = digests(), closures()
    files = sorted(copy.rglob("*.py"))
    assert len(files) > 100
    wrong = {}
    for file in files:
        module, text = module_of(file, copy), file.read_text(encoding="utf-8")
        summaries.pop(file, None)
        file.write_text(f"{text}\nADDED = 1\n", encoding="utf-8")
        code.code_digest.cache_clear()
        after = code_digests()
        changed = {name for name in before if before[name] != after[name]}
        expected = {name for name, modules in covered.items() if module in modules}
        if changed != expected:
            wrong[module] = (changed - expected, expected - changed)
        file.write_text(text, encoding="utf-8")
        summaries.pop(file, None)
    assert wrong == {}
    summaries.clear()
    assert digests() == before
