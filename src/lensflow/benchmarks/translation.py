"""Translations of a corpus, scored with chrF."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from lensflow.artifacts.texts import read_texts
from lensflow.benchmarks.base import Asker, Folders, FromCorpus, Items, Row, generated
from lensflow.errors import LensflowError
from lensflow.languages import english_name
from lensflow.schema.decoding import Decoding
from lensflow.schema.types import Language, PromptText

SLOT = "{text}"


class Translation(FromCorpus, Decoding):
    """Translations of a corpus's prompts into the cell's language; the prompt in that language is the reference.

    chrF (Popović, 2015; sacrebleu's chrF2) is computed per item, so that it has an interval and paired tests. The mean
    over items is not the corpus-level chrF, which adds up the n-grams of all items before it computes the F score.
    """

    kind: Literal["translation"]
    generates: ClassVar[bool] = True
    source: Language = "en"
    """The language of the source texts."""
    prompt: PromptText = f"Translate from {{source_name}} into {{language_name}}: {SLOT}"
    """The request to the model. `{text}` stands for the source text, `{source_name}` and `{language_name}` for the
    English names of the two languages."""

    @field_validator("prompt")
    @classmethod
    def _has_the_text(cls, value: str) -> str:
        if SLOT not in value:
            raise ValueError(f"must contain {SLOT}, where the source text stands")
        return value

    def reads(self, language: str) -> tuple[str, ...]:
        """Return the source language and the cell's language."""
        return (self.source, language)

    def prompted_in(self, language: str) -> str:
        """Return the source language."""
        return self.source

    def check(self, language: str, roots: Sequence[Path]) -> None:
        """Check that the source language and the cell's language differ."""
        if language == self.source:
            raise LensflowError(
                f"source: nothing is translated from '{language}' into '{language}'; name in the run which languages "
                "to translate into"
            )

    def items(self, folders: Folders, name: str, language: str, split: str = "items") -> Items:
        """Read sources with their references.

        Raises:
            LensflowError: a language lacks an item.
        """
        if split != "items":
            return {}
        sources, references = (
            {text.id: text.prompt for text in read_texts(folders.corpora / self.corpus / f"{code}.jsonl", [self.split])}
            for code in self.reads(language)
        )
        if missing := sorted(sources.keys() ^ references.keys()):
            lacking = self.source if missing[0] in references else language
            raise LensflowError(f"corpus {self.corpus}: no item '{missing[0]}' in {lacking}; use an aligned corpus")
        return {id_: {"source": text, "reference": references[id_]} for id_, text in sources.items()}

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Have every source translated."""
        names = {"{source_name}": english_name(self.source), "{language_name}": english_name(language)}
        template = self.prompt
        for slot, value in names.items():
            template = template.replace(slot, value)
        return generated(asker, {id_: template.replace(SLOT, item["source"]) for id_, item in items.items()}, self)

    def samples(self, rows: Sequence[Row], items: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Return the translations with their references and chrF, from 0 to 100."""
        return [
            {"id": id_, **row, "reference": item["reference"], "chrf": _chrf(row["answer"], item["reference"])}
            for (id_, item), row in zip(items.items(), rows, strict=True)
        ]


def _chrf(answer: str, reference: str) -> float:
    return float(_scorer().sentence_score(answer, [reference]).score)


@cache
def _scorer() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


Config = Translation
