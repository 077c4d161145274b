"""Answers to held-out prompts of a corpus."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from lensflow.artifacts.texts import read_texts
from lensflow.benchmarks.base import Asker, Folders, FromCorpus, Items, Row, generated
from lensflow.schema.decoding import Decoding


class Generation(FromCorpus, Decoding):
    """Answers to held-out prompts of a corpus, judged for language, repetition, copying and emptiness."""

    kind: Literal["generation"]
    generates: ClassVar[bool] = True

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Have every prompt answered."""
        return generated(asker, {id_: item["prompt"] for id_, item in items.items()}, self)

    def references(self, folders: Folders, language: str) -> Mapping[str, str]:
        """Read the reference answers of the split. A corpus may have none."""
        texts = read_texts(folders.corpora / self.corpus / f"{language}.jsonl", [self.split])
        return {text.id: text.answer for text in texts if text.answer}


Config = Generation
