"""Decoder stacks without their output layer, whole or only the top layers, for any family that transformers knows.

Nothing here is a list of families: layers are found in the model's structure, and a stack of the top layers is the
model's own class with a shorter configuration, so that masks, rotary embeddings and layer types stay the family's.
"""

import logging
import re
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
from lensflow.artifacts.weights import WeightFiles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU = torch.device("cpu")
LOG = logging.getLogger(__name__)


def device_of(gpus: int) -> torch.device:
    """Return the device of a stage that was given so many GPUs.

    Raises:
        LensflowError: it was given one, and there is none.
    """
    if gpus and not torch.cuda.is_available():
        raise LensflowError(f"--gpus {gpus}: this machine has no CUDA device that torch can use; set resources.gpus: 0")
    return torch.device("cuda") if gpus else CPU


def import_transformers() -> Any:
    """Import transformers without scikit-learn and SciPy, which it would load: a second and 100 MB of every stage.

    It needs them for assisted generation and for losses of object detection.
    """
    import transformers.utils

    transformers.utils.is_sklearn_available = transformers.utils.is_scipy_available = lambda: False
    return transformers


def attention_of(config: Any, wanted: Attention) -> Attention:
    """Return the implementation of attention for a family: the wanted one, or `eager` if the family has no sdpa.

    Args:
        config: transformers' configuration of the model.
        wanted: what the user asked for.
    """
    auto = import_transformers().AutoModelForCausalLM
    family = auto._model_mapping.get(type(config), None)
    if wanted != "sdpa" or family is None or family._supports_sdpa:
        return wanted
    LOG.warning("model type '%s' has no sdpa attention; eager is taken", config.model_type)
    return "eager"


def load_model(checkpoint: Path, dtype: torch.dtype | str, attention: Attention) -> "PreTrainedModel":
    """Load a checkpoint's whole model; transformers would fill a weight that is missing with random numbers.

    Args:
        checkpoint: folder of the checkpoint.
        dtype: of the weights in memory; "auto" for the checkpoint's own.
        attention: transformers' implementation.

    Raises:
        LensflowError: transformers cannot load it, or a weight is missing.
    """
    transformers = import_transformers()
    try:
        attention = attention_of(transformers.AutoConfig.from_pretrained(checkpoint), attention)
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )
    except Exception as error:  # a family's own code can fail in any way
        raise LensflowError(f"{checkpoint}: transformers cannot load it ({last_line(error)})") from error
    if missing := sorted(report["missing_keys"]):
        raise LensflowError(
            f"{checkpoint}: weight '{missing[0]}' is missing (of {len(missing)}); give a whole checkpoint, "
            "whose tensors have the names that transformers saves"
        )
    loaded: PreTrainedModel = model
    return loaded


def load_decoder(
    checkpoint: Path, dtype: torch.dtype | None = None, device: torch.device = CPU, attention: Attention = "sdpa"
) -> "PreTrainedModel":
    """Load a checkpoint's decoder (embeddings, layers, final norm), frozen and without its output layer.

    Args:
        checkpoint: folder of the checkpoint.
        dtype: of the weights in memory; None for the checkpoint's own.
        device: that it runs on.
        attention: transformers' implementation.

    Raises:
        LensflowError: the checkpoint does not load, or has no stack of decoder layers that can be found.
    """
    decoder = load_model(checkpoint, dtype or "auto", attention).base_model
    decoder.requires_grad_(False).eval()
    layers_of(decoder)
    return decoder.to(device)


def layers_of(decoder: "PreTrainedModel") -> nn.ModuleList:
    """Return the decoder layers: the one list of modules that is as long as the configuration says.

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


_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")  # keys of a configuration with a value per layer
# Buffers that older versions of transformers saved with the weights, and that are computed now.
_LEFT_OVER = re.compile(r"\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|masked_bias|position_ids|attention\.bias)$")


def _is_left_over(decoder: "PreTrainedModel", name: str) -> bool:
    """Return whether a tensor of a checkpoint is a buffer that today's model computes, or that the family ignores."""
    ignored = decoder._keys_to_ignore_on_load_unexpected or ()
    known = bool(_LEFT_OVER.search(name)) or any(re.search(pattern, name) for pattern in ignored)
    return known and name not in decoder.state_dict()


def _cut_config(checkpoint: Path, count: int) -> tuple[Any, int]:
    """Return the configuration of a decoder of only the top `count` layers, and the depth of the whole one.

    Raises:
        LensflowError: the model has not so many layers.
    """
    config = import_transformers().AutoConfig.from_pretrained(checkpoint)
    depth = config.num_hidden_layers
    if not 1 <= count <= depth:
        raise LensflowError(f"layers: {count} of a model that has {depth}; choose between 1 and {depth}")
    config.num_hidden_layers = count
    for key in _PER_LAYER:
        if getattr(config, key, None):
            setattr(config, key, list(getattr(config, key)[depth - count :]))
    config.vocab_size, config.pad_token_id = 1, None  # the embeddings are not used
    return config, depth


