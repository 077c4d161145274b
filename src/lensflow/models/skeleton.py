"""Parts of a decoder: its top layers, or one layer at a time, for any family that transformers knows.

There is no list of families here. The model has all of its layers, but most have no weights and a forward pass skips
them. Masks, rotary embeddings and everything that depends on a layer's index are therefore the family's own.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.models.conversion import Conversion
from lensflow.models.loading import CPU, attention_of, config_of, decoder_of, import_transformers, layers_of, one_line
from lensflow.models.taps import check_states
from lensflow.schema.extraction import Attention

# Buffers that older versions of transformers saved with the weights, and that are computed now.
_LEFT_OVER = re.compile(r"\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|masked_bias|position_ids|attention\.bias)$")

# Classes whose checkpoints have another output layer than a language model's; the embeddings may stand in for it.
_OTHER_TASKS = re.compile(r"For(\w*Classification|QuestionAnswering|MultipleChoice)$|RewardModel")


class Skeleton:
    """The causal language model of a checkpoint without weights. Parts of the weights can be read into it.

    Args:
        checkpoint: folder of the checkpoint.
        dtype: precision of the weights that are read; None for the checkpoint's own.
        attention: attention implementation of transformers.

    Attributes:
        model: the whole model, frozen.
        decoder: the text decoder of the model.
        layers: the layers of the decoder.
        conversion: the mapping between the model's tensors and the checkpoint's.
        prefix: the beginning of the names of the decoder's tensors.

    Raises:
        LensflowError: transformers cannot build the family, or it has no single stack of decoder layers.
    """

    def __init__(self, checkpoint: Path, dtype: torch.dtype | None = None, attention: Attention = "sdpa") -> None:
        from accelerate import init_empty_weights

        transformers, files = import_transformers(), WeightFiles(checkpoint)
        with one_line(checkpoint):
            config = config_of(checkpoint)
            own = config.dtype or config.get_text_config().dtype or files.dtype()
            attention = attention_of(config, attention)
            with init_empty_weights(include_buffers=False):  # buffers are small, and computed rather than read
                self.model = transformers.AutoModelForCausalLM.from_config(
                    config, dtype=dtype or own, attn_implementation=attention
                )
            self.decoder = decoder_of(self.model.requires_grad_(False).eval())
            self.layers = layers_of(self.decoder)
        self.conversion = Conversion(self.model, files)
        (self.prefix,) = (f"{name}." for name, part in self.model.named_modules() if part is self.decoder)
        (stack,) = (name for name, part in self.decoder.named_children() if part is self.layers)
        self._stack = f"{self.prefix}{stack}."
        self._more: tuple[None, ...] | None = None  # what layers return with their states; not known yet
        self._are_tuples = False

    def check(self, layers: Iterable[int]) -> None:
        """Check without weights that the checkpoint has all tensors of some layers, and no others.

        Raises:
            LensflowError: a tensor is missing or unexpected.
        """
        unused = self.unused()
        for index in layers:
            stem = f"{self._stack}{index}."
            if odd := self.conversion.missing(self._keys(stem)) or sorted(k for k in unused if k.startswith(stem)):
                family = self.model.config.model_type
                raise LensflowError(
                    f"model type '{family}': tensor '{odd[0]}' does not fit; this family is not supported"
                )

    def missing(self) -> list[str]:
        """Return the model's tensors that the checkpoint lacks and that are not tied to other tensors."""
        optional = [*map(re.compile, self.model._keys_to_ignore_on_load_missing or ())]
        wanted = self.model.state_dict().keys() - set(self.model.all_tied_weights_keys)
        return self.conversion.missing({key for key in wanted if not any(one.search(key) for one in optional)})

    def unused(self) -> dict[str, str]:
        """Return the checkpoint's tensors that no code reads: name in the model -> name in the checkpoint.

        Two kinds are left out: buffers that are computed, and tensors that the family ignores.
        """
        ignored = [_LEFT_OVER, *map(re.compile, self.model._keys_to_ignore_on_load_unexpected or ())]
        unknown = self.conversion.unknown.items()
        return {key: name for key, name in unknown if not any(pattern.search(key) for pattern in ignored)}

    def is_of_a_layer(self, key: str) -> bool:
        """Return whether a tensor with the model's name `key` would belong to one of its layers."""
        number = key.removeprefix(self._stack).partition(".")[0]
        return key.startswith(self._stack) and number.isdecimal() and int(number) < len(self.layers)

    def left_out(self) -> str | None:
        """Return a tensor of a layer above the last one that is made like it; None if there is none.

        Layers of multi-token prediction, which some checkpoints keep there, have other tensors, too.
        """
        tensors: dict[int, dict[str, str]] = {}
        for key, name in {**self.conversion.plain, **self.unused()}.items():
            number, _, rest = key.removeprefix(self._stack).partition(".")
            if key.startswith(self._stack) and number.isdecimal():
                tensors.setdefault(int(number), {})[rest] = name
        last, above = tensors.get(len(self.layers) - 1, {}), tensors.get(len(self.layers), {})
        return min(above.values()) if above and above.keys() == last.keys() else None

    def try_layers(self, alone: bool) -> None:
        """Run the decoder without its layers, with zeros for weights, to find out what the layers pass to each other.

        Args:
            alone: whether a layer must run without the one below it.

        Raises:
            LensflowError: layers pass several states per token, or they pass more than states although a layer must run
                alone.
        """
        empty = {name: parameter for name, parameter in self.decoder.named_parameters() if parameter.is_meta}
        outside = {name: empty[name] for name in empty if not f"{self.prefix}{name}".startswith(self._stack)}
        _put(self.decoder, {name: torch.zeros_like(parameter, device=CPU) for name, parameter in outside.items()})

        def enough(layer: nn.Module, args: Any, kwargs: Any) -> None:
            check_states(args[0] if args else kwargs["hidden_states"], self.decoder.config)
            raise RuntimeError  # what they hand on beside states does not matter

        if not alone:
            self.layers[0].register_forward_pre_hook(enough, with_kwargs=True)
        for index in range(len(self.layers)):
            self.skip(index)
        with suppress(TypeError, ValueError, RuntimeError, AttributeError, IndexError):  # what zeros alone can break
            self.decoder(input_ids=torch.zeros(1, 3, dtype=torch.long), use_cache=False)

    def tied(self) -> list[tuple[str, str]]:
        """Return pairs of the checkpoint's tensors that config.json ties together."""
        plain, pairs = self.conversion.plain, self.model.all_tied_weights_keys.items()
        return [(plain[one], plain[other]) for one, other in pairs if one in plain and other in plain]

    def load_outside(self, but: Collection[str] = ()) -> None:
        """Read the decoder's tensors outside of its layers, except for some."""
        left_out = {f"{self.prefix}{name}" for name in but}
        keys = set(self._keys(self.prefix)) - set(self._keys(self._stack)) - left_out
        self.conversion.load(keys)

    def load_output(self) -> None:
        """Read the output layer. If it is tied to the embeddings, read the embeddings first."""
        head = self.model.get_output_embeddings()
        (name,) = (name for name, module in self.model.named_modules() if module is head)
        self.conversion.load(set(self._keys(f"{name}.")) - set(self.model.all_tied_weights_keys))
        self.model.tie_weights()

    def load_layer(self, index: int) -> None:
        """Read a layer."""
        self.conversion.load(set(self._keys(f"{self._stack}{index}.")))

    def drop_layer(self, index: int) -> None:
        """Forget a layer's weights."""
        layer = self.layers[index]
        _put(layer, {name: parameter.to("meta") for name, parameter in layer.named_parameters()})

    def read(self, name: str) -> Tensor:
        """Read one tensor of the decoder, memory-mapped and in the checkpoint's precision."""
        return self.conversion.read(f"{self.prefix}{name}")

    def to_checkpoint(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return some of the decoder's tensors under the checkpoint's names and in its shapes."""
        return self.conversion.to_checkpoint({f"{self.prefix}{name}": tensor for name, tensor in tensors.items()})

    def to(self, device: torch.device) -> None:
        """Move the decoder's buffers and the weights that have been read to a device."""
        there = {name: parameter for name, parameter in self.decoder.named_parameters() if not parameter.is_meta}
        _put(self.decoder, {name: parameter.to(device) for name, parameter in there.items()})
        for module in self.decoder.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))

    def skip(self, index: int) -> None:
        """Leave a layer out of forward passes."""
        layer = self.layers[index]

        def pass_on(*args: Any, **kwargs: Any) -> Any:
            states = check_states(args[0] if args else kwargs["hidden_states"], self.decoder.config)
            if self._more is None:
                self.note(self._tried(layer, args, kwargs))
            return (states, *(self._more or ())) if self._are_tuples else states

        layer.forward = pass_on

    def keep(self, index: int) -> None:
        """Let forward passes run a layer that was left out."""
        del self.layers[index].forward

    def note(self, output: Any) -> None:
        """Record from a layer's output what `skip` must imitate.

        Raises:
            LensflowError: layers pass more than their states to each other.
        """
        self._are_tuples = isinstance(output, tuple | list)
        parts = tuple(output[1:]) if self._are_tuples else ()
        self._more = tuple(None for _ in parts)
        # Attention weights (n, heads, T, T) are only returned to be looked at.
        if any(part is not None and getattr(part, "shape", ())[2:] != 2 * output[0].shape[1:2] for part in parts):
            family = self.model.config.model_type
            raise LensflowError(f"model type '{family}': layers pass more than their states to the next layer")

    @torch.no_grad()
    def _tried(self, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return what a layer without weights should return; a test with zeros finds it."""
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
    """Replace the parameters of a module, also by ones on another device or with another shape."""
    for name, parameter in parameters.items():
        path, _, own = name.rpartition(".")
        module.get_submodule(path)._parameters[own] = nn.Parameter(parameter.detach(), requires_grad=False)


def _encoders() -> list[Collection[str]]:
    """Return model types that also fill masks or translate.

    Their causal models are incomplete or made for other tasks.
    """
    from transformers.models.auto import modeling_auto as auto

    tasks = ("MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ")
    return [getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES") for task in tasks]


def check_decoder(checkpoint: Path) -> None:
    """Check without weights that a checkpoint is of a family that can be evaluated and whose states can be extracted.

    Raises:
        LensflowError: transformers does not know the family, the model has no single stack of decoder layers, or its
            tokens see later tokens.
    """
    transformers = import_transformers()
    with torch.device("meta"), one_line(checkpoint):
        config = config_of(checkpoint)
        halves = hasattr(config, "is_decoder") and hasattr(config, "add_cross_attention")
        if halves or any(config.model_type in names for names in _encoders()):
            raise LensflowError(
                f"model type '{config.model_type}': a family of encoders or encoder-decoders; give a decoder-only model"
            )
        if getattr(config, "attn_type", None) == "bi":  # XLNet
            raise LensflowError(f"model type '{config.model_type}': tokens see later tokens")
        if odd := next(filter(_OTHER_TASKS.search, config.architectures or ()), None):
            raise LensflowError(f"{odd}: a model that classifies or rates texts; give one that writes them")
        if hasattr(config, "audio_vocab_size"):  # Moshi
            raise LensflowError(f"model type '{config.model_type}': reads and writes sound, not texts")
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        layers_of(decoder_of(model))


def check_trainable(checkpoint: Path, count: int) -> None:
    """Check without weights that the top layers of a decoder run alone, as `load_top_layers` needs.

    Raises:
        LensflowError: the layers do not run alone, their tensors do not fit, or the model has fewer layers.
    """
    try:
        skeleton = Skeleton(checkpoint, attention="eager")
        top = _top(skeleton, count)
        skeleton.check(top)
        skeleton.try_layers(alone=True)
    except LensflowError as error:
        raise LensflowError(
            f"{checkpoint}: cannot be trained: {error}; evaluate it with method base, or train another family"
        ) from None


def check_layers(checkpoint: Path, alone: bool) -> None:
    """Check without weights that states can be read between the layers of a decoder.

    Args:
        checkpoint: folder of the backbone.
        alone: whether a layer must run without the layers below it, as in streaming.

    Raises:
        LensflowError: states cannot be read.
    """
    with one_line(checkpoint):
        Skeleton(checkpoint, attention="eager").try_layers(alone)


def check_not_shared(model: Any, decoder: str) -> None:
    """Check that no layers share weights. Adapters would be merged twice into shared weights.

    Args:
        model: transformers' causal language model.
        decoder: name of the decoder in the model.

    Raises:
        LensflowError: layers share weights.
    """
    if any(one.startswith(decoder) and other.startswith(decoder) for one, other in model.all_tied_weights_keys.items()):
        raise LensflowError(f"model type '{model.config.model_type}': layers share weights; set lora: null")


def check_adapters(checkpoint: Path) -> None:
    """Check without weights that the layers of a checkpoint can have adapters.

    Raises:
        LensflowError: they cannot have adapters.
    """
    skeleton = Skeleton(checkpoint, attention="eager")
    check_not_shared(skeleton.model, skeleton.prefix)


def _top(skeleton: Skeleton, count: int) -> range:
    depth = len(skeleton.layers)
    if not 1 <= count <= depth:
        raise LensflowError(f"layers: {count}, but the model has {depth}; choose between 1 and {depth}")
    return range(depth - count, depth)


def load_top_layers(
    checkpoint: Path, count: int, dtype: torch.dtype, device: torch.device = CPU, attention: Attention = "sdpa"
) -> Skeleton:
    """Read only the top `count` layers of a decoder and the tensors outside of its layers, without the embeddings.

    Args:
        checkpoint: folder of the backbone.
        count: number of layers; forward passes skip the layers below.
        dtype: precision of the weights in memory.
        device: the device to run on.
        attention: attention implementation of transformers.

    Returns:
        The skeleton; everything is frozen except the parameters of the top layers.

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
    """Return the name of the token embedding module of a decoder."""
    table = decoder.get_input_embeddings()
    return next(str(name) for name, module in decoder.named_modules() if module is table)


def needs_ids(decoder: Any) -> bool:
    """Return whether layers read more about the tokens than their states (Gemma 3n and 4)."""
    return bool(getattr(decoder.config, "hidden_size_per_layer_input", 0))
