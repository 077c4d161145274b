"""How groups of subcommands add themselves to the command line."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError
from lensflow.storage.parsing import parse_json
from lensflow.storage.verified import read_json

Subparsers = Any  # argparse's own type is private
STAGE_CONFIG = "the stage's configuration: a JSON file, or JSON itself (see: lensflow show-config)"
NAME = "lensflow.yaml"  # what `lensflow new` writes


def add_command(
    commands: Subparsers, name: str, function: Callable[..., None], summary: str
) -> argparse.ArgumentParser:
    """Add a subcommand that calls a function with the command's arguments by name."""
    sub = commands.add_parser(name, help=summary, description=summary)
    sub.set_defaults(function=function, refuse=sub.refuse)
    parser: argparse.ArgumentParser = sub
    return parser


def add_configfile(sub: argparse.ArgumentParser) -> None:
    """Add `--configfile`. Without it, `lensflow.yaml` counts if it lies here, else the demo."""
    sub.add_argument(
        "--configfile",
        type=Path,
        nargs="*",
        default=[Path(NAME)] if Path(NAME).is_file() else [],
        help=f"YAML files that are merged with the catalogs (default: {NAME} if it lies here, else the demo)",
    )


def summary_of(function: Callable[..., Any]) -> str:
    """Return the first line of a function's docstring."""
    return (function.__doc__ or "").splitlines()[0]


def is_inline(value: str) -> bool:
    """Return whether the value of `--config` is JSON, not the name of a file."""
    return value.lstrip().startswith("{")


def read_config(value: str) -> Any:
    """Return the content of `--config`.

    Raises:
        LensflowError: the value is neither JSON nor the name of a JSON file.
    """
    if is_inline(value):
        try:
            return parse_json(value)
        except ValueError as error:
            raise LensflowError(f"--config: not valid JSON ({error}); see lensflow show-config") from None
    return read_json(Path(value))


def show(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2)
