"""Paths of the configuration."""

from pathlib import Path


def resolve(path: str, root: Path) -> Path:
    """Return a path of the configuration; a relative path starts from `root`."""
    return root / Path(path).expanduser()
