"""What tables, figures and report read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lensflow.artifacts.costs import read as read_cost
from lensflow.errors import LensflowError
from lensflow.presentation import sheets, tables
from lensflow.presentation.applied import marked, not_applied
from lensflow.presentation.names import TABLES
from lensflow.provenance import preparation
from lensflow.schema.setting import Setting
from lensflow.storage.integrity import checked


def settings_of(config: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the settings of what `Plan.presentation` gives."""
    return {name: Setting.model_validate(value) for name, value in config["settings"].items()}


def trainings_of(costs: Sequence[Path]) -> dict[tuple[str, str, str, int], dict[str, Any]]:
    """Return what trainings took and did: backbone, setting, method and seed -> cost.json."""
    found = {}
    for path in costs:
        backbone, setting, method, seed = path.parts[-5:-1]
        found[backbone, setting, method, int(seed.removeprefix("seed"))] = read_cost(path)
    return found


def blocks_of(config: Mapping[str, Any], comparisons: Path, costs: Sequence[Path]) -> list[tables.Block]:
    """Return the main table, from comparisons.csv; cost.json of the trainings says which methods were not applied."""
    try:
        frame = pd.read_csv(checked(comparisons), dtype={"seeds": str})
    except FileNotFoundError:
        raise LensflowError(f"{comparisons}: no such file; run collect-scores") from None
    wanted = [tuple(pair) for pair in config["blocks"]]
    blocks = _arranged(config, frame, costs)
    return [block for block in blocks if (block.backbone, block.setting) in wanted]


def versus_of(config: Mapping[str, Any], path: Path, costs: Sequence[Path]) -> dict[tuple[str, str], tables.Block]:
    """The blocks of versus.csv by backbone and setting; none where nothing was compared."""
    frame = pd.read_csv(checked(path), dtype={"seeds": str})
    if frame.empty:
        return {}
    return {(block.backbone, block.setting): block for block in _arranged(config, frame, costs)}


def _arranged(config: Mapping[str, Any], cells: pd.DataFrame, costs: Sequence[Path]) -> list[tables.Block]:
    order, told = config.get("order", config["methods"]), config.get("told_language", ())
    blocks = tables.main_table(cells, settings_of(config), list(order), told)
    return marked(blocks, not_applied(trainings_of(costs)))


def command_for(config: Mapping[str, Any], target: str) -> str:
    """The command that makes a file below the results folder again, from nothing if need be."""
    return f"{config['command']} {config['results']}/{target}"


def sheets_of(
    config: Mapping[str, Any], blocks: Sequence[tables.Block], versus: Path, costs: Sequence[Path]
) -> dict[str, list[sheets.Sheet]]:
    """The tables beside the main one, by name."""
    direct = versus_of(config, versus, costs)
    found: dict[str, list[sheets.Sheet | None]] = {name: [] for name in TABLES if name != "main"}
    for block in blocks:
        measured = {}
        for path in costs:
            backbone, setting, method, seed = path.parts[-5:-1]
            if (backbone, setting) == (block.backbone, block.setting):
                prepared = {"prepared_seconds": preparation.prepared_seconds(path)}
                measured[method, int(seed.removeprefix("seed"))] = read_cost(path) | prepared
        found["summary"].append(sheets.summary(block))
        found["ablation"].append(sheets.ablation(block, config["methods"], measured))
        if compared := direct.get((block.backbone, block.setting)):
            found["versus"].append(sheets.versus(compared, config["versus"]))
        found["cost"].append(sheets.cost(block, measured))
    return {name: [sheet for sheet in all_of_it if sheet is not None] for name, all_of_it in found.items()}
