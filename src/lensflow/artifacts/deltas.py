"""Deltas: the tensors that a training changed."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lensflow.artifacts.weights import WeightFiles
from lensflow.storage.atomic import atomic_path


def write(tensors: Mapping[str, Tensor], checkpoint: Path, output: Path) -> None:
    """Write the tensors that differ from the backbone's tensors, in float32.

    Args:
        tensors: trained tensors in float32, under the checkpoint's names.
        checkpoint: folder of the backbone.
        output: `delta.safetensors`.
    """
    backbone = WeightFiles(checkpoint)  # read again, one at a time: a copy of what was trained is gigabytes
    changed = {}
    for name, tensor in tensors.items():
        trained = tensor.detach().cpu().contiguous()
        if not torch.equal(backbone.read(name).float(), trained):
            changed[name] = trained
    with atomic_path(output) as temporary:
        save_file(changed, temporary)
