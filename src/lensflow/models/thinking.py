"""Models that think before they answer: the thought, and the answer for the user."""

from collections.abc import Collection, Sequence
from typing import Any

# How published templates and models write a thinking block: its beginning and its end.
BLOCKS = (
    ("<think>", "</think>"),  # DeepSeek R1, Qwen3, SmolLM3, GLM, MiniMax
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
)
_LOOKED_AT = 16  # last tokens of a prompt; a template may open the block itself


def can_think(tokenizer: Any) -> bool:
    """Whether a model has a token that ends a thinking block."""
    return any(tokenizer.tokenizer.token_to_id(end) is not None for _, end in BLOCKS)


def split(
    tokenizer: Any, prompt: Sequence[int], ids: Sequence[int], text: str, stop: Collection[str]
) -> tuple[str, str]:
    """Separate the thought of a model from its answer.

    If a thinking block never ends, the answer is empty: the model was cut off while it thought.

    Args:
        tokenizer: the `lensflow.models.tokenizer.PromptTokenizer` of the backbone.
        prompt: token ids of the prompt.
        ids: token ids that the model generated.
        text: the engine's text of these tokens.
        stop: stop strings of the request.

    Returns:
        The thought (empty if there is none) and the answer.
    """
    said = tokenizer.decode_all(ids)
    for begin, end in BLOCKS:
        thought, found, answer = said.rpartition(end)
        if found:
            answer = tokenizer.without_special(answer).lstrip()
            return _plain(tokenizer, thought, begin), answer[: _stop(answer, stop)]
    before = tokenizer.decode_all(prompt[-_LOOKED_AT:]).rstrip()
    for begin, _ in BLOCKS:
        if said.lstrip().startswith(begin) or before.endswith(begin):
            return _plain(tokenizer, said, begin), ""
    return "", text


def _plain(tokenizer: Any, thought: str, begin: str) -> str:
    return str(tokenizer.without_special(thought.lstrip().removeprefix(begin))).strip()


def _stop(answer: str, stop: Collection[str]) -> int | None:
    """Return the position of the first stop string; None if there is none."""
    return min((answer.find(text) for text in stop if text in answer), default=None)
