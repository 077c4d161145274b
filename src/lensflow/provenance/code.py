"""Digests of the code behind a stage: its module and everything that the module imports from this package."""

import ast
import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

from lensflow.storage.digests import digest

PACKAGE = Path(__file__).parents[1]


@functools.cache
def code_digest(*names: str) -> str:
    """Digest of modules of this package and of all that they import from it, blind to comments and docstrings.

    Snakemake compares a `shell:` command's text, which does not change when the code behind it does.
    """
    checksum = hashlib.sha256(version("lensflow").encode())
    for name in modules(*names):
        checksum.update(code_of(_module_file(PACKAGE, name)).encode())
    return checksum.hexdigest()[:16]


def modules(*names: str) -> list[str]:
    """Return modules of this package and all that they import from it, sorted."""
    pending, seen = list(names), set()
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending += imports_of(_module_file(PACKAGE, name))
    return sorted(seen)


def module_digest(name: str) -> str:
    """Digest of one module of this package alone, blind to comments and docstrings."""
    return digest(code_of(_module_file(PACKAGE, name)))[:16]


def _module_file(package: Path, name: str) -> Path:
    path = package.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def imports_of(path: Path) -> list[str]:
    """Return the modules of this package that a file imports, wherever in the file it does."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lensflow":
            below = node.module.split(".")[1:]
            for alias in node.names:
                candidate = ".".join([*below, alias.name])
                found.append(candidate if _module_file(PACKAGE, candidate).is_file() else ".".join(below))
        elif isinstance(node, ast.Import):
            found += [
                alias.name.removeprefix("lensflow.") for alias in node.names if alias.name.startswith("lensflow.")
            ]
    return [name for name in found if name]


@functools.cache
def code_of(path: Path) -> str:
    """Return the code of a file without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
    return ast.dump(tree)
