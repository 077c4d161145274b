"""A judge that rates answers."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from lensflow.schema.strict import Strict
from lensflow.schema.types import URL_PATTERN, Count, NonNegative, Positive


class Judge(Strict):
    """An OpenAI-compatible endpoint that rates answers."""

    model: str
    """Name of the judge at the endpoint, with its version."""
    base_url: str = Field(default="https://api.openai.com/v1", pattern=URL_PATTERN)
    """The endpoint up to `/v1`, without a user or key."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key. If it is unset, no key is sent."""
    temperature: NonNegative = 0.0
    """Temperature of a verdict (Zheng et al., 2023)."""
    max_tokens: Count = 2048
    """Longest verdict in tokens (Zheng et al., 2023)."""
    extra: dict[str, Any] = {}
    """More keys of a request, such as `top_p`, or `chat_template_kwargs: {enable_thinking: false}` for vLLM."""
    timeout: Positive = 120.0
    """Seconds after which a request counts as lost."""
    retries: Annotated[int, Field(ge=0)] = 4
    """Number of retries after a request that failed."""
    requests_per_minute: Positive | None = None
    """Most requests per minute, retries included. The default is no limit."""
    parallel: Count = 4
    """Number of requests at a time."""

    @field_validator("extra")
    @classmethod
    def _is_more(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := [key for key in ("model", "messages", "temperature", "max_tokens", "stream") if key in value]:
            raise ValueError(f"{taken[0]} is not one of the keys that can be added; see the keys of judge")
        return value
