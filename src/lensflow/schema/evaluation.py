"""The section `evaluation`: how checkpoints are evaluated."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lensflow.schema.extraction import Attention
from lensflow.schema.strict import Strict
from lensflow.schema.types import Count


class Sample(Strict):
    """A random choice of a cell's items: those that Python's `random.seed(seed); random.sample(items, n)` draws.

    The published evaluation draws its items so (NLU_eval/src/load.py, 31-32: 1000 items, seed 112).
    """

    n: Count  # a cell with no more items keeps all of them, in their own order
    seed: Annotated[int, Field(ge=0)]


class Evaluation(Strict):
    """How checkpoints are evaluated."""

    engine: str = "auto"  # vllm, hf, one's own by its import path, or auto: vllm generates, hf does the rest
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Attention = "sdpa"  # of transformers; vLLM chooses its own
    limit: Count | None = None  # the first so many items of a cell; null: all
    sample: Sample | None = None  # so many items of a cell, drawn at random; code: {n: 1000, seed: 112}
    max_model_len: Count = 4096  # tokens of a prompt and its answer

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.limit is not None and self.sample is not None:
            raise ValueError("limit and sample both choose the items of a cell; remove one")
        return self
