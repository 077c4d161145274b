"""Cache entries; each entry holds the digest of its own value."""

import contextlib
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError
from lensflow.storage.atomic import write_json
from lensflow.storage.digests import digest
from lensflow.storage.integrity import CORRUPT, LOG
from lensflow.storage.journal import forget_written
from lensflow.storage.parsing import LARGEST_JSON, parse_json, read_text


def write_entry(path: Path, value: Any) -> None:
    """Write a cache entry with the digest of its value.

    Jobs that share a cache therefore need no record of the entry.
    """
    write_json(path, {"sha256": digest(value), "value": value})
    forget_written(path)


def read_entry(path: Path) -> Any:
    """Return the value of a cache entry; None if there is none.

    A damaged entry also gives None, is renamed, and is reported.
    """
    if not path.is_file():
        return None
    if (value := entry_value(path)) is not None:
        return value
    with contextlib.suppress(FileNotFoundError):  # another job was here first
        path.replace(path.with_name(f"{path.name}{CORRUPT}"))
    LOG.warning("%s: damaged (truncated or changed); it was set aside and is made again", path)
    return None


def entry_value(path: Path) -> Any:
    """Return the value of a cache entry; None if the entry is damaged."""
    try:
        content = parse_json(read_text(path, LARGEST_JSON))
        return content["value"] if content["sha256"] == digest(content["value"]) else None
    except (LensflowError, ValueError, KeyError, TypeError):
        return None
