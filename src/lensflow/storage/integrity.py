"""Records of the files that stages wrote, and the comparison of files with their records.

Every run of a stage leaves a record beside its output (`lensflow.provenance.records`). A stage compares each file that
it reads with the record of the file. A file without a record does not come from a stage, and is read without a check.
Downloaded results contain records and manifests, so the files that these name must lie inside their folder.
"""

import contextlib
import functools
import logging
import os
import shutil
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # the one that pydantic knows in Python 3.11

from lensflow.errors import LensflowError
from lensflow.storage.digests import current_digest, has_digest
from lensflow.storage.journal import is_own, note_read
from lensflow.storage.parsing import LARGEST_JSON, parse_json, read_text

MANIFEST = "manifest.json"  # lists the files of a checkpoint with their checksums
RECORD = ".record.json"  # a record's name is its output's and this
CORRUPT = ".corrupt"  # what was found damaged has its name and this
REMEDY = "delete it and run again if a stage wrote it, else name another file"
LOG = logging.getLogger(__name__)


def _below(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or parts[0] == "/":
        raise ValueError("leads out of its folder")
    return name


def _plain(name: str) -> str:
    if len(PurePosixPath(_below(name)).parts) != 1:
        raise ValueError("not a name")
    return name


def _time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


class Source(TypedDict):
    """An input of a stage from outside of the workflow."""

    name: str
    sha256: str


class Code(TypedDict):
    """The code of a stage."""

    commit: str | None
    digest: str


@with_config(ConfigDict(strict=True))
class Record(TypedDict):
    """The record that a stage leaves beside its output; see `lensflow.provenance.records.recording`."""

    stage: str
    output: Annotated[str, AfterValidator(_plain)]
    config: dict[str, Any]
    seed: int | None
    inputs: dict[str, str]
    sources: list[Source]
    lines: NotRequired[dict[str, str]]
    outputs: dict[Annotated[str, AfterValidator(_below)], str]
    code: Code
    versions: dict[str, str]
    machine: dict[str, Any]
    started: Annotated[str, AfterValidator(_time)]
    seconds: float


class Listed(TypedDict):
    """A file of a checkpoint; `size` in bytes."""

    size: int
    sha256: str


@with_config(ConfigDict(extra="allow", strict=True))
class Manifest(TypedDict):
    """The files in a checkpoint's folder, and the other facts that `backbones.prepare_backbone` writes about it."""

    files: dict[Annotated[str, AfterValidator(_plain)], Listed]
    weights: str


def checked(path: Path) -> Path:
    """Return the path of a file to read, after comparing the file with its stage's record.

    Raises:
        LensflowError: the file is not as the stage wrote it. It was renamed, so that Snakemake makes it again.
    """
    if not path.is_file() or is_own(path):
        return path
    if path.name != MANIFEST and path.with_name(MANIFEST).is_file():  # the manifest stands for its files
        return path
    found = record_of(path)
    if found is None:
        note_read(path, current_digest(path))
        return path
    recorded = found[1]["outputs"][relative(path, found[0].parent)]
    if not has_digest(path, recorded):
        raise set_aside(path)
    note_read(path, recorded)
    return path


def unchanged(path: Path) -> Path:
    """Return the path of a file to show, after comparing the file with its record.

    Unlike `checked`, this renames nothing.

    Raises:
        LensflowError: the file is not as its stage wrote it.
    """
    found = record_of(path) if path.is_file() else None
    if found and not has_digest(path, found[1]["outputs"][relative(path, found[0].parent)]):
        raise LensflowError(f"{path}: changed since stage {found[1]['stage']} wrote it; run the workflow again")
    return path


def relative(path: Path, folder: Path) -> str:
    """Return a path as a record in `folder` writes it. Record and file may be moved together."""
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def conform(path: Path, kind: Any, value: Any, name: str) -> Any:
    """Return the content of a file as a value of a typed dictionary.

    Raises:
        LensflowError: the value has another form; the message calls the file a damaged `name`.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LensflowError(f"{path}: a damaged {name} ({where}: {first['msg']}); {REMEDY}") from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def record_of(path: Path) -> tuple[Path, Record] | None:
    """Return the record that names a file among its outputs, with the record's own path; None if there is none.

    The record lies beside the file or beside its folder. Its name comes from the output for which the stage was run.

    Raises:
        LensflowError: the record is damaged.
    """
    path = path.absolute()
    own = path.with_name(f"{path.name}{RECORD}")
    others = (record for folder in path.parents[:2] for record in sorted(folder.glob(f"*{RECORD}")))
    for record in (own, *others):
        if record.is_file():
            content = read_record(record)
            if relative(path, record.parent) in content["outputs"]:
                return record, content
    return None


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        LensflowError: the record is damaged.
    """
    status = path.stat()
    return _record_at(path, status.st_mtime_ns, status.st_size, status.st_ino)


@functools.lru_cache(maxsize=1024)
def _record_at(path: Path, *_: int) -> Record:
    try:
        content = parse_json(read_text(path, LARGEST_JSON))
    except ValueError as error:
        raise LensflowError(f"{path}: a damaged record ({error}); delete it and run again") from None
    record: Record = conform(path, Record, content, "record")
    return record


def discard(place: Path) -> None:
    """Rename a file or folder, so that Snakemake makes it again."""
    aside = place.with_name(f"{place.name}{CORRUPT}")
    if aside.is_dir():
        shutil.rmtree(aside)
    with contextlib.suppress(FileNotFoundError):  # gone with its folder, or another job was here first
        place.replace(aside)


def set_aside(path: Path) -> LensflowError:
    """Rename a damaged file, and the output for which its stage was run, so that Snakemake makes the output again.

    If a file of a checkpoint is damaged, the whole checkpoint is renamed. If the file is a link, the checkpoint that it
    links to is renamed as well.

    Args:
        path: a file that a record names, or that lies beside a manifest that a record names.

    Returns:
        The error to raise.
    """
    damaged = "its checksum differs from what stage {} wrote (truncated or changed); it"
    reason = damaged if path.is_file() else "missing, though stage {} wrote it; what is left beside it"
    places, stages = [path], []
    targets = [path.parent / path.readlink()] if path.is_symlink() else []
    for file in (path, *targets):
        if found := record_of(file) or record_of(file.with_name(MANIFEST)):
            places.append(found[0].parent / found[1]["output"])
            stages.append(found[1]["stage"])
    for place in places:
        discard(place)
    return LensflowError(f"{path}: {reason.format(stages[-1])} was renamed to *.corrupt; run again to make it again")
