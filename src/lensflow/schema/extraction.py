"""The section `extraction`: how texts are turned into hidden states."""

from typing import Annotated, Literal

from pydantic import Field

from lensflow.schema.strict import Strict
from lensflow.schema.types import Count

# What stands for a text: the state of its last token (paper) or the mean over its tokens.
Pooling = Literal["last", "mean"]
# Of transformers. That of flash-attn lacks masks for texts packed into one sequence; sdpa takes such kernels itself.
Attention = Literal["sdpa", "eager"]
Dtype = Literal["float32", "bfloat16", "float16"]


class Extraction(Strict):
    """How texts are turned into hidden states, the same for every setting."""

    max_tokens: Annotated[int, Field(ge=2)] = 128  # code: 64 for probing, 128 for training
    truncation_side: Literal["left", "right"] = "left"  # left keeps the end of the prompt; code: right
    pooling: Pooling = "last"
    # Token states entering the last so many layers are cached for training; 0 for none.
    trainable_layers: Annotated[int, Field(ge=0)] = 2
    batch_tokens: Count = 512  # padded tokens a forward pass; does not change results beyond rounding
    # resident holds the whole backbone; stream one layer, read from its shards; both give the same bits
    memory: Literal["resident", "stream"] = "resident"
    # That the layers run in; null: the checkpoint's own; code: float16 to probe, bfloat16 to train.
    dtype: Dtype | None = None
    attention: Attention = "sdpa"  # of extraction, and of training on its states
