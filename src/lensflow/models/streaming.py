"""A decoder that holds at most one layer in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lensflow.errors import LensflowError
from lensflow.models.loading import CPU, one_line
from lensflow.models.skeleton import Skeleton, embedding_of
from lensflow.models.taps import put_states, tap_layers
from lensflow.schema.extraction import Attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds to import


class StreamedDecoder:
    """The decoder of a checkpoint that holds at most one layer in memory, for backbones larger than memory.

    A forward pass skips every layer except one.

    Args:
        checkpoint: folder of the backbone; its shards are read when they are needed.
        sequences: token ids of all texts that the decoder will run; only the embeddings of these tokens are read.
        device: the device to run on.
        dtype: precision of a layer's weights in memory; None for the checkpoint's own.
        attention: attention implementation of transformers.

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
        self._checkpoint, self.device = checkpoint, device
        self._skeleton = Skeleton(checkpoint, dtype, attention)
        self.module: PreTrainedModel = self._skeleton.decoder
        self.dtype: torch.dtype = self.module.dtype
        self._layers = self._skeleton.layers
        if getattr(self.module.config, "num_kv_shared_layers", 0):
            raise self._unfit("layers take keys and values of others")
        table = f"{embedding_of(self.module)}.weight"
        used = torch.tensor(sorted({token for ids in sequences for token in ids}))
        with self._resident_instead():
            rows = self._skeleton.read(table)[used]
            self._skeleton.load_outside(but=[table])
        self._skeleton.to(device)
        embedding: Any = self.module.get_input_embeddings()
        embedding.weight = nn.Parameter(rows.to(device, self.dtype), requires_grad=False)
        used = used.to(device)
        embedding.padding_idx = None  # a row of the whole table, which says only where there is no gradient
        # Only here, since a model may use the ids for more. Pads have id 0; if no text has it, they get the first row.
        embedding.register_forward_pre_hook(lambda module, args: (torch.searchsorted(used, args[0]), *args[1:]))
        for index in range(len(self._layers)):
            self._skeleton.skip(index)

    def _unfit(self, reason: str) -> LensflowError:
        family = self.module.config.model_type
        return LensflowError(f"model type '{family}': {reason}; set extraction.memory: resident")

    @contextmanager
    def _resident_instead(self) -> Iterator[None]:
        """Add to an error what to do if the family cannot run layer by layer."""
        try:
            with one_line(self._checkpoint, "run"):
                yield
        except LensflowError as error:
            raise LensflowError(f"{error}; set extraction.memory: resident") from None

    @contextmanager
    def only(self, index: int) -> Iterator[None]:
        """Load one layer, which `run` can run in this context.

        Raises:
            LensflowError: the checkpoint's tensors do not fit the layer.
        """
        with self._resident_instead():
            self._skeleton.load_layer(index)
        self._skeleton.to(self.device)
        self._skeleton.keep(index)
        try:
            yield
        finally:
            self._skeleton.skip(index)
            self._skeleton.drop_layer(index)

    def run(self, index: int, ids: Tensor, entering: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer that is loaded.

        Args:
            index: number of the layer.
            ids: (n, T) token ids.
            entering: (n, T, d) states that enter the layer; None to take the embeddings of `ids`.

        Returns:
            The states that entered the layer, the states that leave it and, for the top layer, the states after the
            final norm; (n, T, d)
            on the CPU.
        """
        layer = self._layers[index]
        handles = [layer.register_forward_hook(lambda module, args, output: self._skeleton.note(output))]
        if entering is not None:
            moved = entering.to(self.device)
            handles.append(
                layer.register_forward_pre_hook(
                    lambda module, args, kwargs: put_states(moved, args, kwargs), with_kwargs=True
                )
            )
        try:
            with self._resident_instead(), tap_layers(self.module, [index], [index]) as states:
                output: Tensor = self.module(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        return states["in", index].cpu(), states["out", index].cpu(), output.cpu()
