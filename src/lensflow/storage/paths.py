"""Paths of the configuration."""

from pathlib import Path


def resolve(path: str, root: Path) -> Path:
    """Return a path of the configuration, relative ones below `root`."""
    return root / Path(path).expanduser()
