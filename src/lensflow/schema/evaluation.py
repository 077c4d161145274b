"""The section `evaluation`: how checkpoints are evaluated."""

from typing import Literal

from lensflow.schema.extraction import Attention
from lensflow.schema.strict import Strict
from lensflow.schema.types import Count


class Evaluation(Strict):
    """How checkpoints are evaluated."""

    engine: str = "auto"
    """`auto`: vLLM generates, transformers does the rest. `vllm` generates and scores. `hf`: transformers does
    everything. Or the import path of an engine of your own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the model in evaluation."""
    attention: Attention = "sdpa"
    """Attention implementation of transformers; vLLM chooses its own."""
    limit: Count | None = None
    """Number of items per benchmark and language; the first ones are taken. The default is all."""
    max_model_len: Count = 4096
    """Tokens of a prompt and its answer that vLLM reserves, at most the model's number of positions."""
