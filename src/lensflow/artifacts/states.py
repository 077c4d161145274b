"""Files with the hidden states of the texts of one language."""

from dataclasses import dataclass, fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lensflow.errors import LensflowError
from lensflow.storage.atomic import atomic_path
from lensflow.storage.digests import canonical_json
from lensflow.storage.integrity import checked


@dataclass(frozen=True)
class HiddenStates:
    """States of the texts of one language.

    Attributes:
        layers: (L, N, d) each text's state after each layer, before the final norm.
        post_norm: (N, d) the top layer's states after the final norm (HF's last hidden state).
        tokens: (sum of lengths, d) the states of all tokens at the input of the first of the top `trainable_layers`
            layers, text after text; empty if no method trains on this corpus.
        lengths: (N,) number of tokens of each text.
    """

    layers: Tensor
    post_norm: Tensor
    tokens: Tensor
    lengths: Tensor


def save(path: Path, states: HiddenStates, names: list[str]) -> None:
    """Write hidden states and the ids of their texts."""
    with atomic_path(path) as temporary:
        save_file(vars(states), temporary, metadata={"ids": canonical_json(names)})


def load(path: Path) -> HiddenStates:
    """Read hidden states; tensors are memory-mapped.

    Raises:
        LensflowError: the file is missing or damaged.
    """
    checked(path)
    try:
        tensors = load_file(path)
        return HiddenStates(**{field.name: tensors[field.name] for field in fields(HiddenStates)})
    except (SafetensorError, FileNotFoundError, KeyError, ValueError) as error:
        raise LensflowError(f"{path}: cannot be read ({error}); delete it and run again") from None
