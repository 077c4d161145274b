"""Paths below the results folder; no other module builds or parses such a path.

A path contains identifiers only. Every value that changes a result is in the configuration of its stage.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lensflow.errors import LensflowError

BASE = "base"  # method of the untouched backbone
NO_SETTING = "none"  # setting of the untouched backbone, which is evaluated once for all languages
ANSWERS = "answers.json"
SCORES = "scores.json"
JUDGED = "judged.json"
DELTA = "delta.safetensors"
INTERVENTION = "intervention.safetensors"
SAMPLES = "samples"
_FILE = re.compile(r"(?:.*/)?([^/]+)/([^/]+)/([^/]+)/seed(\d+)/[^/]+")
# Folders of the workflow beside the folders of backbones and of settings, which must have other names.
RESERVED = {
    "backbones": {"benchmarks", "cells", "data", "figures", "tables", "timings", "verdicts"},
    "settings": {"backbone", "hidden_states", NO_SETTING},
}


class Place(NamedTuple):
    """A checkpoint: a backbone after a method, in one setting and with one seed."""

    backbone: str
    setting: str
    method: str
    seed: int

    @property
    def folder(self) -> str:
        """The folder of the checkpoint's results, relative to the results folder."""
        return f"{self.backbone}/{self.setting}/{self.method}/seed{self.seed}"

    @property
    def is_base(self) -> bool:
        """Whether the checkpoint is the untouched backbone."""
        return self.method == BASE

    def samples(self, benchmark: str, language: str) -> str:
        """The file with the samples of one cell, relative to the results folder."""
        return f"{self.folder}/{SAMPLES}/{benchmark}.{language}.jsonl"


def place_of(path: Path) -> Place:
    """Return the checkpoint that a file belongs to.

    Args:
        path: a file directly in a checkpoint's folder, `.../{backbone}/{setting}/{method}/seed{seed}/{name}`.

    Raises:
        LensflowError: the path has another form.
    """
    if (found := _FILE.fullmatch(path.absolute().as_posix())) is None:
        raise LensflowError(f"{path}: not in a checkpoint's folder; name BACKBONE/SETTING/METHOD/seedN/{path.name}")
    backbone, setting, method, seed = found.groups()
    return Place(backbone, setting, method, int(seed))


def folder_of(run: Path) -> str:
    """Return the path of a checkpoint's folder, relative to the results folder."""
    return "/".join(run.absolute().parts[-4:])


def entry(cache: Path, key: str) -> Path:
    """Return the file in which a cache stores an entry."""
    return cache / key[:2] / f"{key}.json"


def by_language(paths: Iterable[Path]) -> dict[str, Path]:
    """Map each language to its file `.../{language}.suffix`."""
    return {path.stem: path for path in paths}
