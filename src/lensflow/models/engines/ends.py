"""How an answer ends."""

from collections.abc import Collection, Sequence
from pathlib import Path

from lensflow.artifacts import tokens
from lensflow.errors import LensflowError
from lensflow.models.engines.protocol import Answer
from lensflow.models.thinking import can_think
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.decoding import Decoding

TIMES, LEAST = 5, 60  # an answer ends where it says one unit so often, over so many characters


def eos_token_ids(checkpoint: Path, tokenizer: PromptTokenizer) -> set[int]:
    """Ids of the tokens that end an answer: from generation_config.json, or else config.json, and from the
    tokenizer."""
    return {*tokens.end_token_ids(checkpoint), *tokenizer.end_tokens}


def check_ends(checkpoint: Path, tokenizer: PromptTokenizer) -> None:
    """Check that the model has the tokens which the checkpoint's files name as the end of an answer.

    Raises:
        LensflowError: the model lacks such a token, or no end token is named.
    """
    named = tokens.special_tokens(checkpoint).get("eos_token")
    if named is not None and tokenizer.tokenizer.token_to_id(named) is None:
        raise LensflowError(
            f"{checkpoint}: eos_token '{named}' of tokenizer_config.json is not a token of tokenizer.json; correct it"
        )
    size = tokenizer.embeddings or tokenizer.tokenizer.get_vocab_size(with_added_tokens=True)
    for index in (*tokens.end_token_ids(checkpoint), *tokenizer.end_tokens):
        if not isinstance(index, int) or not 0 <= index < size:
            raise LensflowError(
                f"{checkpoint}: end token {index!r} is not among the model's {size} tokens; correct eos_token_id in "
                "generation_config.json or config.json, or eos_token in tokenizer_config.json"
            )
    _ = tokenizer.eos  # there is one


def end_token_ids(eos: Collection[int], vocabulary: Sequence[str], stop: Collection[str]) -> list[int]:
    """Sorted ids of the tokens that end an answer: end-of-sequence, and every token whose text contains a stop string.

    A stop string that is spread over several tokens is not among these tokens; `Room` finds it.
    """
    return sorted({*eos, *(i for i, piece in enumerate(vocabulary) if any(text in piece for text in stop))})


def finish(answer: str, decoding: Decoding) -> str:
    """Cut an answer at the first stop string or at its limit."""
    end = min((answer.find(text) for text in decoding.stop if text in answer), default=len(answer))
    return answer[:end][: decoding.max_characters]


class Room:
    """Decides when an answer must end although the model continues: a stop string, the limit, or a loop at the end.

    Args:
        tokenizer: tokenizer of the checkpoint.
        decoding: the limits of an answer. Without `max_characters`, only a stop string ends an answer before
            `max_new_tokens`.
    """

    def __init__(self, tokenizer: PromptTokenizer, decoding: Decoding) -> None:
        self._tokenizer, self._decoding, self._room = tokenizer, decoding, decoding.max_characters
        # A model that thinks may write them in its thoughts.
        self._stop = () if can_think(tokenizer) else decoding.stop
        self._looked_at = max((len(stop.encode()) for stop in self._stop), default=0)  # a token has a byte at least

    def is_over(self, ids: Sequence[int]) -> bool:
        """Return whether an answer with these token ids must end; the search for a loop runs at every eighth token."""
        if not ids or (self._room is None and not self._stop):
            return False
        text = self._tokenizer.decode(list(ids if self._room is not None else ids[-self._looked_at :]))
        if any(stop in text for stop in self._stop):
            return True
        return self._room is not None and (len(text) >= self._room or (len(ids) % 8 == 0 and repeats_at_the_end(text)))

    def answer(self, ids: tuple[int, ...], *, ended: bool) -> Answer:
        """Return the answer from the generated tokens.

        Args:
            ids: the tokens, including the one that ended the answer.
            ended: whether the last token ended the answer.
        """
        text = self._tokenizer.decode(list(ids))
        stops = [text.find(stop) for stop in self._stop if stop in text]
        full = self._room is not None and min([len(text), *stops]) >= self._room
        return Answer(finish(text, self._decoding), ids, cut=full or not (ended or stops))


def repeats_at_the_end(text: str) -> bool:
    """Return whether a text ends in one unit that is said at least `TIMES` times, over `LEAST` characters or more."""
    tail = text[-4 * LEAST :]
    for period in range(1, len(tail) // TIMES + 1):
        same = 0
        while same + period < len(tail) and tail[-1 - same] == tail[-1 - same - period]:
            same += 1
        if same + period >= max(TIMES * period, LEAST):
            return True
    return False
