"""Likelihood of reference answers: which answers a model prefers, without generating any."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lensflow.benchmarks.base import Asker, Folders, FromAnswers, Items, Row
from lensflow.errors import LensflowError
from lensflow.schema.types import Count, Language, Seed


class References(FromAnswers):
    """Likelihood of given answers after a prompt: its reference, the reference in the central language, and others.

    The other answers are references of other items in the language of the prompt. Log-likelihoods are divided by the
    number of UTF-8 bytes of the answer, because answers and tokenizers differ in their numbers of tokens. A byte
    carries more information in one script than in another. Compare values between methods in one language, not between
    languages.
    """

    kind: Literal["references"]
    central: Language = "en"
    """The language that answers slip into."""
    distractors: Count = 4
    """Number of answers of other items that each item's answer is compared with."""
    seed: Seed = 0
    """Seed for drawing these answers."""

    def reads(self, language: str) -> tuple[str, ...]:
        """Return the cell's language and the central language."""
        return tuple(dict.fromkeys((language, self.central)))

    def items(self, folders: Folders, name: str, language: str, split: str = "items") -> Items:
        """Read prompts with the answer in their language (`own`) and in the central one (`central`)."""
        if split != "items":
            return {}
        own, central = (self.answered(folders, code) for code in (language, self.central))
        if language == self.central:
            return {id_: {"prompt": prompt, "own": answer} for id_, (prompt, answer) in own.items()}
        if missing := [id_ for id_ in own if id_ not in central]:
            raise LensflowError(
                f"corpus {self.corpus}: no item '{missing[0]}' in {self.central}; use an aligned corpus"
            )
        return {id_: {"prompt": prompt, "own": own_, "central": central[id_][1]} for id_, (prompt, own_) in own.items()}

    def others(self, items: Items) -> dict[str, list[str]]:
        """Draw for each item the ids of the items whose answers it is compared with.

        They are the same in every language.

        Raises:
            LensflowError: there are too few items.
        """
        if len(items) <= self.distractors:
            raise LensflowError(
                f"{len(items)} items, but {self.distractors} answers of other items are needed; "
                "raise evaluation.limit or lower distractors"
            )
        return {
            id_: random.Random(f"{self.seed} {id_}").sample(
                [other for other in items if other != id_], self.distractors
            )
            for id_ in items
        }

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Score every answer after its prompt; return rows of `distractors` (ids) and `logprobs` (nats per answer).

        `logprobs` holds the own answer, the central answer (except in the central language), and the distractors, in
        this order.
        """
        others = self.others(items)
        answers = {id_: self._answers(items, id_, others[id_]) for id_ in items}
        requests = [_request(asker, items[id_]["prompt"], answer) for id_, found in answers.items() for answer in found]
        scored = iter(asker.loglikelihoods(requests))
        return [
            {"distractors": others[id_], "logprobs": [next(scored)[0] for _ in found]} for id_, found in answers.items()
        ]

    def _answers(self, items: Items, id_: str, others: Sequence[str]) -> list[str]:
        central = [items[id_]["central"]] if "central" in items[id_] else []
        return [items[id_]["own"], *central, *(items[other]["own"] for other in others)]

    def samples(self, rows: Sequence[Row], items: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Return the bits per byte of the answers, and the margins between the answers in bits per byte."""
        return [self._sample(id_, row, items) for id_, row in zip(items, rows, strict=True)]

    def _sample(self, id_: str, row: Row, items: Items) -> Row:
        answers = self._answers(items, id_, row["distractors"])
        sizes = [len(answer.encode()) for answer in answers]
        rates = [-logprob / math.log(2) / size for logprob, size in zip(row["logprobs"], sizes, strict=True)]
        own, others = rates[0], rates[-len(row["distractors"]) :]
        sample: dict[str, Any] = {"id": id_, "prompt": items[id_]["prompt"], "reference": answers[0]}
        sample |= {"distractors": row["distractors"], "bytes": sizes[0], "bits": own * sizes[0], "others": others}
        if "central" in items[id_]:
            sample["language_margin"] = rates[1] - own
        return sample | {"content_margin": sum(others) / len(others) - own, "own_first": own < min(others)}


def _request(asker: Asker, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt as the model sees it, and of an answer without its end token."""
    ids, inside = asker.tokenizer.encode_answered(asker.instruct(prompt), answer)
    start = inside.index(True)
    return ids[:start], ids[start:-1]


Config = References
