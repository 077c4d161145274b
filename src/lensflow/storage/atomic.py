"""Files that appear under their final name only when they are complete.

A file is written to a temporary name beside it, flushed to disk, and then renamed. A killed job therefore never leaves
half a file under a name that another job trusts.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError
from lensflow.storage.digests import digest
from lensflow.storage.journal import note_written


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    On an exception, the temporary file is removed and `path` does not change.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LensflowError(
            f"{path.parent}: the folder cannot be made ({error.strerror or error}); choose another or check permissions"
        ) from None
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        note_written(path)
    except OSError as error:
        if error.filename is not None and str(temporary) not in (str(error.filename), str(error.filename2)):
            raise  # of another file, which the caller reads
        raise LensflowError(
            f"{path}: cannot be written ({error.strerror or error}); free space or check permissions"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(output: Path, identity: Any) -> Iterator[Path]:
    """Yield a folder beside `output` for the finished parts of long work. The folder survives a killed process.

    The folder is removed on success. Folders that a run with another identity left for the same output are removed,
    too.

    Args:
        output: final output of the work.
        identity: a JSON value of everything on which the parts depend.
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


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value per line to `path`, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))
