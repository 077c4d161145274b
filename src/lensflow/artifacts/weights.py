"""The tensors of a sharded safetensors checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from lensflow.artifacts.checkpoint import indexed, weight_paths


@dataclass(frozen=True)
class Header:
    """The header of a tensor, which is known before its numbers are read.

    Attributes:
        shape: the lengths of its dimensions.
        dtype: safetensors' name, such as `BF16`.
    """

    shape: tuple[int, ...]
    dtype: str


class WeightFiles:
    """The tensors of a sharded safetensors checkpoint, read one at a time, only from the files of `weight_paths`."""

    def __init__(self, checkpoint: Path) -> None:
        self.location: dict[str, Path] = {}
        listed = indexed(checkpoint)
        if listed is not None:
            self.location = {name: checkpoint / file for name, file in listed.items()}
            return
        for path in weight_paths(checkpoint):
            with safe_open(path, framework="pt") as file:
                self.location.update(dict.fromkeys(file.keys(), path))

    def read(self, name: str) -> Tensor:
        """Read one tensor, memory-mapped."""
        with safe_open(self.location[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def dtype(self) -> torch.dtype | None:
        """Return the precision of the first tensor; None if no file exists yet."""
        there = (name for name, path in self.location.items() if path.is_file())
        return next((self.read(name).dtype for name in there), None)

    def headers(self) -> dict[str, Header]:
        """Return the header of every tensor in the existing files; an index may exist before its files."""
        found = {}
        for path in {path for path in self.location.values() if path.is_file()}:
            with safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    part = file.get_slice(name)
                    found[name] = Header(tuple(part.get_shape()), part.get_dtype())
        return found
