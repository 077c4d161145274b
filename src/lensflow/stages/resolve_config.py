"""The part of the configuration that tables, figures and report need (stage `resolve_config`)."""

from pathlib import Path

from lensflow.schema.stages import Presenting
from lensflow.storage.atomic import write_json


def run(config: Presenting, *, output: Path) -> None:
    """Write the part of the configuration that tables, figures and report need."""
    write_json(output, config.canonical())
