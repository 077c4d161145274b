"""Names and paths in a configuration that is written for the user."""

import re
from collections.abc import Container
from pathlib import Path

from lensflow.artifacts.layout import RESERVED


def new_name(name: str, taken: Container[str]) -> str:
    """Return a name that the configuration accepts and the catalog does not have yet."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"
    return f"my-{slug}" if slug in taken or slug in RESERVED["backbones"] else slug


def relative(path: Path, folder: Path) -> str:
    """Return a path as the configuration in `folder` names it: relative if it is below, else absolute."""
    full, root = path.expanduser().resolve(), folder.resolve()
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else full.as_posix()
