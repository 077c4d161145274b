"""Answers to held-out prompts of a corpus."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from lensflow.benchmarks.base import Asker, FromCorpus, Items, Row, generated
from lensflow.schema.decoding import Decoding


class Generation(FromCorpus, Decoding):
    """Answers to held-out prompts of a corpus, judged by language, repetition, copying and emptiness."""

    kind: Literal["generation"]
    generates: ClassVar[bool] = True

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Have every prompt answered."""
        return generated(asker, {id_: item["prompt"] for id_, item in items.items()}, self)


Config = Generation
