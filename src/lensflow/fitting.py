"""Subspaces of every layer from hidden states (stage `fit_subspaces`)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensflow import hidden_states
from lensflow.config import Setting
from lensflow.corpora import read_texts
from lensflow.errors import LensflowError
from lensflow.files import atomic_path, canonical_json, checked, used
from lensflow.subspaces import directions, fit_subspaces


@dataclass(frozen=True)
class LanguageSubspaces:
    """What `fit_subspaces` gives for a setting, float32, for L layers, K languages and rank r.

    Attributes:
        languages: K codes, the order of the second dimension below.
        agnostic: (L, d).
        specific: (L, d, r).
        directions: (L, K, d), δ_l of each language.
        means: (L, K, d) mean states.
        norms: (L, K) mean length of the states.
    """

    languages: tuple[str, ...]
    agnostic: Tensor
    specific: Tensor
    directions: Tensor
    means: Tensor
    norms: Tensor


TENSORS = ("agnostic", "specific", "directions", "means", "norms")


def fit(setting: Setting, states: dict[str, Path], texts: dict[str, Path], output: Path) -> None:
    """Fit the subspaces of a setting on the training split of its probing corpus.

    Args:
        setting: languages, central language, rank and space.
        states: for each language, what `extract_hidden_states` wrote.
        texts: for each language, what `pair_data` wrote.
        output: safetensors file with the fields of `LanguageSubspaces`.
    """
    means, norms = [], []
    for language in setting.languages:
        there = read_texts(texts[language], ["train"])
        count = setting.probing_texts or len(there)
        if not 0 < count <= len(there):
            raise LensflowError(
                f"{texts[language]}: {len(there)} texts in the train split; lower probing_texts ({count})"
            )
        used(texts[language], [text.line for text in there[:count]])
        loaded = hidden_states.load(states[language])
        layers = loaded.layers[:, :count].double()
        if setting.space == "post_norm":  # as HF's hidden_states, whose last entry is after the final norm
            layers = torch.cat([layers[:-1], loaded.post_norm[None, :count].double()])
        means.append(layers.mean(dim=1))
        norms.append(layers.norm(dim=-1).mean(dim=1))
    stacked = torch.stack(means, dim=1)
    fitted = fit_subspaces(stacked, setting.rank)
    tensors = {
        "agnostic": fitted.agnostic,
        "specific": fitted.specific,
        "directions": directions(stacked, fitted.specific, setting.languages.index(setting.central)),
        "means": stacked,
        "norms": torch.stack(norms, dim=1),
    }
    with atomic_path(output) as temporary:
        save_file(
            {name: tensor.float().contiguous() for name, tensor in tensors.items()},
            temporary,
            # One entry: several are written in any order, and what is made again must have the same checksum.
            metadata={"setting": canonical_json({"central": setting.central, "languages": setting.languages})},
        )


def load(path: Path, setting: Setting) -> LanguageSubspaces:
    """Read what `fit` wrote for a setting.

    Raises:
        LensflowError: the file is damaged.
    """
    checked(path)
    try:
        with safe_open(path, framework="pt") as file:
            return LanguageSubspaces(setting.languages, *(file.get_tensor(name) for name in TENSORS))
    except (SafetensorError, FileNotFoundError, KeyError, ValueError) as error:
        raise LensflowError(f"{path}: cannot be read ({error}); delete it and run again") from None
