"""Rows of data files that others published: CSV, TSV, JSON, JSON lines, Parquet or plain lines, also inside a zip
archive."""

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from lensflow.errors import LensflowError
from lensflow.storage.parsing import LARGEST_JSON, LONGEST_LINE, parse_json

if TYPE_CHECKING:
    from pyarrow import RecordBatch

Row = dict[str, Any]
_ZIP, _PACKED, _TEXT = ".zip", ".gz", ".txt"
_DELIMITERS = (",", ";", "\t", "|")
_BATCH = 1024  # rows of a Parquet file that become Python objects at once


def is_table(name: str) -> bool:
    """Whether a file with this name has rows, or is an archive of such files."""
    return _kind(name) in (*_READERS, _ZIP)


def _kind(name: str) -> str:
    """Return the ending of a file's name that tells its format, in lower case."""
    return Path(name.lower().removesuffix(_PACKED)).suffix


def of_archive(name: str) -> tuple[str, str | None]:
    """Split `a/b.zip/c/d.csv` into the archive and the file inside it; without an archive, return the name and None."""
    archive, found, member = name.partition(f"{_ZIP}/")
    return (f"{archive}{_ZIP}", member) if found else (name, None)


def read_rows(path: Path, member: str | None = None, field: str | None = None, where: str = "") -> Generator[Row]:
    """Yield the rows of a file, one dictionary per row.

    Args:
        path: the file, or a zip archive.
        member: name of the file in the archive; None if the archive has only one table.
        field: key of a JSON file whose value is the list of rows; None if the file itself is the list.
        where: the beginning of an error message, before the path.

    Raises:
        LensflowError: the file is missing, damaged or of an unknown format, or a row is not a mapping.
    """
    here = f"{where}: {path}" if where else str(path)
    if member is not None and path.suffix.lower() != _ZIP:
        raise LensflowError(f"{here}: is no archive, which file could name a part of; remove file, or correct path")
    if field is not None and _kind(member or path.name) not in (".json", _ZIP):
        raise LensflowError(f"{here}: has no fields, as a .json file has; remove field, or name another file")
    try:
        if path.suffix.lower() == _ZIP:
            with zipfile.ZipFile(path) as archive:
                name = _member(archive, member, here)
                with archive.open(name) as packed, _unpacked(packed, name) as file:
                    yield from _reader(name, here)(file, field, f"{here}/{name}")
        else:
            with path.open("rb") as packed, _unpacked(packed, path.name) as file:
                yield from _reader(path.name, here)(file, field, here)
    except FileNotFoundError:
        raise LensflowError(f"{here}: no such file; check the path") from None
    except UnicodeDecodeError:
        raise LensflowError(f"{here}: not UTF-8 text; save it as UTF-8") from None
    except IsADirectoryError:
        raise LensflowError(f"{here}: is a folder; name a file") from None
    # zipfile raises a RuntimeError for an encrypted member, and for a way of compression that it does not know.
    except (EOFError, OSError, ValueError, RuntimeError, csv.Error, zipfile.BadZipFile, zlib.error) as error:
        raise LensflowError(f"{here}: cannot be read ({error}); correct the file") from None


def _unpacked(file: IO[bytes], name: str) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(file)) if name.lower().endswith(_PACKED) else file


def _member(archive: zipfile.ZipFile, wanted: str | None, where: str) -> str:
    kinds = set(_READERS) - {_TEXT}  # such as a README
    tables = [name for name in archive.namelist() if _kind(name) in kinds and not _is_shadow(name)]
    if wanted is None and len(tables) == 1:
        return tables[0]
    if wanted not in archive.namelist():
        shown = ", ".join(tables[:20])
        raise LensflowError(f"{where}: no file {wanted or 'is named'} in it; it has {shown}; set file")
    return str(wanted)


def _is_shadow(name: str) -> bool:
    """Whether a file of an archive is what macOS keeps beside another one."""
    return "__MACOSX" in name or name.rpartition("/")[2].startswith("._")


def _reader(name: str, where: str) -> Callable[[IO[bytes], str | None, str], Iterator[Row]]:
    reader = _READERS.get(_kind(name))
    if reader is None:
        raise LensflowError(
            f"{where}: is none of {', '.join(_READERS)} (also {_PACKED}), {_ZIP}; save it as one of these"
        )
    return reader


