"""Edits of the residual stream in both engines: hooks on blocks, and a test that each edit takes effect.

If a framework silently drops a hook, the untouched model would answer under a method's name. Each engine therefore runs
one prompt when an edit begins, records the states before and after the edit, and compares them with `naive`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lensflow.artifacts.interventions import BlockEdit
from lensflow.errors import LensflowError

WHOLE = torch.iinfo(torch.int64).max  # the length of a prompt that nothing is generated after
TEST = "The quick brown fox"  # the prompt of the test
# Largest difference that rounding makes, as a share of the length of the state.
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass
class Places:
    """Positions of the tokens in the running pass; see `BlockEdit.__call__`."""

    index: Tensor = field(default_factory=lambda: torch.empty(0))
    prompt: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Recorded:
    """States of n tokens around the edits of one block: `before` and `after` (n, d), `index` and `prompt` (n,)."""

    layer: int
    before: Tensor
    after: Tensor
    index: Tensor
    prompt: Tensor


def change(
    layers: nn.ModuleList,
    blocks: Sequence[BlockEdit],
    places: Places,
    states_of: Callable[[Any], Tensor],
    with_states: Callable[[Any, Tensor], Any],
) -> list[Any]:
    """Hook edits onto blocks; return the handles.

    Args:
        layers: all blocks of the model.
        blocks: the edits.
        places: the positions of the tokens, which the caller updates.
        states_of: returns the residual stream (..., d) from the output of a block.
        with_states: returns the output of a block with another residual stream.
    """

    def hook_of(edits: Sequence[BlockEdit]) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            states = states_of(output)
            for edit in edits:
                states = edit(states, places.index, places.prompt)
            return with_states(output, states)

        return hook

    by_layer = {layer: [edit for edit in blocks if edit.layer == layer] for layer in layers_in(blocks)}
    return [layers[layer].register_forward_hook(hook_of(edits)) for layer, edits in by_layer.items()]


def record(
    layers: nn.ModuleList,
    blocks: Sequence[BlockEdit],
    places: Places,
    states_of: Callable[[Any], Tensor],
    into: list[Recorded],
) -> list[Any]:
    """Hook a recorder around the edits that `change` installed; return the handles."""

    def hooks_of(layer: int) -> list[Any]:
        entered: list[Tensor] = []

        def before(module: nn.Module, args: Any, output: Any) -> None:
            entered[:] = [states_of(output).clone()]

        def after(module: nn.Module, args: Any, output: Any) -> None:
            states = states_of(output)
            index = places.index.flatten().cpu().clone()  # vLLM's own buffer
            tokens = len(index)
            prompt = places.prompt.expand(places.index.shape).flatten().cpu()
            here, there = (tensor.flatten(0, -2)[:tokens].cpu().clone() for tensor in (entered[0], states))
            into.append(Recorded(layer, here, there, index, prompt))

        module = layers[layer]
        return [module.register_forward_hook(before, prepend=True), module.register_forward_hook(after)]

    return [handle for layer in layers_in(blocks) for handle in hooks_of(layer)]


def layers_in(blocks: Sequence[BlockEdit]) -> list[int]:
    """Return the layers of edits, each once, in order."""
    return sorted({edit.layer for edit in blocks})


def check(blocks: Sequence[BlockEdit], recorded: Sequence[Recorded], engine: str) -> None:
    """Compare recorded states with the equations, token by token.

    Raises:
        LensflowError: an edit did not change the states as it should.
    """
    for layer in layers_in(blocks):
        found = [one for one in recorded if one.layer == layer]
        wanted = [naive(blocks, one) for one in found]
        if not found or any(_differ(one, expected) for one, expected in zip(found, wanted, strict=True)):
            raise LensflowError(
                f"engine {engine}: the edit of block {layer} does not change the states as it should; use "
                f"evaluation.engine: hf, or report this model's family"
            )


def naive(blocks: Sequence[BlockEdit], one: Recorded) -> Tensor:
    """Return the states (n, d) that the edits of a block should give, in float64, computed token by token."""
    rows = []
    for h, index, prompt in zip(one.before.double(), one.index.tolist(), one.prompt.tolist(), strict=True):
        for edit in blocks:
            here = {"all": True, "but_first": index > 0, "prompt": index < prompt, "generated": index >= prompt}
            if edit.layer != one.layer or not here[edit.positions]:
                continue
            length, c = h.norm(), edit.strength
            v = None if edit.vector is None else edit.vector.double()
            columns = [] if edit.basis is None else list(edit.basis.double().T)
            if edit.operation == "add" and v is not None:
                h = h + c * v
            elif edit.operation == "remove":
                h = h - c * sum(b * (b @ h) for b in columns)
            elif edit.operation == "replace" and v is not None:
                h = h + sum(b * (c * (b @ v) - b @ h) for b in columns)
            elif edit.operation == "rotate":
                a, b = columns
                x, y, angle = a @ h, b @ h, torch.tensor(c, dtype=torch.float64)
                cosine, sine = angle.cos(), angle.sin()
                h = h + a * (x * cosine - y * sine - x) + b * (x * sine + y * cosine - y)
            if edit.restore_norm:
                h = h * length / h.norm()
        rows.append(h)
    return torch.stack(rows)


def _differ(one: Recorded, wanted: Tensor) -> bool:
    before, after = one.before.double(), one.after.double()
    rounding = _ROUNDING.get(one.after.dtype, 1e-5)
    close = (after - wanted).norm(dim=-1) <= rounding * wanted.norm(dim=-1).clamp(min=1e-6)
    # A change that is smaller than that must not be missing altogether.
    wants_more = (wanted - before).norm(dim=-1) > 8 * torch.finfo(one.after.dtype).eps * before.norm(dim=-1)
    return not bool(close.all()) or (torch.equal(after, before) and bool(wants_more.any()))
