"""Steering as a bias on the logits, for users who run the exported model without Lensflow."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lensflow.artifacts.exported import FOLDER
from lensflow.models.engines.process import prepare_process
from lensflow.models.skeleton import Skeleton


@torch.inference_mode()
def logit_biases(checkpoint: Path, shifts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what shifts of the state after the final norm add to the logits: W_U s, the same for every state.

    Only the embeddings, the final norm and the output layer are loaded. A test decides whether the logits are linear in
    the state. They are not linear if a model caps its logits (Gemma 2). If a model scales its logits, the bias includes
    the scale.

    Args:
        checkpoint: folder of the checkpoint.
        shifts: language -> (d,).

    Returns:
        Language -> (vocabulary,) float32; empty if there are no shifts, or the logits are not linear in the state.
    """
    if not shifts:
        return {}
    prepare_process()
    skeleton = Skeleton(checkpoint, torch.float32)
    skeleton.load_outside()
    skeleton.load_output()
    for index in range(len(skeleton.layers)):
        skeleton.skip(index)
    model, decoder = skeleton.model, skeleton.decoder

    def logits(states: Tensor) -> Tensor:
        """(n, d) -> (n, vocabulary)."""

        def put(module: torch.nn.Module, args: object, output: Any) -> None:
            output.last_hidden_state = states[None]

        with decoder.register_forward_hook(put):
            found: Tensor = model(torch.zeros(1, len(states), dtype=torch.long), use_cache=False).logits[0]
        return found

    ids = torch.linspace(0, decoder.get_input_embeddings().num_embeddings - 1, 8).long()[None]
    states = decoder(ids, use_cache=False).last_hidden_state[0]  # of the length that the final norm gives them
    other, nothing = states.roll(1, dims=0), torch.zeros_like(states)
    alone = logits(other) - logits(nothing)
    together = logits(states + other) - logits(states)
    if (together - alone).abs().max() > 1e-3 * alone.abs().max():
        return {}
    biases = logits(torch.stack(list(shifts.values()))) - logits(nothing[:1])
    return dict(zip(shifts, biases, strict=True))


def hand_on(intervention: Path, biases: Mapping[str, Tensor], folder: Path) -> None:
    """Copy an intervention and the result of `logit_biases` to their own folder below an exported checkpoint.

    They need their own folder, because vLLM takes every safetensors file beside the weights for weights.
    """
    target = folder / FOLDER
    target.mkdir()
    shutil.copyfile(intervention, target / intervention.name)
    for language, bias in biases.items():
        save_file({"logit_bias": bias.contiguous()}, target / f"logit_bias.{language}.safetensors")
