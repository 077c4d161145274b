"""A checkpoint's special tokens and chat template, read from its settings; no tokenizer is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from lensflow.errors import LensflowError
from lensflow.storage.verified import read_json

# The special tokens that transformers hands to a chat template.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the text of each special token by its role, however the checkpoint writes it.

    A token is a text or a dictionary with `content`. Older checkpoints keep tokens in special_tokens_map.json, which
    transformers prefers where tokenizer_config.json lists no added tokens.
    """
    settings = _mapping(folder / "tokenizer_config.json")
    legacy = _mapping(folder / "special_tokens_map.json")
    order = (legacy, settings) if "added_tokens_decoder" in settings else (settings, legacy)
    merged: dict[str, Any] = {}
    for source in order:
        merged |= {role: source[role] for role in ROLES if source.get(role) is not None}
    texts = {role: value.get("content") if isinstance(value, dict) else value for role, value in merged.items()}
    return {role: text for role, text in texts.items() if isinstance(text, str)}


def added_tokens(folder: Path) -> list[AddedToken]:
    """Return the tokens that tokenizer_config.json adds, in the order of their ids."""
    entries = _mapping(folder / "tokenizer_config.json").get("added_tokens_decoder")
    rows = sorted(entries.items(), key=lambda row: int(row[0])) if isinstance(entries, dict) else []
    return [AddedToken(**entry) for _, entry in rows]


def chat_template(folder: Path) -> str:
    """Return the chat template of a checkpoint's tokenizer, in its own file or in tokenizer_config.json.

    Of a list of named templates it is the one called `default`, as in transformers.

    Raises:
        LensflowError: there is none.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = _mapping(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        found = _default(found, folder)
    if not isinstance(found, str):
        raise LensflowError(f"{folder}: the tokenizer has no chat template; set prompt.format: plain")
    return found


def _default(named: list[Any], folder: Path) -> str:
    """Return the template called `default` of a list of dictionaries with `name` and `template`."""
    templates = {entry.get("name"): entry.get("template") for entry in named if isinstance(entry, dict)}
    if not isinstance(templates.get("default"), str):
        raise LensflowError(
            f"{folder}: none of the chat templates in tokenizer_config.json is called default; "
            "write the one that you want to chat_template.jinja"
        )
    return str(templates["default"])


def _mapping(path: Path) -> Mapping[str, Any]:
    """Return the content of a JSON file; nothing if it is missing or holds no mapping."""
    content = read_json(path) if path.is_file() else None
    return content if isinstance(content, dict) else {}
