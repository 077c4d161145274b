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
    """How texts are turned into hidden states. It is the same for every setting."""

    max_tokens: Annotated[int, Field(ge=2)] = 128
    """Longest prompt in tokens; longer ones are truncated. Published code: 64 to probe, 128 to train."""
    truncation_side: Literal["left", "right"] = "left"
    """`left` keeps the end of the prompt, where the answer begins. Published code: `right`."""
    pooling: Pooling = "last"
    """What stands for a text: the state of its `last` token (paper), or the `mean` over its tokens."""
    trainable_layers: Annotated[int, Field(ge=0)] = 2
    """Number of top layers whose input states are kept for all tokens. No variant of Lens can train more layers; 0
    keeps none."""
    batch_tokens: Count = 512
    """Padded tokens per forward pass; results change only by rounding."""
    memory: Literal["resident", "stream"] = "resident"
    """`resident` holds the whole backbone in memory. `stream` holds one layer at a time and reads it from the weight
    files. Both give the same bits."""
    dtype: Dtype | None = None
    """Precision of the layers and of the stored states. The default is the checkpoint's own. Published code:
    float16 to probe, bfloat16 to train."""
    attention: Attention = "sdpa"
    """Attention implementation in extraction and in training on its states."""