def check_decoder(checkpoint: Path) -> None:
    """Check without weights that a checkpoint's family has a stack of decoder layers.

    Raises:
        LensflowError: transformers does not know the family, or it has no such stack.
    """
    transformers = import_transformers()
    with torch.device("meta"), _one_line(checkpoint):
        config = transformers.AutoConfig.from_pretrained(checkpoint)
        layers_of(transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").base_model)


def check_top_layers(checkpoint: Path, count: int) -> None:
    """Check without weights that the tensors of the top layers are those that `load_top_layers` needs.

    Raises:
        LensflowError: they are not, as in a mixture of experts, whose weights transformers fuses.
    """
    files = WeightFiles(checkpoint)
    config, depth = _cut_config(checkpoint, count)
    with torch.device("meta"), _one_line(checkpoint):
        decoder = import_transformers().AutoModel.from_config(config, attn_implementation="eager")
    there = {*files.top_layers(depth, count), *files.final_norm()}
    needed = {name for name in decoder.state_dict() if not name.startswith("embed")}
    odd = sorted({name for name in there if not _is_left_over(decoder, name)} ^ needed)
    if odd:
        raise LensflowError(f"{checkpoint}: {_unfit(config, odd[0])}")


def check_all_weights(checkpoint: Path) -> None:
    """Check without weights that a checkpoint has every weight under the name that fine-tuning knows it by.

    Raises:
        LensflowError: it has not.
    """
    transformers, files = import_transformers(), WeightFiles(checkpoint)
    with torch.device("meta"), _one_line(checkpoint):
        config = transformers.AutoConfig.from_pretrained(checkpoint)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if odd := next((name for name, _ in model.named_parameters() if name not in files.location), None):
        raise LensflowError(f"{checkpoint}: {_unfit(config, odd)}")


def _unfit(config: Any, name: str) -> str:
    """Say which tensor keeps a family from being trained."""
    counts = (getattr(config, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts"))
    kind = "mixtures of experts are" if any(isinstance(count, int) and count > 1 for count in counts) else "it is"
    return (
        f"model type '{config.model_type}' cannot be trained: tensor '{name}' does not fit ({kind} not supported); "
        "evaluate it with method base, or train another family"
    )


@contextmanager
def _one_line(checkpoint: Path) -> Iterator[None]:
    """Say in one line why transformers cannot build a model."""
    try:
        yield
    except LensflowError as error:
        raise LensflowError(f"{checkpoint}: {error}") from None
    except Exception as error:  # a family's own code can fail in any way
        reason = " ".join(str(error).split())[:200]
        raise LensflowError(
            f"{checkpoint}: transformers cannot build this model ({reason}); this family is not supported"
        ) from None


def load_top_layers(
    checkpoint: Path, count: int, dtype: torch.dtype, device: torch.device = CPU, attention: Attention = "sdpa"
) -> tuple["PreTrainedModel", dict[str, str]]:
    """Build a decoder of only the top `count` layers and the final norm; nothing else is read.

    It is called with `inputs_embeds`, the states that enter its first layer.

    Args:
        checkpoint: folder of the backbone.
        count: number of layers.
        dtype: of the weights in memory.
        device: that it runs on.
        attention: transformers' implementation.

    Returns:
        The decoder, its final norm frozen, and the checkpoint's name of every parameter of its layers.

    Raises:
        LensflowError: the checkpoint's tensors do not fit the family's decoder.
    """
    transformers = import_transformers()
    from transformers.initialization import no_init_weights

    config, depth = _cut_config(checkpoint, count)
    with no_init_weights():  # random ones of a large model take many seconds
        decoder = transformers.AutoModel.from_config(
            config, dtype=dtype, attn_implementation=attention_of(config, attention)
        )
    files = WeightFiles(checkpoint)
    names = {short: name for short, name in files.top_layers(depth, count).items() if not _is_left_over(decoder, short)}
    state = {short: files.read(name).to(dtype) for short, name in {**names, **files.final_norm()}.items()}
    result = decoder.load_state_dict(state, strict=False)
    missing = [name for name in result.missing_keys if not name.startswith("embed")]
    if missing or result.unexpected_keys:
        odd = (missing + result.unexpected_keys)[0]
        family = config.model_type
        raise LensflowError(f"model type '{family}': tensor '{odd}' does not fit; this family is not supported")
    decoder.requires_grad_(False).eval()  # no dropout: the states must be those that were cached
    layers_of(decoder).requires_grad_(True)
    return decoder.to(device), names
