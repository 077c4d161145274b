"""Decoder stacks without their output layer, for any family that transformers knows.

The layers are found by the structure of the model.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lensflow.errors import LensflowError
from lensflow.models.engines.process import last_line
from lensflow.schema.extraction import Attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds to import

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU = torch.device("cpu")
LOG = logging.getLogger(__name__)


def device_of(gpus: int) -> torch.device:
    """Return the device of a stage that was given this number of GPUs.

    Raises:
        LensflowError: the machine has fewer GPUs.
    """
    found = torch.cuda.device_count() if gpus else 0
    if found < gpus:
        raise LensflowError(
            f"--gpus {gpus}: torch finds {found} CUDA devices on this machine; set resources.gpus: {found}"
        )
    return torch.device("cuda") if gpus else CPU


def import_transformers() -> Any:
    """Import transformers without scikit-learn and SciPy, which save a second and 100 MB in every stage.

    transformers needs them only for assisted generation and for losses of object detection.
    """
    import transformers.utils

    transformers.utils.is_sklearn_available = transformers.utils.is_scipy_available = lambda: False
    return transformers


def config_of(checkpoint: Path) -> Any:
    """Return transformers' configuration of a checkpoint. What the model returns is set here, not by config.json."""
    returned = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
    return import_transformers().AutoConfig.from_pretrained(checkpoint, **returned)


def attention_of(config: Any, wanted: Attention) -> Attention:
    """Return the attention implementation for a family: the wanted one, or `eager` if the family has no sdpa.

    Args:
        config: transformers' configuration of the model.
        wanted: the implementation that the user asked for.
    """
    auto = import_transformers().AutoModelForCausalLM
    family = auto._model_mapping.get(type(config), None)
    if wanted != "sdpa" or family is None or family._supports_sdpa:
        return wanted
    LOG.warning("model type '%s' has no sdpa attention; eager is taken", config.model_type)
    return "eager"


def load_model(checkpoint: Path, dtype: torch.dtype | str, attention: Attention) -> "PreTrainedModel":
    """Load the whole model of a checkpoint and check its weights: transformers fills missing ones with random numbers.

    Args:
        checkpoint: folder of the checkpoint.
        dtype: precision of the weights in memory; "auto" for the checkpoint's own.
        attention: attention implementation of transformers.

    Raises:
        LensflowError: transformers cannot load the checkpoint, or a weight is missing or has another shape.
    """
    try:
        config = config_of(checkpoint)
        attention = attention_of(config, attention)
        model, report = import_transformers().AutoModelForCausalLM.from_pretrained(
            checkpoint,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # a family's own code can fail in any way
        raise LensflowError(f"{checkpoint}: transformers cannot load it ({last_line(error)})") from error
    if missing := sorted(report["missing_keys"]):
        raise LensflowError(
            f"{checkpoint}: weight '{missing[0]}' is missing (of {len(missing)}); give a whole checkpoint, "
            "whose tensors have the names that transformers saves"
        )
    if mismatched := sorted(report["mismatched_keys"], key=str):
        name, found, wanted = mismatched[0]
        raise LensflowError(
            f"{checkpoint}: weight '{name}' has the shape {tuple(found)}, but config.json requires {tuple(wanted)}; "
            "give files that belong together"
        )
    loaded: PreTrainedModel = model
    return loaded


def load_decoder(
    checkpoint: Path, dtype: torch.dtype | None = None, device: torch.device = CPU, attention: Attention = "sdpa"
) -> "PreTrainedModel":
    """Load a checkpoint's decoder (embeddings, layers, final norm), frozen and without its output layer.

    Args:
        checkpoint: folder of the checkpoint.
        dtype: precision of the weights in memory; None for the checkpoint's own.
        device: the device to run on.
        attention: attention implementation of transformers.

    Raises:
        LensflowError: the checkpoint does not load, or no stack of decoder layers was found.
    """
    decoder = decoder_of(load_model(checkpoint, dtype or "auto", attention))
    decoder.requires_grad_(False).eval()
    layers_of(decoder)
    return decoder.to(device)


def decoder_of(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return the text decoder of a causal language model, which may also contain other encoders."""
    decoder: PreTrainedModel = model.get_decoder()
    if not hasattr(decoder, "config"):  # ModernBERT's output layer has this name
        return model.base_model
    return model.model if decoder is model else decoder  # Llama 4's text model names no other part


def layers_of(decoder: "PreTrainedModel") -> nn.ModuleList:
    """Return the decoder layers: the only list of modules whose length is the number of layers in the configuration.

    Raises:
        LensflowError: there is not exactly one such list.
    """
    depth = decoder.config.num_hidden_layers
    found = [m for m in decoder.children() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(found) != 1:
        raise LensflowError(
            f"model type '{decoder.config.model_type}': no single stack of {depth} decoder layers; "
            "this family is not supported"
        )
    return found[0]


# Keys of configurations whose layers divide a sequence by the places of its tokens: two texts in it would meet.
_BY_PLACE = ("attention_chunk_size", "index_topk", "index_block_size", "indexer_budget", "compress_ratios")


def may_pack(config: Any) -> bool:
    """Return whether positions that start again at 0 are enough to separate several texts in one sequence."""
    return not any(getattr(config, key, None) for key in _BY_PLACE)


@contextmanager
def one_line(checkpoint: Path, what: str = "build") -> Iterator[None]:
    """Return in one line why transformers cannot build or run a model."""
    try:
        yield
    except LensflowError as error:
        raise LensflowError(f"{checkpoint}: {error}") from None
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a family's own code can fail in any way
        reason = " ".join(str(error).split())[:200]
        raise LensflowError(
            f"{checkpoint}: transformers cannot {what} this model ({reason}); this family is not supported"
        ) from None
