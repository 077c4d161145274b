"""Files with the language subspaces of every layer of a backbone."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lensflow.errors import LensflowError
from lensflow.schema.setting import Setting
from lensflow.storage.integrity import checked


@dataclass(frozen=True)
class LanguageSubspaces:
    """The result of `fit_subspaces` for a setting, float32, for L layers, K languages and rank r.

    Attributes:
        languages: K codes, the order of the second dimension below.
        agnostic: (L, d).
        specific: (L, d, r).
        directions: (L, K, d), the δ_l of each language.
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


def load(path: Path, setting: Setting) -> LanguageSubspaces:
    """Read a file from `fit_subspaces` for a setting.

    Raises:
        LensflowError: the file is missing or damaged.
    """
    checked(path)
    try:
        with safe_open(path, framework="pt") as file:
            return LanguageSubspaces(setting.languages, *(file.get_tensor(name) for name in TENSORS))
    except (SafetensorError, FileNotFoundError, KeyError, ValueError) as error:
        raise LensflowError(f"{path}: cannot be read ({error}); delete it and run again") from None
