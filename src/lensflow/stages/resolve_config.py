"""What tables, figures and report need of the configuration (stage `resolve_config`)."""

from pathlib import Path

from lensflow.schema.stages import Presenting
from lensflow.storage.atomic import write_json


def run(config: Presenting, *, output: Path) -> None:
    """Write down what tables, figures and report need of the configuration."""
    write_json(output, config.canonical())
