"""Decoding with a gate that decides which families of scripts may come next; see `lensflow.methods.gate`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lensflow.artifacts.interventions import Gate
from lensflow.errors import LensflowError
from lensflow.languages import LATIN, scripts_in
from lensflow.mathematics.probabilities import families_among
from lensflow.models.engines.script_mask import bytes_of, is_broken
from lensflow.models.tokenizer import PromptTokenizer

CHINESE_JAPANESE, LATIN_SCRIPT, SYMBOLS, OTHERS = range(4)
_CHINESE_JAPANESE = {"Hani", "Hira", "Kana"}
NEAR = ((5, 0.999), (20, 0.95))  # k and p of the likeliest tokens; the gate learns the second set


def families_of(tokenizer: PromptTokenizer, size: int) -> Tensor:
    """Return the family (V,) of each of a model's V tokens, int64.

    A Chinese or Japanese letter decides the family of a token first, then a Latin letter, then any other letter. A
    token without letters is a symbol. A token that the tokenizer does not know is also a symbol.
    """
    found = torch.full((size,), SYMBOLS)
    for index, text in enumerate(tokenizer.vocabulary[:size]):
        if is_broken(text):
            found[index] = _family(_completed(bytes_of(str(tokenizer.tokenizer.id_to_token(index)))))
        else:
            found[index] = _family(text)
    return found


def _family(text: str) -> int:
    letters = scripts_in(text).keys()
    if letters & _CHINESE_JAPANESE:
        return CHINESE_JAPANESE
    if letters & LATIN:
        return LATIN_SCRIPT
    return OTHERS if letters or is_broken(text) else SYMBOLS


def _completed(piece: bytes) -> str:
    """Return a text that begins with these bytes; the text is invalid if no character begins with them.

    Missing bytes are filled with 0x81, which completes every first byte of a Chinese or Japanese letter.
    """
    for missing in range(4):
        try:
            return (piece + b"\x81" * missing).decode()
        except UnicodeDecodeError:
            continue
    return piece.decode(errors="replace")


class FamilyMask:
    """Bans tokens of the families that a gate does not allow.

    Args:
        tokenizer: tokenizer of the checkpoint.
        gate: the gate, which reads the states at every step.
    """

    def __init__(self, tokenizer: PromptTokenizer, gate: Gate) -> None:
        self._tokenizer, self._gate = tokenizer, gate
        self._families = torch.empty(0, dtype=torch.long)
        self._scores = torch.empty(0, 4)

    def read(self, states: Tensor) -> None:
        """Store the gate's output for the states (rows, d) from which the next tokens are predicted."""
        self._scores = self._gate(states)

    def apply(self, logits: Tensor, row: int, rows: int, ids: Sequence[int], temperature: float, top_p: float) -> None:
        """Ban tokens in logits (V,), in place.

        Args:
            logits: logits of the next token of one answer.
            row: number of the answer in the batch.
            rows: number of answers in the batch.
            ids: token ids of the answer so far.
            temperature: sampling temperature; 0 is greedy.
            top_p: top-p of sampling.

        Raises:
            LensflowError: the gate did not read this step's states.
        """
        if len(self._scores) != rows:
            raise LensflowError(
                "the gate does not see the states of this model; choose another method, or report this model's family"
            )
        if len(self._families) != len(logits):
            self._families = families_of(self._tokenizer, len(logits)).to(logits.device)
        banned = self._banned(logits.float(), self._scores[row], ids, temperature, top_p)
        logits.masked_fill_(banned[self._families], -torch.inf)

    def _banned(self, logits: Tensor, scores: Tensor, ids: Sequence[int], temperature: float, top_p: float) -> Tensor:
        """Return which families (4,) are banned."""
        none = torch.zeros(4, dtype=torch.bool, device=logits.device)
        said = [family for family in self._families[list(ids)].tolist() if family != SYMBOLS]
        if not said:
            return none
        wanted = scores.to(logits.device) >= 0
        wanted[scores.argmax()] = True
        banned = ~wanted
        banned[[SYMBOLS, OTHERS, said[-1]]] = False
        row = logits[None] / (temperature or 1.0)
        k, p = (len(logits), top_p) if temperature > 0 else (1, 1.0)
        sampled = families_among(row, self._families, k, p)[0]
        near = torch.stack([families_among(row, self._families, k, p)[0] for k, p in NEAR]).any(0)
        return banned if (sampled & banned).any() and (near & wanted).any() else none
