"""How answers are generated."""

from typing import Annotated

from pydantic import Field

from lensflow.schema.strict import Strict
from lensflow.schema.types import Count, NonNegative


class Decoding(Strict):
    """How answers are generated."""

    max_new_tokens: Count = 32
    # Room of an answer in characters, so that languages with poor tokenizers get as much as others; null: tokens alone.
    # An answer that only repeats itself ends before.
    max_characters: Count | None = None
    stop: tuple[str, ...] = Field(default=(), strict=False)
    temperature: NonNegative = 0.0  # 0: greedy
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0  # of sampling
