"""Checksums of JSON values and of files."""

import contextlib
import functools
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError

CHUNK = 1 << 26  # bytes, 64 MiB
BLOCK = 1 << 20  # bytes that a thread reads at once
SHA256, TREE = "sha256", "sha256-64MiB"
VERIFY, ALWAYS = "LENSFLOW_VERIFY", "always"  # see `current_digest`
VERIFIED = ".verified"  # ends the name of the hidden file beside a large file whose digest is known


def canonical_json(value: Any) -> str:
    """Serialise `value` so that equal values give equal text (sorted keys, no spaces)."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """Sha256 (hex) of a JSON value in canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path, algorithm: str | None = None) -> str:
    """Digest of a file's bytes, which all cores read.

    For a file of at most `CHUNK` bytes, it is the sha256 (hex). For a larger file, it is the text "sha256-64MiB:" and
    the sha256 of the sha256 of each chunk of 64 MiB, in order: `TREE`.

    Args:
        path: the file.
        algorithm: `SHA256` or `TREE`, to compare the file with a record; None chooses by the file's size.

    Raises:
        LensflowError: the file is missing.
    """
    try:
        size = path.stat().st_size
        if algorithm is None:
            algorithm = SHA256 if size <= CHUNK else TREE
        if algorithm == SHA256:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            chunks = pool.map(lambda start: _chunk_digest(path, start), range(0, size, CHUNK))
            return f"{TREE}:{hashlib.sha256(b''.join(chunks)).hexdigest()}"
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file") from None


def _chunk_digest(path: Path, start: int) -> bytes:
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        for begin in range(0, CHUNK, BLOCK):
            checksum.update(file.read(min(BLOCK, CHUNK - begin)))
    return checksum.digest()


def algorithm_of(recorded: str) -> str:
    """Return the algorithm of a recorded digest; older records have the plain sha256 of every file.

    Raises:
        LensflowError: the algorithm is unknown.
    """
    algorithm = recorded.rpartition(":")[0] or SHA256
    if algorithm not in (SHA256, TREE):
        raise LensflowError(f"checksum '{recorded[:80]}': this version does not know it; install a newer lensflow")
    return algorithm


def current_digest(path: Path, algorithm: str | None = None) -> str:
    """Digest of a file's bytes, as in `file_digest`. The file is read again only if it has changed.

    In one process, this holds for every file. A file above `CHUNK` is also not read again by later processes, unless
    the environment variable `VERIFY` is "always". For this, a hidden file beside it keeps the digest, with size, times
    and inode.

    Raises:
        LensflowError: the file is missing.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file") from None
    return _digest_of(path, algorithm, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def has_digest(path: Path, recorded: str) -> bool:
    """Return whether a file still has a recorded digest; see `current_digest`.

    Raises:
        LensflowError: the file is missing, or the digest's algorithm is unknown.
    """
    return current_digest(path, algorithm_of(recorded)) == recorded


@functools.cache
def _digest_of(path: Path, algorithm: str | None, size: int, *state: int) -> str:
    if size <= CHUNK:
        return file_digest(path, algorithm)
    kept = path.with_name(f".{path.name}{VERIFIED}")
    of_state = [algorithm or TREE, size, *state]
    if os.environ.get(VERIFY) != ALWAYS:
        with contextlib.suppress(OSError, ValueError):  # none, or a damaged one
            match json.loads(kept.read_bytes()):
                case [str(known), *rest] if rest == of_state:
                    return known
    found = file_digest(path, algorithm)
    temporary = kept.with_name(f"{kept.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # where nothing may be written, it is read again
        temporary.write_text(json.dumps([found, *of_state]), encoding="utf-8")
        temporary.replace(kept)
    return found
