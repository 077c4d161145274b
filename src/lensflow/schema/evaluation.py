"""The section `evaluation`: how checkpoints are evaluated."""

from typing import Literal, Self

from pydantic import model_validator

from lensflow.schema.extraction import Attention
from lensflow.schema.strict import Strict
from lensflow.schema.types import Count, Seed


class Sample(Strict):
    """A random choice of a cell's items: those that Python's `random.seed(seed); random.sample(items, n)` draws.

    The published evaluation draws its items in this way (NLU_eval/src/load.py, 31-32: 1000 items, seed 112).
    """

    n: Count
    """Number of items per benchmark and language. A cell with fewer items keeps all of them, in their own order."""
    seed: Seed
    """Seed of Python's generator."""


class Evaluation(Strict):
    """How checkpoints are evaluated."""

    engine: str = "auto"
    """`auto`: vLLM generates, and transformers does the rest. `vllm`: vLLM generates and scores. `hf`: transformers
    does everything. You can also name your own engine by its import path."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the model in evaluation. On a processor without AVX-512, AMX or Arm's BF16, vLLM is several times
    slower in bfloat16 than in float32."""
    attention: Attention = "sdpa"
    """Attention implementation of transformers; vLLM chooses its own."""
    limit: Count | None = None
    """Number of items per benchmark and language; the first ones are taken. The default is all."""
    sample: Sample | None = None
    """Number of items per benchmark and language, drawn at random, instead of the first ones. Published code:
    `{n: 1000, seed: 112}`."""
    max_model_len: Count = 4096
    """Tokens that vLLM reserves for a prompt and its answer, at most the model's number of positions."""
    enforce_eager: bool = False
    """Runs vLLM without compiled graphs on a GPU. Methods that edit blocks need this."""

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.limit is not None and self.sample is not None:
            raise ValueError("limit and sample both choose the items of a cell; remove one")
        return self
