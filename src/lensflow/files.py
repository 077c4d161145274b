"""Atomic files with checksums.

Everything that the pipeline writes appears under its final name at once and whole (written to a temporary name beside
it, flushed, then renamed), so that a killed job never leaves half a file under a name that somebody trusts.

Every run of a stage leaves a record beside its output (`lensflow.records`). What has one is compared with it whenever
a stage reads it (`checked`); what another hand wrote has none and is taken as it is. Records and manifests come along
with results from elsewhere, so that what they name is held to lie where they do.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # the one that pydantic knows in Python 3.11

from lensflow.errors import LensflowError

# Bounds on what comes from outside, far above what anybody writes: memory for a file is bounded before it is read.
LONGEST_LINE = 1 << 24  # bytes
LARGEST_JSON = 1 << 28  # bytes
LARGEST_YAML = 1 << 20  # bytes
MOST_VALUES = 100_000  # of a YAML file, what its anchors stand for written out
MANIFEST = "manifest.json"  # lists the files of a checkpoint with their checksums
RECORD = ".record.json"  # a record's name is its output's and this
CORRUPT = ".corrupt"  # what was found damaged has its name and this
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
    """What a stage read from outside of the workflow."""

    name: str
    sha256: str


class Code(TypedDict):
    """The code of a stage."""

    commit: str | None
    digest: str


@with_config(ConfigDict(strict=True))
class Record(TypedDict):
    """What a stage leaves beside its output; `lensflow.records.recording` says what it is made of."""

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
    """What is in a checkpoint's folder, and what else `backbones.prepare_backbone` says of it."""

    files: dict[Annotated[str, AfterValidator(_plain)], Listed]
    weights: str


@dataclass
class Journal:
    """What a stage has read and written so far, under absolute paths.

    Attributes:
        read: file -> sha256.
        lines: file -> those of its lines that were used, where `used` was told.
        written: the files, as a set in order.
    """

    read: dict[Path, str] = field(default_factory=dict)
    lines: dict[Path, set[int]] = field(default_factory=dict)
    written: dict[Path, None] = field(default_factory=dict)


_journal: Journal | None = None  # of the stage that runs


@contextmanager
def journal() -> Iterator[Journal]:
    """Keep track of what is read and written from here on."""
    global _journal
    before, _journal = _journal, Journal()
    try:
        yield _journal
    finally:
        _journal = before


def used(path: Path, lines: Iterable[int]) -> None:
    """Note for the record of the stage that runs which lines of a file (from 1) go into its result."""
    if _journal is not None:
        _journal.lines.setdefault(path.absolute(), set()).update(lines)


def spans(lines: Iterable[int]) -> str:
    """Write numbers as spans: "1-3, 7"."""
    found: list[list[int]] = []
    for line in sorted(lines):
        if found and line == found[-1][-1] + 1:
            found[-1] = [found[-1][0], line]
        else:
            found.append([line])
    return ", ".join("-".join(map(str, span)) for span in found)


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
        if _journal is not None:
            _journal.written[path.absolute()] = None
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
        LensflowError: the file is missing or not JSON, or not what a stage wrote.
    """
    checked(path)
    try:
        return parse_json(read_text(path, LARGEST_JSON))
    except ValueError as error:
        raise LensflowError(f"{path}: not valid JSON ({error}); delete it and run again") from None


def parse_json(text: str) -> Any:
    """Parse one JSON value.

    Raises:
        ValueError: it is none, is nested too deeply, or holds half of a surrogate pair, which is no character and could
            not be written again.
    """
    try:
        value = json.loads(text)
        if "\\u" in text:
            canonical_json(value).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def read_text(path: Path, most: int) -> str:
    """Read a text file of at most `most` bytes.

    Raises:
        LensflowError: the file is missing, larger, or not UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise LensflowError(f"{path}: more than {most} bytes; give a smaller file")
        return content.decode()
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise LensflowError(f"{path}: not UTF-8 text; convert it") from None
    except OSError as error:
        raise LensflowError(f"{path}: cannot be read ({error.strerror})") from None


