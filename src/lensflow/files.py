"""Atomic files with checksums.

Everything that the pipeline writes appears under its final name at once and whole (written to a temporary name beside
it, flushed, then renamed), so that a killed job never leaves half a file under a name that somebody trusts.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError

# Bounds on what comes from outside, far above what anybody writes: memory for a file is bounded before it is read.
LONGEST_LINE = 1 << 24  # bytes
LARGEST_JSON = 1 << 28  # bytes
LARGEST_YAML = 1 << 20  # bytes
MOST_VALUES = 100_000  # of a YAML file, what its anchors stand for written out


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
        LensflowError: the file is missing, a line is empty, too long or not JSON; the message names file and line.
    """
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
