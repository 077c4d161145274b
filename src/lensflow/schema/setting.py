"""The section `settings`: which languages are used together."""

from itertools import combinations
from typing import Literal, Self

from pydantic import Field, model_validator

from lensflow.languages import are_one
from lensflow.schema.strict import Strict
from lensflow.schema.types import Count, Language, Name


class Setting(Strict):
    """Which languages are used together, and on which texts."""

    central: Language
    """The language that the model knows best and that must not get worse; one of `languages`."""
    languages: tuple[Language, ...] = Field(strict=False)
    """The central language and its targets, at least two."""
    probing: Name = "embedded"
    """Corpus that the language subspaces are fitted on."""
    training: Name = "embedded"
    """Corpus that methods train on."""
    space: Literal["post_norm", "pre_norm"] = "post_norm"
    """`post_norm`: states of the top layer after the final norm, HF's last hidden state (published code). `pre_norm`:
    states before the final norm."""
    rank: Count | None = None
    """Dimensions of the language-specific subspace. The default is K-1 for K languages (paper, section 3.1)."""
    probing_texts: Count | None = None
    """Number of train texts per language that fit the subspaces; the first ones are taken. The default is all."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.languages)) < len(self.languages):
            raise ValueError("languages: a language occurs twice; remove it")
        if same := next((pair for pair in combinations(self.languages, 2) if are_one(*pair)), None):
            raise ValueError(f"languages: '{same[0]}' and '{same[1]}' are one language; remove one")
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
