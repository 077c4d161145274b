"""The folder with the workflow's own files: Snakefile, rules, profiles, catalogs and task files."""

from importlib.resources import files
from pathlib import Path

INSTALLED = Path(str(files("lensflow"))) / "project"  # in a clone: links to the same files


def folder() -> Path:
    """Return the folder of the clone, if this is a clone, or the folder of the files that the package installed."""
    here = Path()
    return here if (here / "Snakefile").is_file() and (here / "config/catalog").is_dir() else INSTALLED
