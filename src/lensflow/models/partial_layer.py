"""The top layer, computed for some tokens only."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lensflow.errors import LensflowError
from lensflow.models.loading import layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds to import


class _Interrupted(Exception):  # noqa: N818 - not an error
    """Raised when the keys and values are there, because the rest of the layer is not needed."""


class _KeysAndValues:
    """A stand-in for a key-value cache: it takes the keys and values of all tokens, then gives them to other
    queries."""

    kept: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        if self.kept is None:
            self.kept = keys, values
            raise _Interrupted
        return self.kept


@contextmanager
def only_rows(decoder: "PreTrainedModel", rows: Tensor) -> Iterator[None]:
    """Compute the top layer for only some tokens of a packed sequence, from the keys and values of all tokens.

    The layer runs twice: first on all tokens, up to the point where it stores its keys and values; then on the chosen
    tokens. A full pass gives the same states and gradients. If few tokens are chosen, the partial pass takes a
    fraction of the layer's cost.

    Args:
        decoder: the decoder. In this context its output is (1, M, d), not (1, S, d).
        rows: (M,) positions in the packed sequence.
    """

    def pick(value: Any) -> Any:
        """(1, S, ...) -> (1, M, ...), also inside tuples such as the rotary embedding's."""
        if isinstance(value, tuple):
            return tuple(map(pick, value))
        return value[:, rows] if isinstance(value, Tensor) else value

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        kwargs["past_key_values"] = cache = _KeysAndValues()
        with suppress(_Interrupted):
            layer.forward(*args, **kwargs)
        if cache.kept is None:
            raise LensflowError("the top layer has no keys and values; this model family is not supported")
        mask, tokens = kwargs.pop("attention_mask"), cache.kept[0].shape[2]
        if mask is None:  # a single text: plainly causal
            mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device=rows.device).tril()
        return pick(args), {name: pick(value) for name, value in kwargs.items()} | {"attention_mask": mask[:, :, rows]}

    handle = layers_of(decoder)[-1].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
