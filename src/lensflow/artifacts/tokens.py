"""A checkpoint's special tokens and chat template, read from its settings; no tokenizer is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from lensflow.errors import LensflowError
from lensflow.storage.parsing import LARGEST_YAML, read_text
from lensflow.storage.verified import read_json

# The special tokens that transformers hands to a chat template.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# Where a chat template may stand if it has no file of its own; the last two are of processors of images.
TEMPLATE_FILES = ("tokenizer_config.json", "chat_template.json", "processor_config.json")


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the text of each special token by its role, for every format that checkpoints use.

    A token is a text or a dictionary with `content`. Older checkpoints keep tokens in special_tokens_map.json.
    transformers prefers this file if tokenizer_config.json lists no added tokens.
    """
    settings = _mapping(folder / "tokenizer_config.json")
    legacy = _mapping(folder / "special_tokens_map.json")
    order = (legacy, settings) if "added_tokens_decoder" in settings else (settings, legacy)
    merged: dict[str, Any] = {}
    for source in order:
        merged |= {role: source[role] for role in ROLES if source.get(role) is not None}
    texts = {role: value.get("content") if isinstance(value, dict) else value for role, value in merged.items()}
    return {role: text for role, text in texts.items() if isinstance(text, str)}


def end_token_ids(folder: Path) -> list[Any]:
    """Return the ids of the tokens that end an answer, from generation_config.json or else from config.json."""
    found = [_mapping(folder / f"{name}.json").get("eos_token_id") for name in ("generation_config", "config")]
    named: Any = next((ids for ids in found if ids is not None), [])
    return named if isinstance(named, list) else [named]


def added_tokens(folder: Path) -> list[AddedToken]:
    """Return the tokens that tokenizer_config.json adds, in the order of their ids."""
    entries = _mapping(folder / "tokenizer_config.json").get("added_tokens_decoder")
    rows = sorted(entries.items(), key=lambda row: int(row[0])) if isinstance(entries, dict) else []
    return [AddedToken(**entry) for _, entry in rows]


def chat_template(folder: Path) -> str:
    """Return the chat template of a checkpoint: its tokenizer's, or else its processor's (`TEMPLATE_FILES`).

    If there are several named templates, it is the one called `default`, as in transformers.

    Raises:
        LensflowError: there is no template, or it is not UTF-8 text.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return read_text(path, LARGEST_YAML)
    for name in TEMPLATE_FILES:
        found = _mapping(folder / name).get("chat_template")
        if isinstance(found, list):
            found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        if isinstance(found, dict):
            if not isinstance(found.get("default"), str):
                raise LensflowError(
                    f"{folder}: none of the chat templates in {name} is called default; write the one that you want to "
                    "chat_template.jinja"
                )
            found = found["default"]
        if isinstance(found, str):
            return found
    raise LensflowError(f"{folder}: the tokenizer has no chat template; set prompt.format: plain")


def _mapping(path: Path) -> Mapping[str, Any]:
    """Return the content of a JSON file; empty if the file is missing or holds no mapping."""
    content = read_json(path) if path.is_file() else None
    return content if isinstance(content, dict) else {}
