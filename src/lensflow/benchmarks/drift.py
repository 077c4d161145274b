"""How much a method changes the model's predictions, measured on tokens of reference answers."""

from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Literal

from lensflow.benchmarks.base import Asker, Folders, FromAnswers, Items, Row
from lensflow.errors import LensflowError


class Drift(FromAnswers):
    """KL(base ‖ method) of the next token, at every token of the reference answers.

    It is meant for the central language, where nothing should change. It shows a change before any answer changes.
    """

    kind: Literal["drift"]

    def items(self, folders: Folders, name: str, language: str, split: str = "items") -> Items:
        """Read prompts with their answers (`own`)."""
        if split != "items":
            return {}
        found = self.answered(folders, language)
        return {id_: {"prompt": prompt, "own": answer} for id_, (prompt, answer) in found.items()}

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Compare base after plain prompts with the method after its own prompts; return rows of `kl` (nats) and
        `tokens`.

        Raises:
            LensflowError: an answer has other tokens after an instruction than without it.
        """
        encode = asker.tokenizer.encode_answered
        plain = [encode(item["prompt"], item["own"]) for item in items.values()]
        own = [encode(asker.instruct(item["prompt"]), item["own"]) for item in items.values()]
        for id_, one, other in zip(items, plain, own, strict=True):
            if list(compress(*one)) != list(compress(*other)):
                raise LensflowError(
                    f"item '{id_}': its answer has other tokens after the instruction; use another prompt"
                )
        return asker.drift(plain, own)


Config = Drift
