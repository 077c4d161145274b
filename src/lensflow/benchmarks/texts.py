"""Likelihood of plain texts, outside of any prompt."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lensflow.benchmarks.base import Asker, FromCorpus, Items, Row


class Texts(FromCorpus):
    """Bits per byte of a corpus's prompts, read as plain texts: no template, no instruction."""

    kind: Literal["texts"]

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Score every text; return rows of `logprob`, nats per text."""
        tokenizer = asker.tokenizer
        start = [tokenizer.prefix]
        texts = [
            tokenizer.ids_of(tokenizer.literal(item["prompt"]), add_special_tokens=False) for item in items.values()
        ]
        return [{"logprob": logprob} for logprob, _ in asker.loglikelihoods([(start, text) for text in texts])]

    def samples(self, rows: Sequence[Row], items: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Return the texts with their numbers of bits and bytes."""
        texts = [item["prompt"] for item in items.values()]
        return [
            {"id": id_, "text": text, "bytes": len(text.encode()), "bits": -row["logprob"] / math.log(2)}
            for id_, text, row in zip(items, texts, rows, strict=True)
        ]


Config = Texts
