"""What tables, figures and report read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lensflow.errors import LensflowError
from lensflow.presentation import comparison_tables, cost_table
from lensflow.presentation.blocks import Block, main_table
from lensflow.presentation.figure_list import TABLES
from lensflow.presentation.sheets import Sheet
from lensflow.provenance import preparation
from lensflow.schema.setting import Setting
from lensflow.storage.integrity import checked
from lensflow.storage.verified import read_json


def settings_of(config: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the settings of what `Plan.presentation` gives."""
    return {name: Setting.model_validate(value) for name, value in config["settings"].items()}


def blocks_of(config: Mapping[str, Any], comparisons: Path) -> list[Block]:
    """Return the main table, from comparisons.csv."""
    try:
        frame = pd.read_csv(checked(comparisons), dtype={"seeds": str})
    except FileNotFoundError:
        raise LensflowError(f"{comparisons}: no such file; run collect-scores") from None
    wanted = [tuple(pair) for pair in config["blocks"]]
    blocks = _arranged(config, frame)
    return [block for block in blocks if (block.backbone, block.setting) in wanted]


def versus_of(config: Mapping[str, Any], path: Path) -> dict[tuple[str, str], Block]:
    """The blocks of versus.csv by backbone and setting; none where nothing was compared."""
    frame = pd.read_csv(checked(path), dtype={"seeds": str})
    if frame.empty:
        return {}
    return {(block.backbone, block.setting): block for block in _arranged(config, frame)}


def _arranged(config: Mapping[str, Any], cells: pd.DataFrame) -> list[Block]:
    order, told = config.get("order", config["methods"]), config.get("told_language", ())
    return main_table(cells, settings_of(config), list(order), told)


def command_for(config: Mapping[str, Any], target: str) -> str:
    """The command that makes a file below the results folder again, from nothing if need be."""
    return f"{config['command']} {config['results']}/{target}"


def sheets_of(
    config: Mapping[str, Any], blocks: Sequence[Block], versus: Path, costs: Sequence[Path]
) -> dict[str, list[Sheet]]:
    """The tables beside the main one, by name."""
    direct = versus_of(config, versus)
    found: dict[str, list[Sheet | None]] = {name: [] for name in TABLES if name != "main"}
    for block in blocks:
        measured = {}
        for path in costs:
            backbone, setting, method, seed = path.parts[-5:-1]
            if (backbone, setting) == (block.backbone, block.setting):
                prepared = {"prepared_seconds": preparation.prepared_seconds(path)}
                measured[method, int(seed.removeprefix("seed"))] = read_json(path) | prepared
        found["summary"].append(comparison_tables.summary(block))
        found["ablation"].append(comparison_tables.ablation(block, config["methods"]))
        if compared := direct.get((block.backbone, block.setting)):
            found["versus"].append(comparison_tables.versus(compared, config["versus"]))
        found["cost"].append(cost_table.cost(block, measured))
    return {name: [sheet for sheet in all_of_it if sheet is not None] for name, all_of_it in found.items()}
