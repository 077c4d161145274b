"""A decoder that never holds more than one layer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lensflow.errors import LensflowError
from lensflow.schema.extraction import Attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds to import
from lensflow.artifacts.weights import WeightFiles
from lensflow.models.loading import CPU, attention_of, import_transformers, layers_of
from lensflow.models.taps import tap_layers


class StreamedDecoder:
    """A checkpoint's decoder that never holds more than one layer; for backbones larger than memory.

    It is the family's own model without weights. A forward pass skips every layer but one, so that masks, rotary
    embeddings and whatever depends on a layer's index stay the family's.

    Args:
        checkpoint: folder of the backbone, whose shards are read as they are needed.
        sequences: token ids of all texts that it will run; only these rows of the embeddings are read.
        device: that it runs on.
        dtype: of a layer's weights in memory; None for the checkpoint's own.
        attention: transformers' implementation.

    Raises:
        LensflowError: the checkpoint's tensors do not fit the family's decoder.
    """

    def __init__(
        self,
        checkpoint: Path,
        sequences: Sequence[Sequence[int]],
        device: torch.device = CPU,
        dtype: torch.dtype | None = None,
        attention: Attention = "sdpa",
    ) -> None:
        from accelerate import init_empty_weights

        transformers = import_transformers()

        config = transformers.AutoConfig.from_pretrained(checkpoint)
        self._files, self.device = WeightFiles(checkpoint), device
        self.dtype: torch.dtype = dtype or config.dtype or self._files.read(next(iter(self._files.location))).dtype
        attention = attention_of(config, attention)
        with init_empty_weights(include_buffers=False):  # buffers are small, and computed rather than read
            model = transformers.AutoModel.from_config(config, dtype=self.dtype, attn_implementation=attention)
        self.module: PreTrainedModel = model.requires_grad_(False).eval()
        self._layers = layers_of(self.module)
        embedding = model.get_input_embeddings()
        used = torch.tensor(sorted({token for ids in sequences for token in ids}))
        (stack,) = (name for name, child in self.module.named_children() if child is self._layers)
        (table,) = (f"{name}.weight" for name, child in self.module.named_modules() if child is embedding)
        prefixes = [name.removesuffix(table) for name in self._files.location if name.endswith(table)]
        if len(prefixes) != 1:
            raise self._unfit(f"{len(prefixes)} tensors are called '{table}'")
        self._stem = f"{prefixes[0]}{stack}."
        weights = {
            name: self._read(prefixes[0] + name, meta.shape)
            for name, meta in self.module.state_dict().items()
            if not name.startswith(f"{stack}.")
        }
        rows = weights.pop(table)[used]
        weights = {name: tensor.to(device, self.dtype) for name, tensor in weights.items()}
        self.module.load_state_dict(weights, strict=False, assign=True)
        for module in self.module.modules():  # not `.to`: the layers have no weights that could be moved
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        embedding.weight = nn.Parameter(rows.to(device, self.dtype), requires_grad=False)
        used = used.to(device)
        embedding.padding_idx = None  # a row of the whole table, which says only where there is no gradient
        # Only here, since a model may use the ids for more. That of pads, 0, gives the first row where it is not used.
        embedding.register_forward_pre_hook(lambda module, args: (torch.searchsorted(used, args[0]), *args[1:]))

    def _unfit(self, reason: str) -> LensflowError:
        family = self.module.config.model_type
        return LensflowError(f"model type '{family}': {reason}; set extraction.memory: resident")

    def _read(self, name: str, shape: torch.Size) -> Tensor:
        tensor = self._files.read(name) if name in self._files.location else None
        if tensor is None or tensor.shape != shape:
            raise self._unfit(f"tensor '{name}' is missing or has another shape")
        return tensor

    @contextmanager
    def only(self, index: int) -> Iterator[None]:
        """Hold one layer, which `run` can run in this context.

        Raises:
            LensflowError: the checkpoint's tensors do not fit the layer.
        """
        layer = self._layers[index]
        weights = {
            name: self._read(f"{self._stem}{index}.{name}", meta.shape).to(self.device, self.dtype)
            for name, meta in layer.state_dict().items()
        }
        layer.load_state_dict(weights, assign=True)
        others = [other for other in self._layers if other is not layer]
        for other in others:
            other.forward = _skip
        try:
            yield
        finally:
            for other in others:
                del other.forward
            layer.to("meta")

    def run(self, index: int, ids: Tensor, entering: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer that is held.

        Args:
            index: of the layer.
            ids: (n, T) token ids.
            entering: (n, T, d) states that enter the layer; None for the embeddings of `ids`.

        Returns:
            States that entered it, states that leave it and, for the top layer, those after the final norm; (n, T, d)
            on the CPU.
        """

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if entering is None:
                return None
            moved = entering.to(self.device)
            return ((moved, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": moved})

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, tuple):  # which `_skip` would have to imitate
                raise self._unfit("layers return more than their states")

        layer = self._layers[index]
        handles = [layer.register_forward_pre_hook(enter, with_kwargs=True), layer.register_forward_hook(leave)]
        try:
            with tap_layers(self.module, [index], [index]) as states:
                output: Tensor = self.module(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        return states["in", index].cpu(), states["out", index].cpu(), output.cpu()


def _skip(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """Stand in for the forward pass of a layer."""
    return hidden_states
