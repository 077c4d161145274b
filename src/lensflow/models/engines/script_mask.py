"""Decoding that is restricted to the script of a language."""

import codecs
from collections.abc import Sequence

import torch
from torch import Tensor

from lensflow.languages import scripts, scripts_in
from lensflow.models.tokenizer import PromptTokenizer

_BROKEN = "\ufffd"  # what a tokenizer decodes bytes to that are no whole character
_LONGEST = 4  # bytes of a character


class ScriptMask:
    """Decides which tokens would write a letter of another script.

    Symbols, digits and tokens that end an answer are always allowed. If a token is only a piece of a character, the
    decision uses its bytes together with the bytes of the tokens before it.

    Args:
        tokenizer: tokenizer of the checkpoint.
        language: the language whose scripts are allowed.
    """

    def __init__(self, tokenizer: PromptTokenizer, language: str) -> None:
        self._allowed = scripts(language)
        vocabulary = tokenizer.vocabulary
        self._plain = torch.tensor([self._is_foreign(text) for text in vocabulary])
        broken = [index for index, text in enumerate(vocabulary) if is_broken(text)]
        self._pieces = {index: bytes_of(str(tokenizer.tokenizer.id_to_token(index))) for index in broken}
        self._behind: dict[bytes, Tensor] = {b"": self._plain}

    def apply(self, logits: Tensor, ids: Sequence[int]) -> None:
        """Ban tokens in the logits (V,) that follow an answer so far, in place."""
        banned = self.banned(ids)[: len(logits)].to(logits.device)  # some models have more rows than there are tokens
        logits[: len(banned)].masked_fill_(banned, -torch.inf)

    def banned(self, ids: Sequence[int]) -> Tensor:
        """Return which tokens (V,) may not follow an answer so far."""
        pending = self._pending(ids)
        if pending not in self._behind:
            mask = self._plain.clone()
            for index, piece in self._pieces.items():
                mask[index] = self._is_foreign((pending + piece).decode(errors="replace"))
            self._behind[pending] = mask
        return self._behind[pending]

    def _pending(self, ids: Sequence[int]) -> bytes:
        """Return the bytes at the end of an answer that do not form a whole character yet."""
        tail = b""
        for index in reversed(ids[-_LONGEST:]):
            if index not in self._pieces:
                break
            tail = self._pieces[index] + tail
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.decode(tail)
        return decoder.getstate()[0]

    def _is_foreign(self, text: str) -> bool:
        return not self._allowed.issuperset(scripts_in(text))


def is_broken(text: str) -> bool:
    """Return whether the text of a token contains pieces of characters."""
    return _BROKEN in text


def bytes_of(token: str) -> bytes:
    """Return the bytes of a token that is a piece of a character: `<0xE4>`, or letters that stand for bytes."""
    if token.startswith("<0x"):
        return bytes([int(token[3:-1], 16)])
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    values = {char: value for value, char in bytes_to_unicode().items()}
    return bytes(values[char] for char in token if char in values)