def read_yaml(path: Path, loader: Any = None) -> Any:
    """Read one YAML value; no object is made of it but plain values.

    Args:
        path: the file.
        loader: a loader class of PyYAML's; by default `SafeLoader`.

    Raises:
        LensflowError: the file is missing, too large, not valid, or its anchors stand for too much (a "YAML bomb").
    """
    import yaml

    text = read_text(path, LARGEST_YAML)

    def children(node: Any) -> Iterable[Any]:
        if isinstance(node, yaml.MappingNode):
            return [part for pair in node.value for part in pair]
        return node.value if isinstance(node, yaml.SequenceNode) else ()

    try:
        reading = (loader or yaml.SafeLoader)(text)
        node = reading.get_single_node()
        if node is None:
            return None
        if expanded_size(node, children) > MOST_VALUES:
            raise LensflowError(f"{path}: its anchors stand for more than {MOST_VALUES} values; write fewer")
        return reading.construct_document(node)
    except LensflowError:
        raise
    except RecursionError:
        raise LensflowError(f"{path}: nested too deeply; write it flatter") from None
    except Exception as error:  # constructors of scalars fail in ways of their own, such as a KeyError for `!!bool x`
        raise LensflowError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def expanded_size(root: Any, children: Callable[[Any], Iterable[Any]]) -> int:
    """Count the values below `root`, those that several others share once for each; more than `MOST_VALUES` if endless.

    Raises:
        RecursionError: they are nested too deeply.
    """
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if id(value) not in sizes:
            sizes[id(value)] = MOST_VALUES + 1  # until it is known: for a value that holds itself
            sizes[id(value)] = 1 + sum(map(size, children(value)))
        return sizes[id(value)]

    return size(root)


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line to `path`, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[Any]:
    """Read one JSON value a line.

    Raises:
        LensflowError: the file is missing or not what a stage wrote, a line is empty, too long or not JSON; the
            message names file and line.
    """
    checked(path)
    rows = []
    try:
        with path.open("rb") as file:
            # Bytes end at line feeds alone; text also at U+2028 and the like, which JSON allows inside a string.
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
                where = f"{path}, line {number}"
                if len(line) > LONGEST_LINE:
                    raise LensflowError(f"{where}: more than {LONGEST_LINE} bytes; shorten or remove it")
                if not line.strip():
                    raise LensflowError(f"{where}: empty line; remove it")
                try:
                    rows.append(parse_json(line.decode()))
                except UnicodeDecodeError:
                    raise LensflowError(f"{path}: not UTF-8 text; convert it") from None
                except ValueError as error:
                    raise LensflowError(f"{where}: not valid JSON ({error}); mend the line") from None
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file") from None
    except OSError as error:
        raise LensflowError(f"{path}: cannot be read ({error.strerror})") from None
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


def checked(path: Path) -> Path:
    """Return the path of a file that is about to be read, compared with the record of the stage that wrote it.

    Raises:
        LensflowError: the file is not what the stage wrote. It was set aside, so that Snakemake makes it again.
    """
    place = path.absolute()
    if not path.is_file() or (_journal is not None and place in _journal.written):
        return path
    if path.name != MANIFEST and path.with_name(MANIFEST).is_file():  # which stands for it
        return path
    sha256 = current_digest(path)
    if (found := record_of(path)) and found[1]["outputs"][relative(path, found[0].parent)] != sha256:
        raise set_aside(path)
    if _journal is not None:
        _journal.read[place] = sha256
    return path


def unchanged(path: Path) -> Path:
    """Return the path of a file that is about to be shown, compared with its record; unlike `checked` touches nothing.

    Raises:
        LensflowError: the file is not what its stage wrote.
    """
    found = record_of(path) if path.is_file() else None
    if found and found[1]["outputs"][relative(path, found[0].parent)] != current_digest(path):
        raise LensflowError(f"{path}: changed since stage {found[1]['stage']} wrote it; run the workflow again")
    return path


