"""Where files lie below the results folder."""

import re
from pathlib import Path
from typing import NamedTuple

from lensflow.errors import LensflowError

_FILE = re.compile(r"(?:.*/)?([^/]+)/([^/]+)/([^/]+)/seed(\d+)/[^/]+")


class Place(NamedTuple):
    """Which checkpoint a file belongs to."""

    backbone: str
    setting: str
    method: str
    seed: int

    @property
    def folder(self) -> Path:
        """The checkpoint's folder, from the results folder."""
        return Path(self.backbone, self.setting, self.method, f"seed{self.seed}")

    def samples(self, benchmark: str, language: str) -> Path:
        """The answers of one cell, from the results folder."""
        return self.folder / "samples" / f"{benchmark}.{language}.jsonl"


def place_of(path: Path) -> Place:
    """Return the checkpoint that a file belongs to.

    Args:
        path: a file right in a checkpoint's folder, `.../{backbone}/{setting}/{method}/seed{seed}/{name}`.

    Raises:
        LensflowError: the path has another form.
    """
    if (found := _FILE.fullmatch(path.as_posix())) is None:
        raise LensflowError(f"{path}: not in a checkpoint's folder; name BACKBONE/SETTING/METHOD/seedN/{path.name}")
    backbone, setting, method, seed = found.groups()
    return Place(backbone, setting, method, int(seed))
