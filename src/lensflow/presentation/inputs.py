"""Reading the files from which tables, figures and report are made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lensflow.artifacts.costs import read as read_cost
from lensflow.artifacts.layout import Place, place_of
from lensflow.presentation.applied import marked, not_applied
from lensflow.presentation.blocks import Block, TableInputs, main_table
from lensflow.presentation.decisions import read_decisions
from lensflow.provenance.preparation import prepared_seconds
from lensflow.schema.setting import Setting
from lensflow.storage.frames import input_table


@dataclass(frozen=True)
class TableFiles:
    """The files from which tables are made.

    Attributes:
        comparisons: comparisons.csv.
        versus: versus.csv.
        claims: claims.csv.
        costs: cost.json of each training.
    """

    comparisons: Path
    versus: Path
    claims: Path
    costs: Sequence[Path]


def read_inputs(config: Mapping[str, Any], files: TableFiles) -> TableInputs:
    """Read the files from which tables are made.

    Args:
        config: the result of `Plan.presentation`.
        files: comparisons, claims, and the costs of trainings.

    Raises:
        LensflowError: comparisons.csv is missing, or lacks a column.
    """
    costs = costs_of(files.costs)
    blocks, direct = tuple(blocks_of(config, files.comparisons, costs)), _direct(config, files.versus, costs)
    decisions, told = read_decisions(files.claims), config.get("told_language", ())
    reported = config.get("reported", {})
    return TableInputs(blocks, direct, config["versus"], config["methods"], costs, decisions, told, reported)


def settings_of(config: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the settings from the result of `Plan.presentation`."""
    return {name: Setting.model_validate(value) for name, value in config["settings"].items()}


Costs = Mapping[Place, Mapping[str, Any]]


def costs_of(files: Iterable[Path]) -> dict[Place, dict[str, Any]]:
    """Return the costs of each training and of the stages before it."""
    return {place_of(path): read_cost(path) | {"prepared_seconds": prepared_seconds(path)} for path in files}


def blocks_of(config: Mapping[str, Any], comparisons: Path, costs: Costs) -> list[Block]:
    """Return the shown blocks from comparisons.csv. The costs say which methods were not applied."""
    frame = input_table(comparisons, ["seeds"])
    wanted = [tuple(pair) for pair in config["blocks"]]
    return [block for block in _arranged(config, frame, costs) if (block.backbone, block.setting) in wanted]


def _direct(config: Mapping[str, Any], path: Path, costs: Costs) -> dict[tuple[str, str], Block]:
    """The blocks of versus.csv by backbone and setting; empty if nothing was compared."""
    frame = input_table(path, ["seeds"])
    if frame.empty:
        return {}
    return {(block.backbone, block.setting): block for block in _arranged(config, frame, costs)}


def _arranged(config: Mapping[str, Any], cells: pd.DataFrame, costs: Costs) -> list[Block]:
    order, told = config.get("order", config["methods"]), config.get("told_language", ())
    blocks = main_table(cells, settings_of(config), list(order), told)
    return marked(blocks, not_applied(costs))


def command_for(config: Mapping[str, Any], target: str) -> str:
    """The command that makes a file below the results folder again, with all missing inputs."""
    return f"{config['command']} {config['results']}/{target}"
