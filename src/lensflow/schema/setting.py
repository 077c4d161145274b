"""The section `settings`: which languages are treated together."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lensflow.schema.strict import Strict
from lensflow.schema.types import Count, Language, Name


class Setting(Strict):
    """Which languages are treated together, and on which texts."""

    central: Language
    languages: tuple[Language, ...] = Field(strict=False)
    probing: Name = "embedded"
    training: Name = "embedded"
    space: Literal["post_norm", "pre_norm"] = "post_norm"  # code: the last entry of HF's hidden_states
    rank: Count | None = None  # paper, section 3.1: K-1, which is what null means
    probing_texts: Count | None = None  # the first so many train texts a language fit the subspaces; null: all

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.languages)) < len(self.languages):
            raise ValueError("languages: a language stands there twice; remove it")
        if len(self.languages) < 2:
            raise ValueError("languages: at least two are needed, the central one and a target")
        if self.central not in self.languages:
            raise ValueError(f"central language '{self.central}' is missing from languages; add it")
        if self.rank is not None and self.rank > len(self.languages) - 1:
            raise ValueError(f"rank: {self.rank} is more than the number of languages less one; lower it")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The languages other than the central one, in the order of the configuration."""
        return tuple(language for language in self.languages if language != self.central)
