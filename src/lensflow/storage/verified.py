"""Reading JSON files after a comparison with their records."""

from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError
from lensflow.storage.integrity import REMEDY, Manifest, checked, conform
from lensflow.storage.parsing import LARGEST_JSON, LONGEST_LINE, parse_json, read_text


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        LensflowError: the file is missing, not JSON, or not as a stage wrote it.
    """
    checked(path)
    try:
        return parse_json(read_text(path, LARGEST_JSON))
    except ValueError as error:
        raise LensflowError(f"{path}: not valid JSON ({error}); {REMEDY}") from None


def read_jsonl(path: Path) -> list[Any]:
    """Read one JSON value per line.

    Raises:
        LensflowError: the file is missing or not as a stage wrote it, or a line is empty, too long or not JSON; the
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
                    raise LensflowError(f"{where}: not valid JSON ({error}); correct the line") from None
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise LensflowError(f"{path}: cannot be read ({error.strerror})") from None
    return rows


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest.

    Raises:
        LensflowError: the file is missing, not as a stage wrote it, or not a manifest.
    """
    manifest: dict[str, Any] = conform(path, Manifest, read_json(path), "manifest")
    return manifest
