"""How answers are generated."""

from typing import Annotated

from pydantic import AfterValidator, Field

from lensflow.schema.strict import Strict
from lensflow.schema.types import Count, NonNegative, Seed, without_escapes


class Decoding(Strict):
    """How answers are generated."""

    max_new_tokens: Count = 32
    """Longest answer in tokens."""
    max_characters: Count | None = None
    """Longest answer in characters, so that all languages get the same length whatever their tokenizer. An answer that
    only repeats itself ends earlier. The default is no limit."""
    stop: tuple[Annotated[str, Field(min_length=1), AfterValidator(without_escapes)], ...] = Field(
        default=(), strict=False
    )
    """Texts that end an answer."""
    temperature: NonNegative = 0.0
    """Temperature of sampling; 0 is greedy decoding."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: samples only from the likeliest tokens, which together have this probability."""
    seed: Seed = 0
    """Seed of sampling."""
