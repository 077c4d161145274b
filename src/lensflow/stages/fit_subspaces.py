"""Subspaces of every layer from hidden states (stage `fit_subspaces`)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from lensflow.artifacts.layout import by_language
from lensflow.artifacts.states import load
from lensflow.artifacts.texts import read_texts
from lensflow.errors import LensflowError
from lensflow.mathematics.subspaces import directions, fit_subspaces
from lensflow.schema.setting import Setting
from lensflow.schema.stages import Fitting
from lensflow.storage.atomic import atomic_path
from lensflow.storage.digests import canonical_json
from lensflow.storage.journal import used


def fit(setting: Setting, states: dict[str, Path], texts: dict[str, Path], output: Path) -> None:
    """Fit the subspaces of a setting on the training split of its probing corpus.

    Args:
        setting: languages, central language, rank and space.
        states: for each language, the output of `extract_hidden_states`.
        texts: for each language, the output of `pair_data`.
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
        loaded = load(states[language])
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


def run(config: Fitting, *, states: Sequence[Path], texts: Sequence[Path], output: Path) -> None:
    """Fit the language subspaces of every layer."""
    fit(config.setting, by_language(states), by_language(texts), output)
