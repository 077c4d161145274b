"""The files that a stage reads and writes while it runs, for its record."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Journal:
    """The files that a stage has read and written so far, under absolute paths.

    Attributes:
        read: file -> sha256.
        lines: file -> the lines that were used, if `used` was called.
        written: the written files, as an ordered set.
    """

    read: dict[Path, str] = field(default_factory=dict)
    lines: dict[Path, set[int]] = field(default_factory=dict)
    written: dict[Path, None] = field(default_factory=dict)


_journal: Journal | None = None  # of the stage that runs


@contextmanager
def journal() -> Iterator[Journal]:
    """Record all reads and writes from now on."""
    global _journal
    before, _journal = _journal, Journal()
    try:
        yield _journal
    finally:
        _journal = before


def used(path: Path, lines: Iterable[int]) -> None:
    """Note for the running stage's record which lines of a file (from 1) go into its result."""
    if _journal is not None:
        _journal.lines.setdefault(path.absolute(), set()).update(lines)


def note_read(path: Path, sha256: str) -> None:
    """Note that the running stage has read a file."""
    if _journal is not None:
        _journal.read[path.absolute()] = sha256


def note_written(path: Path) -> None:
    """Note that the running stage has written a file."""
    if _journal is not None:
        _journal.written[path.absolute()] = None


def forget_written(path: Path) -> None:
    """Leave a file out of the running stage's record."""
    if _journal is not None:
        _journal.written.pop(path.absolute(), None)


def is_own(path: Path) -> bool:
    """Return whether the running stage has written the file itself."""
    return _journal is not None and path.absolute() in _journal.written


def spans(lines: Iterable[int]) -> str:
    """Write numbers as spans, such as "1-3, 7"."""
    found: list[list[int]] = []
    for line in sorted(lines):
        if found and line == found[-1][-1] + 1:
            found[-1] = [found[-1][0], line]
        else:
            found.append([line])
    return ", ".join("-".join(map(str, span)) for span in found)
