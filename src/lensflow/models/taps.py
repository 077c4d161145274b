"""States that enter and leave decoder layers, recorded during a forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lensflow.errors import LensflowError
from lensflow.models.loading import layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes seconds to import


def check_states(states: Tensor, config: Any) -> Tensor:
    """Return the output of a layer, if it is one state per token.

    Args:
        states: the output, which must be (n, T, d).
        config: configuration of the decoder.

    Raises:
        LensflowError: the output has another form.
    """
    if states.ndim != 3 or states.shape[-1] != config.hidden_size:
        raise LensflowError(
            f"model type '{config.model_type}': layers pass on several states of a token; this family is not supported"
        )
    return states


@contextmanager
def tap_layers(
    decoder: "PreTrainedModel", entering: Sequence[int], leaving: Sequence[int]
) -> Iterator[dict[Any, Tensor]]:
    """Record states during a forward pass.

    Args:
        decoder: the decoder.
        entering: layers whose input is recorded, under the key ("in", layer).
        leaving: layers whose output is recorded, under the key ("out", layer).

    Yields:
        A dictionary that holds the states, each (batch, tokens, d), after a forward pass.
    """
    states: dict[Any, Tensor] = {}
    layers = layers_of(decoder)

    def keep_input(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states["in", index] = check_states(args[0] if args else kwargs["hidden_states"], decoder.config)

        return layers[index].register_forward_pre_hook(hook, with_kwargs=True)

    def keep_output(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found = output[0] if isinstance(output, tuple | list) else output
            states["out", index] = check_states(found, decoder.config)

        return layers[index].register_forward_hook(hook)

    handles = [keep_input(index) for index in entering] + [keep_output(index) for index in leaving]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def put_states(states: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a layer with other input states."""
    return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})
