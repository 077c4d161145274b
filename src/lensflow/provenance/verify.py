"""Checks whether a results folder is as its records say."""

from pathlib import Path

from tqdm import tqdm

from lensflow.errors import LensflowError
from lensflow.provenance.results import inside, is_aside, records
from lensflow.storage.cache import entry_value
from lensflow.storage.digests import algorithm_of, file_digest
from lensflow.storage.integrity import MANIFEST
from lensflow.storage.verified import read_manifest

CACHES = ("cells", "verdicts")
TIMINGS = "timings"  # of the scripts in performance/, which are no stages


def verify(results: Path) -> list[str]:
    """Compare a results folder with its records.

    Returns:
        One line per problem: a file is missing, changed or unknown, or was made from another version of an input file
        than the one that is there.

    Raises:
        LensflowError: the folder has no records.
    """
    problems: list[str] = []
    expected: dict[Path, str] = {}
    made_from: list[tuple[Path, Path, str]] = []
    for path, record in records(results):
        if record is None:
            problems.append(f"{path}: a damaged record; run its stage again")
            continue
        expected |= {inside(path, name): sha256 for name, sha256 in record["outputs"].items()}
        made_from += [(path.parent / record["output"], inside(path, n), sha) for n, sha in record["inputs"].items()]
    for file in list(expected):
        if file.name == MANIFEST and file.is_file():
            try:
                listed = read_manifest(file)["files"] if _is_as_said(file, expected[file]) else {}
            except LensflowError:
                problems.append(f"{file}: a damaged manifest; run its stage again")
                continue
            expected |= {file.with_name(name): entry["sha256"] for name, entry in listed.items()}
    there = {file for file in expected if file.is_file()}
    size = sum(file.stat().st_size for file in there)
    with tqdm(total=size, desc="checksums", unit="B", unit_scale=True) as progress:
        for file, sha256 in expected.items():
            if file in there:
                if not _is_as_said(file, sha256):
                    problems.append(f"{file}: changed since its stage wrote it")
                progress.update(file.stat().st_size)
            else:
                problems.append(f"{file}: missing")
    for output, file, sha256 in made_from:
        if not file.is_relative_to(results):
            continue
        if file not in expected and not file.is_file():
            problems.append(f"{file}: missing; {output} was made from it")
        elif expected[file] != sha256 if file in expected else not _is_as_said(file, sha256):
            problems.append(f"{output}: stale, made from {file} as it was before")
    known = expected.keys() | {file for _, file, _ in made_from} | {path for path, _ in records(results)}
    return problems + [line for file in sorted(results.rglob("*")) if (line := _unknown(file, results, known))]


def _is_as_said(file: Path, recorded: str) -> bool:
    """Return whether a file has this digest; the whole file is read."""
    return file_digest(file, algorithm_of(recorded)) == recorded


def _unknown(file: Path, results: Path, known: set[Path]) -> str | None:
    """Return what is wrong with a file that no record may name."""
    parts = file.relative_to(results).parts
    if file in known or parts[0] == TIMINGS or not file.is_file() or any(part.startswith(".") for part in parts):
        return None
    if is_aside(file):
        return f"{file}: was found damaged and renamed; delete it"
    if parts[0] in CACHES:
        return None if entry_value(file) is not None else f"{file}: a damaged entry; delete it"
    return f"{file}: unknown, no stage that left a record wrote it"
