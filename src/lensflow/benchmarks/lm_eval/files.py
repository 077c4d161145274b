"""The files of lm-eval's tasks: where they are, what they include, and whether they may be read."""

import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lensflow.errors import LensflowError
from lensflow.schema.dataset import LanguageEntry
from lensflow.schema.messages import IN_WORDS
from lensflow.schema.types import TASK_PATTERN
from lensflow.storage.parsing import LARGEST_YAML, read_text, read_yaml
from lensflow.storage.yaml_loader import SafeLoader

_INCLUDE = re.compile(r"^include:", re.MULTILINE)
_FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")


def task_name(task: str, entry: LanguageEntry) -> str:
    """Return the folder and name of a language's task, such as `xcopa/xcopa_zh`.

    Raises:
        LensflowError: the name leads out of the folders in which tasks are searched.
    """
    name = (entry.task or task).replace("{code}", entry.config)
    if not re.match(TASK_PATTERN, name):
        raise LensflowError(f"task {name}: {IN_WORDS[TASK_PATTERN]}; correct the language's config or task")
    return name


def check_file(path: Path, functions: bool) -> None:
    """Check a task file and the files that it includes before lm-eval reads them; no code in them runs.

    Args:
        path: the file.
        functions: whether the user's own files may name Python functions. lm-eval's files may.

    Raises:
        LensflowError: a file is missing, too large or not a YAML mapping, or names a function that must not run.
    """
    pending, seen = [path], set[Path]()
    while pending:
        here = pending.pop().resolve()
        if here in seen:
            continue
        seen.add(here)
        content = _content(here)
        trusted = functions or here.is_relative_to(_installed().resolve())
        if not trusted and (named := _TaskLoader.function_in(content)):
            raise LensflowError(
                f"{here}: names the Python function {named}, which would run; read its code, then set functions: true"
            )
        pending += _included(content, here)


def read_task(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a task file. Its keys replace the keys of the files that it includes. Functions stay names; no code
    runs.

    Raises:
        LensflowError: a file is missing, too large, not a YAML mapping, or includes itself.
    """
    if path in including:
        raise LensflowError(f"{path}: includes itself; remove the include")
    content = _content(path)
    merged: dict[str, Any] = {}
    for file in _included(content, path):
        merged |= read_task(file.resolve(), (*including, path))
    return merged | content


def _content(path: Path) -> dict[str, Any]:
    content = read_yaml(path, _TaskLoader)
    if not isinstance(content, dict):
        raise LensflowError(f"{path}: must be a mapping, as lm-eval's task files are")
    return content


def _included(content: Mapping[str, Any], path: Path) -> list[Path]:
    """Return the files that the task file at `path` includes: it names one, or a list of them."""
    named = content.get("include", [])
    names = named if isinstance(named, list) else [named]
    if not all(isinstance(name, str) for name in names):
        raise LensflowError(f"{path}: include must name files; correct it")
    return [path.parent / name for name in names]


class _Function(str):
    """The name of a function in a task file."""


class _TaskLoader(SafeLoader):
    """Reads task files without importing the functions that the files name."""

    @staticmethod
    def function_in(value: Any) -> str | None:
        """The first function name in a value."""
        if isinstance(value, _Function):
            return value
        parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        return next((found for part in parts if (found := _TaskLoader.function_in(part))), None)


def _function(loader: SafeLoader, node: yaml.ScalarNode) -> _Function:
    return _Function(loader.construct_scalar(node))


_TaskLoader.add_constructor("!function", _function)


def task_file(name: str, roots: Sequence[Path]) -> Path:
    """Find the file of a task `folder/name`: first in the given folders, in their order, then in lm-eval's own tasks.

    Raises:
        LensflowError: there is no such folder, or no file in it defines the task.
    """
    folder, _, wanted = name.rpartition("/")
    existing = [root / folder for root in (*roots, _installed()) if (root / folder).is_dir()]
    if not existing:
        raise LensflowError(f"task {name}: no folder {folder}, neither here nor among lm-eval's tasks")
    defines = re.compile(rf"^task:\s*[\"']?{re.escape(wanted)}[\"']?\s*$", re.MULTILINE)
    for place in existing:
        for path in sorted(place.glob("*.y*ml")):
            if defines.search(read_text(path, LARGEST_YAML)):
                return path
    raise LensflowError(
        f"task {name}: no file in {existing[0]} defines a task of this name; name another for the language "
        "(languages.*.task), or write a task file"
    )


def _installed() -> Path:
    """The folder of lm-eval's own tasks."""
    spec = importlib.util.find_spec("lm_eval")  # found, not imported: that takes seconds
    return Path(spec.origin).parent / "tasks" if spec and spec.origin else Path()


def file_digest(path: Path) -> str:
    """Digest of a task file, of the files that it includes, and of the modules whose functions it names.

    Raises:
        LensflowError: a file or module is missing.
    """
    pending, seen = [path], dict[Path, str]()
    while pending:
        here = pending.pop().resolve()
        if here in seen:
            continue
        seen[here] = text = read_text(here, LARGEST_YAML)
        if _INCLUDE.search(text):
            pending += _included(_content(here), here)
        pending += [here.parent / f"{name.replace('.', '/')}.py" for name in _FUNCTION.findall(text)]
    checksum = hashlib.sha256()
    for _, text in sorted((found.name, text) for found, text in seen.items()):
        checksum.update(text.encode())
    return checksum.hexdigest()
