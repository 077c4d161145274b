"""Checksums of JSON values and of files."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError


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


def current_digest(path: Path) -> str:
    """Sha256 (hex) of a file's bytes, computed once as long as it stays as it is."""
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size, status.st_ino)


@functools.cache
def _digest_of(path: Path, *_: int) -> str:
    return file_digest(path)
