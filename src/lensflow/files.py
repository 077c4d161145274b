"""Atomic files with checksums.

Everything that the pipeline writes appears under its final name at once and whole (written to a temporary name beside
it, flushed, then renamed), so that a killed job never leaves half a file under a name that somebody trusts.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    On an exception the temporary file is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise LensflowError(
            f"{path}: cannot be written ({error.strerror or error}); free space or check permissions"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(output: Path, identity: Any) -> Iterator[Path]:
    """Yield a folder beside `output` that outlives a killed process, for the finished parts of a long piece of work.

    It is removed on success. Those that a run of another identity left for the same output are removed, too.

    Args:
        output: what the work ends in.
        identity: a JSON value of everything that the parts depend on.
    """
    folder = output.with_name(f".{output.name}.{digest(identity)[:16]}.parts")
    for other in output.parent.glob(f".{output.name}.*.parts"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON with sorted keys."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        LensflowError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file") from None
    except ValueError as error:
        raise LensflowError(f"{path}: not valid JSON ({error}); delete it and run again") from None


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line to `path`, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[Any]:
    """Read one JSON value a line.

    Raises:
        LensflowError: the file is missing, a line is empty or not JSON; the message names file and line.
    """
    try:
        # Not splitlines(): it also splits at U+2028 and the like, which JSON allows inside a string.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise LensflowError(f"{path}: not UTF-8 text; convert it") from None
    if lines == [""]:
        return []
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise LensflowError(f"{path}, line {number}: empty line; remove it")
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise LensflowError(f"{path}, line {number}: not valid JSON ({error}); mend the line") from None
    return rows


def canonical_json(value: Any) -> str:
    """Serialise `value` so that equal values give equal text (sorted keys, no spaces)."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """Sha256 (hex) of a JSON value in canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Sha256 (hex) of a file's bytes.

    Raises:
        LensflowError: the file is missing.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file") from None
