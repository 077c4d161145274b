"""The wording of the messages about a wrong configuration; nothing here changes a result."""

import difflib
import re
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any

from pydantic import ValidationError

from lensflow.languages import suggestion
from lensflow.schema.types import (
    ARXIV_PATTERN,
    HUB_NAME_PATTERN,
    LANGUAGE_PATTERN,
    MODEL_REVISION_PATTERN,
    NAME_PATTERN,
    OWNED_NAME_PATTERN,
    PATH_BELOW_PATTERN,
    REVISION_PATTERN,
    SHA256_PATTERN,
    SWEPT_KEY_PATTERN,
    TASK_PATTERN,
    URL_PATTERN,
)

# How a message says what pydantic would say by a regular expression or a Python type.
IN_WORDS = {
    LANGUAGE_PATTERN: "must be a BCP 47 tag, such as 'sw', 'zh-Hant' or 'pt-BR'",
    f"^{NAME_PATTERN}$": "must be made of a-z, 0-9, '.', '_' and '-'",
    PATH_BELOW_PATTERN: "must be a path below its folder, without '..', '/' in front and blanks",
    TASK_PATTERN: "must be folder/name, without '..', '/' in front and blanks",
    URL_PATTERN: "must be http://... or https://..., and hold no user, key or query (the key is in key_variable)",
    HUB_NAME_PATTERN: "must be owner/name on the hub, or a path below datasets_root, such as a.csv or b/c.parquet",
    OWNED_NAME_PATTERN: "must be owner/name",
    ARXIV_PATTERN: "must be a number on arXiv, such as 2410.04407",
    SWEPT_KEY_PATTERN: "must be a key of the method, such as lambda, or setting. and a key of the setting",
    SHA256_PATTERN: "must be 64 hexadecimal digits",
    REVISION_PATTERN: "must be a commit, 40 hexadecimal digits",
    MODEL_REVISION_PATTERN: "must be a commit, 40 hexadecimal digits, or main",
    "too_short": "must not be empty",
    "string_type": "must be text (YAML reads no, on and numbers otherwise: quote them)",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}

FEW = 8  # known words that are read at a glance


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest known word.

    It lists all words if none is close, or if there are at most `FEW`.
    """
    known = sorted(known)
    close = difflib.get_close_matches(word[:100], known, n=1)
    everything = f"known: {', '.join(known) or 'none'}"
    if not close:
        return everything
    return f"did you mean '{close[0]}'?" + (f" ({everything})" if len(known) <= FEW else "")


def first_line(error: ValidationError, data: Any) -> str:
    """Return the mistake in one line that names the key."""
    details = error.errors()
    # An unknown key is the likeliest cause of everything else. The errors of a union's other branches, and of a section
    # that lacks a key, hold a whole section: one that holds a plain value comes before them.
    detail = next((d for d in details if "unknown key" in d["msg"]), None) or next(
        (d for d in details if not isinstance(d["input"], (dict, list))), details[0]
    )
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    key = _key(detail["loc"], data)
    if kind == "missing":
        message = "is missing; add it"
    elif kind == "union_tag_not_found":
        message = f"key {context['discriminator']} is missing; add it"
    elif kind == "union_tag_invalid":
        name, expected = context["discriminator"].strip("'"), context["expected_tags"].replace("'", "").split(", ")
        message = f"no {name} '{context['tag']}'; {did_you_mean(context['tag'], expected)}"
    elif kind in ("float_type", "int_type") and isinstance(value, str):
        message = f"must be a number, '{value}' is text"
        if _is_number(value):
            message += " (YAML reads 1e-5 as text; write 1.0e-5, and no quotes)"
    elif kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
    else:
        said = re.sub(r"^\w+ should", "must", detail["msg"])
        message = IN_WORDS.get(context.get("pattern", kind), said)
        if not isinstance(value, (dict, list)):
            message += f", not {value!r}"
        if kind == "tuple_type":
            message += "; begin every entry with '- '" if isinstance(value, (dict, NoneType)) else f"; write [{value}]"
        if context.get("pattern") == LANGUAGE_PATTERN and (hint := suggestion(value)):
            message += f"; {hint}"
    return f"{key}: {message}" if key else message


def _key(location: tuple[int | str, ...], data: Any) -> str:
    """Write the place of a mistake as the user sees it, without pydantic's names for the branches of unions."""
    key, here, tagged = "", data, False
    for position, part in enumerate(location):
        if isinstance(here, list) and isinstance(part, int):
            key, here, tagged = f"{key}[{part}]", here[part], False
        elif isinstance(here, Mapping):
            if not tagged and part in (here.get("kind"), here.get("format")):
                tagged = True  # the tag comes once; a key may have the same name
            elif part in here or (position == len(location) - 1 and part != "[key]"):
                key, here, tagged = f"{key}.{part}" if key else str(part), here.get(part), False
    return key


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
