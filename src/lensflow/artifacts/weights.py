"""The tensors of a sharded safetensors checkpoint."""

import re
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from lensflow.artifacts.checkpoint import INDEX, weight_paths
from lensflow.storage.verified import read_json

_LAYER = re.compile(r"^(?P<stem>.*\blayers\.)(?P<index>\d+)\.(?P<rest>.+)$")


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

    def top_layers(self, depth: int, count: int) -> dict[str, str]:
        """Map the names of the top `count` of `depth` layers, numbered from 0 as in a shorter stack, to their own.

        Layers above `depth` are left out: some checkpoints keep the layers of multi-token prediction there.

        Example: with depth 18 and count 2, `layers.0.mlp.up_proj.weight` -> `model.layers.16.mlp.up_proj.weight`.
        """
        names = {}
        for name in self.location:
            match = _LAYER.match(name)
            if match and depth - count <= int(match["index"]) < depth:
                names[f"layers.{int(match['index']) - depth + count}.{match['rest']}"] = name
        return names

    def final_norm(self) -> dict[str, str]:
        """Map the names of the final norm in a decoder to their own."""
        stems = {match["stem"] for name in self.location if (match := _LAYER.match(name))}
        found = {}
        for stem in stems:
            prefix = stem.removesuffix("layers.")
            for name in self.location:
                rest = name.removeprefix(prefix)
                if name.startswith(prefix) and "norm" in rest and not rest.startswith(("layers.", "embed")):
                    found[rest] = name
        return found
