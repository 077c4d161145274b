"""Reading what tables, figures and report are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lensflow.artifacts.layout import Place, place_of
from lensflow.errors import LensflowError
from lensflow.presentation.blocks import Block, TableInputs, main_table
from lensflow.provenance import preparation
from lensflow.schema.setting import Setting
from lensflow.storage.integrity import checked
from lensflow.storage.verified import read_json


@dataclass(frozen=True)
class TableFiles:
    """The files that tables are made from.

    Attributes:
        comparisons: comparisons.csv.
        versus: versus.csv.
        costs: cost.json of each training.
    """

    comparisons: Path
    versus: Path
    costs: Sequence[Path]


def read_inputs(config: Mapping[str, Any], files: TableFiles) -> TableInputs:
    """Read what tables are made from.

    Args:
        config: what `Plan.presentation` gives.
        files: comparisons, and what the trainings took.

    Raises:
        LensflowError: comparisons.csv is missing, or lacks a column.
    """
    blocks, direct = tuple(blocks_of(config, files.comparisons)), _direct(config, files.versus)
    costs = dict(map(_cost, files.costs))
    return TableInputs(blocks, direct, config["versus"], config["methods"], costs)


def settings_of(config: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the settings of what `Plan.presentation` gives."""
    return {name: Setting.model_validate(value) for name, value in config["settings"].items()}


def blocks_of(config: Mapping[str, Any], comparisons: Path) -> list[Block]:
    """Return the blocks that are shown, from comparisons.csv."""
    try:
        frame = pd.read_csv(checked(comparisons), dtype={"seeds": str})
    except FileNotFoundError:
        raise LensflowError(f"{comparisons}: no such file; run collect-scores") from None
    wanted = [tuple(pair) for pair in config["blocks"]]
    return [block for block in _arranged(config, frame) if (block.backbone, block.setting) in wanted]


def _direct(config: Mapping[str, Any], path: Path) -> dict[tuple[str, str], Block]:
    """The blocks of versus.csv by backbone and setting; none where nothing was compared."""
    frame = pd.read_csv(checked(path), dtype={"seeds": str})
    if frame.empty:
        return {}
    return {(block.backbone, block.setting): block for block in _arranged(config, frame)}


def _arranged(config: Mapping[str, Any], cells: pd.DataFrame) -> list[Block]:
    order, told = config.get("order", config["methods"]), config.get("told_language", ())
    return main_table(cells, settings_of(config), list(order), told)


def _cost(path: Path) -> tuple[Place, dict[str, Any]]:
    """What a training and the stages before it took."""
    return place_of(path), read_json(path) | {"prepared_seconds": preparation.prepared_seconds(path)}


def command_for(config: Mapping[str, Any], target: str) -> str:
    """The command that makes a file below the results folder again, from nothing if need be."""
    return f"{config['command']} {config['results']}/{target}"
