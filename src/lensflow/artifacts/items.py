"""Files with the items of a benchmark in one language."""

import ast
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isnan
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError
from lensflow.storage.atomic import write_json
from lensflow.storage.verified import read_jsonl


def write_origin(output: Path, **origin: str | bool | int | None) -> None:
    """Write the origin of the rows in `output` (`{language}.jsonl`) to `{language}.source.json` beside it."""
    write_json(output.with_suffix(".source.json"), origin)


def read_items(path: Path, split: str = "items") -> dict[str, dict[str, Any]]:
    """Return the items of one split that stage `fetch_items` wrote: id -> item, in the file's order."""
    return {row["id"]: row["item"] for row in read_jsonl(path) if row["split"] == split}


def folded(text: str) -> str:
    """Return the form of a text in which duplicates are compared: NFC, case-folded, single spaces, no invisible
    characters.

    Characters of Unicode's category Cf count as invisible: direction marks, soft hyphens, byte order marks. Full-width
    and half-width letters and digits, as in Chinese and Japanese texts, are converted to plain width.
    """
    plain = _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", plain).casefold())
    return " ".join("".join(char for char in composed if unicodedata.category(char) != "Cf").split())


_WIDE = re.compile("[\uff01-\uffee]+")  # Unicode's block of halfwidth and fullwidth forms
_NO_TEXT = frozenset({"nan", "na", "none", "null", "<na>", "n/a", "#n/a"})  # what programs write for a missing value
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")  # letters and a symbol that show nothing: Hangul, Braille


def is_blank(text: str) -> bool:
    """Whether a text has nothing to read, or only the word that a program writes for a missing value."""
    seen = any(unicodedata.category(char)[0] in "LNPS" and char not in _FILLERS for char in text)
    return not seen or folded(text) in _NO_TEXT


def check_plain(texts: Sequence[str], where: str) -> None:
    """Check that texts are not all lists or dictionaries, which CSV files hold as text.

    Args:
        texts: the texts.
        where: the beginning of a message.

    Raises:
        LensflowError: all of them are.
    """
    if texts and all(map(_is_structure, texts)):
        raise LensflowError(
            f"{where}: every text is a list or dictionary written as text, such as {texts[0]!r:.60}; name a column of "
            "plain text"
        )


def _is_structure(text: str) -> bool:
    """Whether a text is a list or dictionary in the form of JSON or Python."""
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return False
    for read in (json.loads, ast.literal_eval):
        with suppress(Exception):  # a parser can fail in many ways
            if isinstance(read(text), list | dict):
                return True
    return False


def identity(item: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return a comparison key of an item's columns; two items have the same key if they differ only in case and white
    space."""
    values = [item.get(column.partition(".")[0]) for column in columns]
    return json.dumps([folded(value) if isinstance(value, str) else value for value in values], default=str)


def value_at(item: Mapping[str, Any], column: str, where: str) -> Any:
    """Return the value of a column, or of a path into a column, such as `translation.en` or `turns.0.text`.

    Raises:
        LensflowError: the item lacks the column, or the path leads nowhere.
    """
    if column in item:
        return item[column]
    name, *path = column.split(".")
    if not path or name not in item:
        raise LensflowError(
            f"{where}: no column '{column}'; it has {', '.join(item)}; correct the row or the column's name"
        )
    value = item[name]
    for part in path:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise LensflowError(f"{where}: no '{part}' of '{column}' in column '{name}'; it holds {_kind(value)}")
    return value


def text_at(item: Mapping[str, Any], column: str, where: str) -> str:
    """Return the text in a column, or at a path into a column; an empty column gives an empty text.

    Raises:
        LensflowError: the item lacks the column, or its value is a list or a dictionary.
    """
    value = value_at(item, column, where)
    if isinstance(value, Mapping | list | tuple):
        inner = next(iter(value), "") if isinstance(value, Mapping) else "0"
        raise LensflowError(
            f"{where}: column '{column}' holds {_kind(value)}, not text; name a part of it, such as '{column}.{inner}'"
        )
    if is_missing(value):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise LensflowError(f"{where}: column '{column}' holds {value!r:.40}, not text; choose or convert another")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def id_at(item: Mapping[str, Any], column: str, where: str) -> str:
    """Return the id in a column.

    It is the same for 7, "7", " 7 ", 7.0 and "7.0".

    Raises:
        LensflowError: the item lacks the column, or the column has no id.
    """
    found = unicodedata.normalize("NFKC", text_at(item, column, where)).strip()
    if not found:
        raise LensflowError(f"{where}: no id in column '{column}'; fill it, or set id to another column")
    return re.sub(r"^(-?\d+)\.0$", r"\1", found)


def is_missing(value: Any) -> bool:
    """Whether a column is empty: null, or NaN, which data frames write instead."""
    return value is None or (isinstance(value, float) and isnan(value))


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary of {', '.join(map(str, value)) or 'nothing'}"
    return f"a list of {len(value)}" if isinstance(value, list | tuple) else f"no list or dictionary ({value!r:.40})"
