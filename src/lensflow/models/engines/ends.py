"""Where an answer ends."""

from collections.abc import Collection, Sequence
from pathlib import Path

from lensflow.models.tokenizer import PromptTokenizer
from lensflow.storage.verified import read_json


def eos_token_ids(checkpoint: Path, tokenizer: PromptTokenizer) -> set[int]:
    """Ids of the tokens that end an answer: of generation_config.json, else of config.json, and the tokenizer's own."""
    files = [path for name in ("generation_config", "config") if (path := checkpoint / f"{name}.json").is_file()]
    named = [ids for path in files if (ids := read_json(path).get("eos_token_id")) is not None]
    found = named[0] if named else []
    return {*(found if isinstance(found, list) else [found]), *tokenizer.end_tokens}


def end_token_ids(eos: Collection[int], vocabulary: Sequence[str], stop: Collection[str]) -> list[int]:
    """Ids (sorted) after which an answer has ended: end-of-sequence, and every token whose text holds a stop string.

    A stop string that is spread over several tokens is not among them: there the answer runs on and `finish` cuts it.
    """
    return sorted({*eos, *(i for i, piece in enumerate(vocabulary) if any(text in piece for text in stop))})


def finish(answer: str, stop: Collection[str]) -> str:
    """Cut an answer before the first stop string."""
    return answer[: min((answer.find(text) for text in stop if text in answer), default=len(answer))]
