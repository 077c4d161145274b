"""A judge that rates answers."""

from typing import Annotated

from pydantic import Field

from lensflow.schema.strict import Strict
from lensflow.schema.types import URL_PATTERN, Count, NonNegative, Positive


class Judge(Strict):
    """An OpenAI-compatible endpoint that rates answers."""

    model: str
    base_url: str = Field(default="https://api.openai.com/v1", pattern=URL_PATTERN)
    key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the key; unset: none is sent
    temperature: NonNegative = 0.0  # Zheng et al. (2023)
    max_tokens: Count = 2048  # of a verdict; the same
    timeout: Positive = 120.0  # seconds a request
    retries: Annotated[int, Field(ge=0)] = 4
    requests_per_minute: Positive | None = None  # null: no limit
    parallel: Count = 4  # requests at a time
