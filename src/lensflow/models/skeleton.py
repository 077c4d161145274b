"""Parts of a decoder: its top layers, or one layer after the other; for any family that transformers knows.

Nothing here is a list of families. All layers are there, but most have no weights and are left out of a forward pass,
so that masks, rotary embeddings and whatever depends on a layer's index stay the family's.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.models.conversion import Conversion
from lensflow.models.loading import CPU, attention_of, decoder_of, import_transformers, layers_of, one_line
from lensflow.schema.extraction import Attention

# Buffers that older versions of transformers saved with the weights, and that are computed now.
_LEFT_OVER = re.compile(r"\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|masked_bias|position_ids|attention\.bias)$")


class Skeleton:
    """A checkpoint's causal language model without weights, into which parts of them can be read.

    Args:
        checkpoint: folder.
        dtype: of weights that are read; None for the checkpoint's own.
        attention: transformers' implementation.

    Attributes:
        model: the whole model, frozen.
        decoder: the text decoder in it.
        layers: of the decoder.
        conversion: between the model's tensors and the checkpoint's.

    Raises:
        LensflowError: transformers cannot build the family, or it has no single stack of decoder layers.
    """

    def __init__(self, checkpoint: Path, dtype: torch.dtype | None = None, attention: Attention = "sdpa") -> None:
        from accelerate import init_empty_weights

        transformers, files = import_transformers(), WeightFiles(checkpoint)
        with one_line(checkpoint):
            config = transformers.AutoConfig.from_pretrained(checkpoint)
            own = config.dtype or config.get_text_config().dtype or files.read(next(iter(files.location))).dtype
            attention = attention_of(config, attention)
            with init_empty_weights(include_buffers=False):  # buffers are small, and computed rather than read
                self.model = transformers.AutoModelForCausalLM.from_config(
                    config, dtype=dtype or own, attn_implementation=attention
                )
            self.decoder = decoder_of(self.model.requires_grad_(False).eval())
            self.layers = layers_of(self.decoder)
        self.conversion = Conversion(self.model, files)
        (self._prefix,) = (f"{name}." for name, part in self.model.named_modules() if part is self.decoder)
        (stack,) = (name for name, part in self.decoder.named_children() if part is self.layers)
        self._stack = f"{self._prefix}{stack}."
        self._more: tuple[None, ...] | None = None  # what layers return with their states; not known yet
        self._are_tuples = False

    def check(self, layers: Iterable[int]) -> None:
        """Check without weights that the checkpoint has all tensors of some layers, and no others.

        Raises:
            LensflowError: it has not.
        """
        for index in layers:
            stem = f"{self._stack}{index}."
            odd = [key for key in self.conversion.unknown if key.startswith(stem) and not self._is_left_over(key)]
            if odd := self.conversion.missing(self._keys(stem)) or sorted(odd):
                family = self.model.config.model_type
                raise LensflowError(
                    f"model type '{family}': tensor '{odd[0]}' does not fit; this family is not supported"
                )

    def _is_left_over(self, key: str) -> bool:
        """Return whether a tensor of a checkpoint is a buffer that is computed now, or that the family ignores."""
        ignored = self.model._keys_to_ignore_on_load_unexpected or ()
        return bool(_LEFT_OVER.search(key)) or any(re.search(pattern, key) for pattern in ignored)

    def load_outside(self, but: Collection[str] = ()) -> None:
        """Read what the decoder has outside of its layers, except for some of its tensors."""
        left_out = {f"{self._prefix}{name}" for name in but}
        keys = set(self._keys(self._prefix)) - set(self._keys(self._stack)) - left_out
        self.conversion.load(keys)

    def load_layer(self, index: int) -> None:
        """Read a layer."""
        self.conversion.load(set(self._keys(f"{self._stack}{index}.")))

    def drop_layer(self, index: int) -> None:
        """Forget a layer's weights."""
        layer = self.layers[index]
        _put(layer, {name: parameter.to("meta") for name, parameter in layer.named_parameters()})

    def read(self, name: str) -> Tensor:
        """Read one of the decoder's tensors, memory-mapped and in the checkpoint's precision."""
        return self.conversion.read(f"{self._prefix}{name}")

    def to_checkpoint(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return some of the decoder's tensors under the checkpoint's names and in its shapes."""
        return self.conversion.to_checkpoint({f"{self._prefix}{name}": tensor for name, tensor in tensors.items()})

    def to(self, device: torch.device) -> None:
        """Move the decoder's weights, as far as they are there, and its buffers."""
        there = {name: parameter for name, parameter in self.decoder.named_parameters() if not parameter.is_meta}
        _put(self.decoder, {name: parameter.to(device) for name, parameter in there.items()})
        for module in self.decoder.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))

    def skip(self, index: int) -> None:
        """Leave a layer out of forward passes."""
        layer = self.layers[index]

        def pass_on(*args: Any, **kwargs: Any) -> Any:
            if self._more is None:
                self.note(self._tried(layer, args, kwargs))
            states = args[0] if args else kwargs["hidden_states"]
            return (states, *(self._more or ())) if self._are_tuples else states

        layer.forward = pass_on

    def keep(self, index: int) -> None:
        """Let forward passes run a layer that was left out."""
        del self.layers[index].forward

    def note(self, output: Any) -> None:
        """Learn from a layer's output what `skip` has to imitate.

        Raises:
            LensflowError: layers hand each other more than their states.
        """
        self._are_tuples = isinstance(output, tuple | list)
        parts = tuple(output[1:]) if self._are_tuples else ()
        self._more = tuple(None for _ in parts)
        # Attention weights (n, heads, T, T) are only returned to be looked at.
        if any(part is not None and getattr(part, "shape", ())[2:] != 2 * output[0].shape[1:2] for part in parts):
            family = self.model.config.model_type
            raise LensflowError(f"model type '{family}': layers hand more than their states to the next one")

    @torch.no_grad()
    def _tried(self, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        """What a layer without weights returns; it is tried with zeros."""
        device = (args[0] if args else kwargs["hidden_states"]).device
        empty = {name: parameter for name, parameter in layer.named_parameters() if parameter.is_meta}
        _put(layer, {name: torch.zeros_like(parameter, device=device) for name, parameter in empty.items()})
        try:
            return type(layer).forward(layer, *args, **kwargs)
        finally:
            _put(layer, empty)

    def _keys(self, prefix: str) -> list[str]:
        return [key for key in self.model.state_dict() if key.startswith(prefix)]


def _put(module: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Give a module other parameters, also in another place or shape."""
    for name, parameter in parameters.items():
        path, _, own = name.rpartition(".")
        module.get_submodule(path)._parameters[own] = nn.Parameter(parameter.detach(), requires_grad=False)


def _encoders() -> list[Collection[str]]:
    """Return model types that also fill masks or translate: their causal models are halves, or made for other tasks."""
    from transformers.models.auto import modeling_auto as auto

    tasks = ("MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ")
    return [getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES") for task in tasks]


def check_decoder(checkpoint: Path) -> None:
    """Check without weights that a checkpoint is of a family that can be evaluated and whose states can be extracted.

    Raises:
        LensflowError: transformers does not know the family, it has no single stack of decoder layers, or its tokens
            see what comes after them.
    """
    transformers = import_transformers()
    with torch.device("meta"), one_line(checkpoint):
        config = transformers.AutoConfig.from_pretrained(checkpoint)
        halves = hasattr(config, "is_decoder") and hasattr(config, "add_cross_attention")
        if halves or any(config.model_type in names for names in _encoders()):
            raise LensflowError(
                f"model type '{config.model_type}': a family of encoders or encoder-decoders; give a decoder-only model"
            )
        if getattr(config, "attn_type", None) == "bi":  # XLNet
            raise LensflowError(f"model type '{config.model_type}': tokens see what comes after them")
        if hasattr(config, "audio_vocab_size"):  # Moshi
            raise LensflowError(f"model type '{config.model_type}': reads and writes sound, not texts")
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        layers_of(decoder_of(model))


def check_top_layers(checkpoint: Path, count: int) -> None:
    """Check without weights that the tensors of the top layers are those that `load_top_layers` needs.

    Raises:
        LensflowError: they are not, or the model has not so many layers.
    """
    _trainable(checkpoint, lambda skeleton: skeleton.check(_top(skeleton, count)))


def check_all_weights(checkpoint: Path) -> None:
    """Check without weights that a checkpoint has every weight that fine-tuning trains.

    Raises:
        LensflowError: it has not.
    """

    def check(skeleton: Skeleton) -> None:
        parameters = {name for name, _ in skeleton.model.named_parameters()} - set(skeleton.model.all_tied_weights_keys)
        if odd := skeleton.conversion.missing(parameters):
            raise LensflowError(f"model type '{skeleton.model.config.model_type}': tensor '{odd[0]}' does not fit")

    _trainable(checkpoint, check)


def _trainable(checkpoint: Path, check: Callable[[Skeleton], None]) -> None:
    try:
        check(Skeleton(checkpoint, attention="eager"))
    except LensflowError as error:
        raise LensflowError(
            f"{checkpoint}: cannot be trained: {error}; evaluate it with method base, or train another family"
        ) from None


def _top(skeleton: Skeleton, count: int) -> range:
    depth = len(skeleton.layers)
    if not 1 <= count <= depth:
        raise LensflowError(f"layers: {count} of a model that has {depth}; choose between 1 and {depth}")
    return range(depth - count, depth)


def load_top_layers(
    checkpoint: Path, count: int, dtype: torch.dtype, device: torch.device = CPU, attention: Attention = "sdpa"
) -> Skeleton:
    """Read only the top `count` layers of a decoder, and what it has outside of its layers but the embeddings.

    Args:
        checkpoint: folder of the backbone.
        count: number of layers; those below are left out of forward passes.
        dtype: of the weights in memory.
        device: that it runs on.
        attention: transformers' implementation.

    Returns:
        The skeleton; all is frozen but the parameters of the top layers.

    Raises:
        LensflowError: the checkpoint's tensors do not fit the family's decoder.
    """
    skeleton = Skeleton(checkpoint, dtype, attention)
    top = _top(skeleton, count)
    skeleton.check(top)
    skeleton.load_outside(() if needs_ids(skeleton.decoder) else (f"{embedding_of(skeleton.decoder)}.weight",))
    for index in range(len(skeleton.layers)):
        if index in top:
            skeleton.load_layer(index)
        else:
            skeleton.skip(index)
    skeleton.to(device)
    for index in top:
        skeleton.layers[index].requires_grad_(True)
    return skeleton


def embedding_of(decoder: Any) -> str:
    """Return the name of a decoder's module of token embeddings."""
    table = decoder.get_input_embeddings()
    return next(str(name) for name, module in decoder.named_modules() if module is table)


def needs_ids(decoder: Any) -> bool:
    """Return whether layers read more of the tokens than their states (Gemma 3n and 4)."""
    return bool(getattr(decoder.config, "hidden_size_per_layer_input", 0))
