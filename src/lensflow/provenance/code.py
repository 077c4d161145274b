"""Digests of the code behind a stage: its module and everything that the module imports from this package.

Snakemake compares the text of a `shell:` command. This text does not change if the code behind the command changes.
Every rule therefore has a code digest among its parameters.

Comments, docstrings and the texts of exceptions cannot change a result, so they do not count. The modules in `WORDING`
do not count either: their functions only write messages about what is wrong.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

PACKAGE = "lensflow"
FOLDER = Path(__file__).parents[1]
WORDING = {"lensflow.schema.messages"}


@functools.cache
def code_digest(*modules: str) -> str:
    """Return the digest of modules and of everything that they import from this package.

    Args:
        modules: import paths; a module outside this package counts with its own file only.
    """
    checksum = hashlib.sha256(version(PACKAGE).encode())
    for module in closure(*modules):
        checksum.update(module_digest(module).encode())
    for module in modules:
        if not is_own(module):
            checksum.update(_code(ast.parse(_file_of(module).read_bytes())).encode())
    return checksum.hexdigest()[:16]


@functools.cache
def closure(*modules: str) -> list[str]:
    """Return the modules of this package among `modules` and everything that they import from it, sorted."""
    pending, seen = [part for module in modules for part in _with_packages(module)], set()
    while pending:
        module = pending.pop()
        if module not in seen:
            seen.add(module)
            pending += imports_of(_file_of(module))
    return sorted(module for module in seen if is_own(module) and module not in WORDING)


def module_digest(module: str) -> str:
    """Return the digest of one module alone."""
    return _summary(_file_of(module)).digest


def is_own(module: str) -> bool:
    """Return whether a module belongs to this package."""
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def _file_of(module: str) -> Path:
    if not is_own(module):
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        return Path(spec.origin)
    path = FOLDER.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def imports_of(file: Path) -> list[str]:
    """Return the modules of this package that a file imports anywhere, with the packages around them.

    Raises:
        SyntaxError: the file has a relative import, which this package does not use.
    """
    modules = (name for name in _summary(file).named if _file_of(name).is_file())
    return list(dict.fromkeys(part for module in modules for part in _with_packages(module)))


class _Summary(NamedTuple):
    """The summary of a file for the digest.

    Attributes:
        named: the names that the file imports from this package: modules, and names that may be modules.
        digest: digest of the file's code.
    """

    named: list[str]
    digest: str


@functools.cache
def _summary(file: Path) -> _Summary:
    """Summarise a file, or read its stored summary, which lies beside the file's bytecode.

    A summary is valid for one text of the file, one text of this module and one version of Python. Parsing every module
    would take longer than all other work of the workflow at its start.
    """
    source = file.read_bytes()
    valid_for = hashlib.sha256(b"".join([sys.version.encode(), Path(__file__).read_bytes(), source])).hexdigest()
    kept = Path(importlib.util.cache_from_source(str(file))).with_suffix(".json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, an old or a damaged one
        found = json.loads(kept.read_bytes())
        if found.pop("valid_for") == valid_for:
            return _Summary(**found)
    tree = ast.parse(source)
    named = list(dict.fromkeys(name for node in ast.walk(tree) for name in _named(node, file)))
    summary = _Summary(named, hashlib.sha256(_code(tree).encode()).hexdigest()[:16])
    if not sys.dont_write_bytecode:
        content = json.dumps({"valid_for": valid_for, **summary._asdict()})
        # As bytecode: at once, or not at all where nothing may be written.
        SourceFileLoader(file.stem, str(file)).set_data(str(kept), content.encode())
    return summary


def _with_packages(module: str) -> list[str]:
    """Return a module after the packages around it, which are imported first.

    A module outside this package has no such packages.
    """
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)] if is_own(module) else [module]


def _named(node: ast.AST, file: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if is_own(alias.name))
    elif isinstance(node, ast.ImportFrom):
        if node.level and file.is_relative_to(FOLDER):
            raise SyntaxError(f"{file}, line {node.lineno}: a relative import; write the whole path")
        if node.module and is_own(node.module):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class _Bare(ast.NodeTransformer):
    """Removes docstrings and the texts of exceptions."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [statement for statement in body if not _is_docstring(statement)]
        return super().generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return _without_texts(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        makes_exception = isinstance(node.func, ast.Name) and node.func.id.endswith("Error")
        return _without_texts(node) if makes_exception else self.generic_visit(node)


def _is_docstring(statement: ast.AST) -> bool:
    """Return whether a statement is only a text: a docstring of a module, class, function or attribute."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _without_texts(node: ast.AST) -> ast.AST:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            part.value = ""
        elif isinstance(part, ast.JoinedStr):
            part.values = []
    return node


def _code(tree: ast.Module) -> str:
    return ast.dump(_Bare().visit(tree))
