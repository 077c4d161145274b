"""Likelihood of held-out prompts of a corpus."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lensflow.benchmarks.base import Asker, FromCorpus, Items, Row


class Likelihood(FromCorpus):
    """Negative log-likelihood of held-out prompts and next-token probability of the target script."""

    kind: Literal["likelihood"]

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Score every prompt."""
        prompts = [item["prompt"] for item in items.values()]
        encoded = [asker.tokenizer.encode_with_span(prompt) for prompt in prompts]
        rows = asker.read([ids for ids, _ in encoded], [inside for _, inside in encoded])
        return [{"prompt": prompt, **row} for prompt, row in zip(prompts, rows, strict=True)]


Config = Likelihood
