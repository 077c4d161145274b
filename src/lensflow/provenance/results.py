"""The records of a results folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from lensflow.errors import LensflowError
from lensflow.storage.integrity import CORRUPT, RECORD, Record, read_record


def records(results: Path) -> Iterator[tuple[Path, Record | None]]:
    """Return each record of a results folder with its path; None for a damaged record.

    Raises:
        LensflowError: the folder has no records.
    """
    paths = [path for path in sorted(results.rglob(f"*{RECORD}")) if not is_aside(path)]
    if not paths:
        raise LensflowError(f"{results}: no records in it; name the results folder of a run")
    for path in paths:
        try:
            yield path, read_record(path)
        except LensflowError:
            yield path, None


def inside(record: Path, name: str) -> Path:
    """Return the path of a file that a record names."""
    return Path(os.path.normpath(record.parent / name))


def is_aside(file: Path) -> bool:
    """Return whether a file was found damaged and renamed."""
    return any(part.endswith(CORRUPT) for part in file.parts)
