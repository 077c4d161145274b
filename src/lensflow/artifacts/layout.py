"""Where everything lies below the results folder; the only place that builds or parses such a path.

A path holds identifiers only. Every value that changes a result stands in its stage's configuration.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lensflow.errors import LensflowError

BASE = "base"  # the untouched backbone's method …
NO_SETTING = "none"  # … and the setting that it is evaluated under, once for all languages
ANSWERS = "answers.json"
SCORES = "scores.json"
JUDGED = "judged.json"
DELTA = "delta.safetensors"
INTERVENTION = "intervention.safetensors"
SAMPLES = "samples"
_FILE = re.compile(r"(?:.*/)?([^/]+)/([^/]+)/([^/]+)/seed(\d+)/[^/]+")
# Folders of the results that stand where those of backbones and of settings do.
RESERVED = {
    "backbones": {"benchmarks", "cells", "data", "figures", "tables", "timings", "verdicts"},
    "settings": {"backbone", "hidden_states", NO_SETTING},
}


class Place(NamedTuple):
    """A checkpoint: a backbone as a method left it."""

    backbone: str
    setting: str
    method: str
    seed: int

    @property
    def folder(self) -> str:
        """The folder of its results, below the results folder."""
        return f"{self.backbone}/{self.setting}/{self.method}/seed{self.seed}"

    @property
    def is_base(self) -> bool:
        """Whether this is the untouched backbone."""
        return self.method == BASE

    def samples(self, benchmark: str, language: str) -> str:
        """The samples of one cell, below the results folder."""
        return f"{self.folder}/{SAMPLES}/{benchmark}.{language}.jsonl"


def place_of(path: Path) -> Place:
    """Return the checkpoint that a file belongs to.

    Args:
        path: a file right in a checkpoint's folder, `.../{backbone}/{setting}/{method}/seed{seed}/{name}`.

    Raises:
        LensflowError: the path has another form.
    """
    if (found := _FILE.fullmatch(path.absolute().as_posix())) is None:
        raise LensflowError(f"{path}: not in a checkpoint's folder; name BACKBONE/SETTING/METHOD/seedN/{path.name}")
    backbone, setting, method, seed = found.groups()
    return Place(backbone, setting, method, int(seed))


def folder_of(run: Path) -> str:
    """Return the folder of a checkpoint as it is named from the results folder."""
    return "/".join(run.absolute().parts[-4:])


def entry(cache: Path, key: str) -> Path:
    """Return the file of an entry of a cache."""
    return cache / key[:2] / f"{key}.json"


def by_language(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the language of each file `.../{language}.suffix` -> the file."""
    return {path.stem: path for path in paths}
