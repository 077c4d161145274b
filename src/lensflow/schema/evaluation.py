"""The section `evaluation`: how checkpoints are evaluated."""

from typing import Literal

from lensflow.schema.extraction import Attention
from lensflow.schema.strict import Strict
from lensflow.schema.types import Count


class Evaluation(Strict):
    """How checkpoints are evaluated."""

    engine: str = "auto"  # vllm, hf, one's own by its import path, or auto: vllm generates, hf does the rest
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Attention = "sdpa"  # of transformers; vLLM chooses its own
    limit: Count | None = None  # items a cell; null: all
    max_model_len: Count = 4096  # tokens of a prompt and its answer
    enforce_eager: bool = False  # vLLM without compiled graphs on a GPU, which edits of blocks need