def _csv(file: IO[bytes], field: str | None, where: str, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(LONGEST_LINE)
    # Spreadsheets write a byte order mark, which would be part of the first column's name.
    lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
    first = lines.readline()
    if delimiter not in first:  # spreadsheets write what the user's country has, whatever the file is called
        delimiter = max((delimiter, *_DELIMITERS), key=first.count)
    reader = csv.DictReader(chain([first], lines), delimiter=delimiter, strict=True)
    names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise LensflowError(f"{where}: column '{twice}' occurs twice; rename one")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise LensflowError(
                    f"{where}, line {reader.line_num}: more or fewer cells than columns; correct the line"
                )
            yield row
    except csv.Error as error:  # in the row behind the last one that was read
        raise LensflowError(
            f"{where}, line {reader.line_num + 1}: cannot be read ({error}); correct the line"
        ) from None


def _tsv(file: IO[bytes], field: str | None, where: str) -> Iterator[Row]:
    return _csv(file, field, where, "\t")


def _json(file: IO[bytes], field: str | None, where: str) -> Iterator[Row]:
    content = file.read(LARGEST_JSON + 1)
    if len(content) > LARGEST_JSON:
        raise LensflowError(f"{where}: more than {LARGEST_JSON} bytes; write it as .jsonl or parquet")
    try:
        value = parse_json(content.decode("utf-8-sig"))
    except ValueError:
        if field is not None or b"\n" not in content.strip() or content.lstrip().startswith(b"["):
            raise
        yield from _json_lines(io.BytesIO(content), field, where)  # as many a .json of the hub is
        return
    if field is not None:
        if not isinstance(value, dict) or field not in value:
            raise LensflowError(f"{where}: no field '{field}'; {_fields(value)}")
        value = value[field]
    if not isinstance(value, list):
        raise LensflowError(f"{where}: is not a list of rows; {_fields(value)}")
    for number, row in enumerate(value, start=1):
        yield _checked(row, f"{where}, row {number}")


def _fields(value: Any) -> str:
    lists = [key for key, inner in value.items() if isinstance(inner, list)] if isinstance(value, dict) else []
    return f"set field to one of {', '.join(lists)}" if lists else "set field to the key that holds the rows"


def _lines(file: IO[bytes], field: str | None, where: str) -> Iterator[Row]:
    """Each line that is not blank, as column `text`."""
    for _, line in _numbered(file, where):
        if text := line.decode("utf-8-sig").strip():
            yield {"text": text}


def _json_lines(file: IO[bytes], field: str | None, where: str) -> Iterator[Row]:
    for here, line in _numbered(file, where):
        if line.strip():
            text = line.decode("utf-8-sig")
            if text.lstrip().startswith("["):
                raise LensflowError(
                    f"{here}: a list, not a row; write one row per line, or name a file of one list .json"
                )
            try:
                row = parse_json(text)
            except ValueError as error:
                raise LensflowError(f"{here}: not valid JSON ({error}); correct the line") from None
            yield _checked(row, here)


def _numbered(file: IO[bytes], where: str) -> Iterator[tuple[str, bytes]]:
    """Each line with its place in the file."""
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
        here = f"{where}, line {number}"
        if len(line) > LONGEST_LINE:
            raise LensflowError(f"{here}: more than {LONGEST_LINE} bytes; shorten or remove it")
        yield here, line


def parquet_batches(file: IO[bytes], columns: list[str] | None = None) -> "Iterator[RecordBatch]":
    """Yield the rows of a Parquet file in batches. A row group is read when a row of it is asked for.

    All is read in the calling thread: Python before 3.14 aborts if it ends while a thread of Arrow reads a file.

    Args:
        file: the opened file.
        columns: the columns that are read; None for all.
    """
    from pyarrow.parquet import ParquetFile

    opened = ParquetFile(file, pre_buffer=False)
    for group in range(opened.num_row_groups):
        yield from opened.iter_batches(batch_size=_BATCH, row_groups=[group], columns=columns, use_threads=False)


def _parquet(file: IO[bytes], field: str | None, where: str) -> Iterator[Row]:
    for batch in parquet_batches(file):
        yield from batch.to_pylist(maps_as_pydicts="strict")


def _checked(row: Any, where: str) -> Row:
    if not isinstance(row, Mapping):
        raise LensflowError(f"{where}: must be a mapping of columns to values; correct it")
    return dict(row)


_READERS: Mapping[str, Callable[[IO[bytes], str | None, str], Iterator[Row]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    _TEXT: _lines,
}
