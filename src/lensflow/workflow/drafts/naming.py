"""Names and paths in a configuration file that is written for the user."""

import re
from collections.abc import Container
from pathlib import Path

from lensflow.artifacts.layout import RESERVED


def new_name(name: str, taken: Container[str]) -> str:
    """Return a name that the configuration accepts and that is not in the catalog yet."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"
    return f"my-{slug}" if slug in taken or slug in RESERVED["backbones"] else slug


def relative(path: Path, folder: Path) -> str:
    """Return a path for a configuration file in `folder`: relative if the path is below the folder, else absolute."""
    full, root = path.expanduser().resolve(), folder.resolve()
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else full.as_posix()
