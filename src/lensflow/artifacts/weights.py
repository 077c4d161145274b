"""The tensors of a sharded safetensors checkpoint."""

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from lensflow.artifacts.checkpoint import INDEX, weight_paths
from lensflow.storage.verified import read_json


class WeightFiles:
    """The tensors of a sharded safetensors checkpoint, read one at a time; only of the files of `weight_paths`."""

    def __init__(self, checkpoint: Path) -> None:
        self.location: dict[str, Path] = {}
        index = checkpoint / INDEX
        if index.is_file():
            self.location = {name: checkpoint / file for name, file in read_json(index)["weight_map"].items()}
            return
        for path in weight_paths(checkpoint):
            with safe_open(path, framework="pt") as file:
                self.location.update(dict.fromkeys(file.keys(), path))

    def read(self, name: str) -> Tensor:
        """Read one tensor, memory-mapped."""
        with safe_open(self.location[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
