"""Where everything lies below the results folder; the only place that builds or parses such a path.

A path holds identifiers only. Every value that changes a result stands in its stage's configuration.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BASE = "base"  # the untouched backbone's method …
NO_SETTING = "none"  # … and the setting that it is evaluated under, once for all languages
ANSWERS = "answers.json"
SCORES = "scores.json"
JUDGED = "judged.json"
DELTA = "delta.safetensors"
INTERVENTION = "intervention.safetensors"
SAMPLES = "samples"
# Folders of the results that stand where those of backbones and of settings do.
RESERVED = {
    "backbones": {"benchmarks", "cells", "data", "figures", "tables", "timings", "verdicts"},
    "settings": {"backbone", "hidden_states", NO_SETTING},
}


@dataclass(frozen=True, order=True)
class Place:
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


def place_of(path: Path) -> Place:
    """Return the checkpoint whose file a path is: `.../{backbone}/{setting}/{method}/seed{seed}/{name}`."""
    backbone, setting, method, folder = path.absolute().parts[-5:-1]
    return Place(backbone, setting, method, int(folder.removeprefix("seed")))


def folder_of(run: Path) -> str:
    """Return the folder of a checkpoint as it is named from the results folder."""
    return "/".join(run.absolute().parts[-4:])


def entry(cache: Path, key: str) -> Path:
    """Return the file of an entry of a cache."""
    return cache / key[:2] / f"{key}.json"


def by_language(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the language of each file `.../{language}.suffix` -> the file."""
    return {path.stem: path for path in paths}
