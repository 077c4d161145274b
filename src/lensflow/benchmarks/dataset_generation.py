"""Answers to the prompts of a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from lensflow.artifacts.items import text_at
from lensflow.benchmarks.base import Asker, FromDataset, Items, Row, generated
from lensflow.schema.decoding import Decoding
from lensflow.schema.types import Language


class FromPrompts(FromDataset, Decoding):
    """A benchmark on the prompts of a data set, which may ask for answers in another language."""

    generates: ClassVar[bool] = True
    prompt: str = "prompt"
    """Column of the prompt, or a path into a column, such as `turns.0`."""
    prompt_language: Language | None = None
    """Language of all prompts; the answers should be in the cell's language. The default is the cell's language."""

    def texts(self) -> tuple[str, ...]:
        """Return the column with the prompt."""
        return (self.prompt,)

    def prompted_in(self, language: str) -> str:
        """See `Benchmark.prompted_in`."""
        return self.prompt_language or language

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Have every prompt answered."""
        return generated(asker, {id_: text_at(item, self.prompt, f"item '{id_}'") for id_, item in items.items()}, self)


class DatasetGeneration(FromPrompts):
    """Answers to the prompts of a data set (Language Confusion Benchmark: Marchisio et al., 2024)."""

    kind: Literal["dataset_generation"]


Config = DatasetGeneration