def current_digest(path: Path) -> str:
    """Sha256 (hex) of a file's bytes, computed once as long as it stays as it is."""
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size, status.st_ino)


@functools.cache
def _digest_of(path: Path, *_: int) -> str:
    return file_digest(path)


def relative(path: Path, folder: Path) -> str:
    """Return a path as it is written in a record in `folder`, which may be moved together with what it names."""
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest.

    Raises:
        LensflowError: the file is missing, not what a stage wrote, or no manifest.
    """
    manifest: dict[str, Any] = _conform(path, Manifest, read_json(path), "manifest")
    return manifest


def _conform(path: Path, kind: Any, value: Any, name: str) -> Any:
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LensflowError(f"{path}: a damaged {name} ({where}: {first['msg']}); delete it and run again") from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def record_of(path: Path) -> tuple[Path, Record] | None:
    """Return the record that names a file among its outputs, with its own path; None if there is none.

    It lies beside the file, or beside the folder that it is in, under the name of what the stage was run for.

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
        LensflowError: it is damaged.
    """
    status = path.stat()
    return _record_at(path, status.st_mtime_ns, status.st_size, status.st_ino)


@functools.lru_cache(maxsize=1024)
def _record_at(path: Path, *_: int) -> Record:
    try:
        content = parse_json(read_text(path, LARGEST_JSON))
    except ValueError as error:
        raise LensflowError(f"{path}: a damaged record ({error}); delete it and run again") from None
    record: Record = _conform(path, Record, content, "record")
    return record


def set_aside(path: Path) -> LensflowError:
    """Rename a damaged file, and with it what its stage was run for, which Snakemake then makes again.

    A file of a checkpoint takes the whole checkpoint with it, and if it is linked the one that it is linked from.

    Args:
        path: a file that a record names, or that lies beside a manifest that one names.

    Returns:
        The error to raise.
    """
    found_as = "its checksum differs from what stage {} wrote (truncated or changed)"
    reason = found_as if path.is_file() else "missing, though stage {} wrote it"
    places, stages = [path], []
    targets = [path.parent / path.readlink()] if path.is_symlink() else []
    for file in (path, *targets):
        if found := record_of(file) or record_of(file.with_name(MANIFEST)):
            places.append(found[0].parent / found[1]["output"])
            stages.append(found[1]["stage"])
    for place in places:
        aside = place.with_name(f"{place.name}{CORRUPT}")
        if aside.is_dir():
            shutil.rmtree(aside)
        with contextlib.suppress(FileNotFoundError):  # gone with its folder, or another job found it damaged, too
            place.replace(aside)
    return LensflowError(f"{path}: {reason.format(stages[-1])}; it was set aside, run again to remake it")


def write_entry(path: Path, value: Any) -> None:
    """Write an entry of a cache, with the digest of its value in it: jobs that share a cache need no record of it."""
    write_json(path, {"sha256": digest(value), "value": value})
    if _journal is not None:
        del _journal.written[path.absolute()]


def read_entry(path: Path) -> Any:
    """Return the value of a cache's entry; None if there is none, or a damaged one, which is set aside and said."""
    if not path.is_file():
        return None
    if (value := entry_value(path)) is not None:
        return value
    with contextlib.suppress(FileNotFoundError):  # another job was here first
        path.replace(path.with_name(f"{path.name}{CORRUPT}"))
    LOG.warning("%s: damaged (truncated or changed); it was set aside and is made again", path)
    return None


def entry_value(path: Path) -> Any:
    """Return the value of a cache's entry; None if the entry is damaged."""
    try:
        content = parse_json(read_text(path, LARGEST_JSON))
        return content["value"] if content["sha256"] == digest(content["value"]) else None
    except (LensflowError, ValueError, KeyError, TypeError):
        return None
