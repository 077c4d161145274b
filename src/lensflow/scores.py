"""All scores in one tidy table, and all comparisons with base in another (stage `collect_scores`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lensflow import comparisons
from lensflow.config import Setting
from lensflow.files import read_json, write_text
from lensflow.tables import BASE, NO_SETTING

COLUMNS = (
    "backbone",
    "setting",
    "method",
    "seed",
    "benchmark",
    "metric",
    "language",
    "n",
    "value",
    "low",
    "high",
    "engine",
    "dtype",
    "weights",
    "cell",
)
# Columns of sweeps.csv before those of comparisons.csv, whose "value" is the score's -> what they are of a point.
SWEPT = {"sweep": "sweep", "at": "value", "by": "by", "of_setting": "of_setting"}


def collect(config: Mapping[str, Any], paths: list[Path], output: Path) -> None:
    """Write one row a score, and one row a cell of the tables.

    Args:
        config: blocks, points of sweeps, settings and retention margins (`Plan.collect_scores`).
        paths: `.../{backbone}/{setting}/{method}/seed{seed}/scores.json` of every checkpoint, and judged.json.
        output: the CSV file of the scores; `comparisons.csv` and `sweeps.csv`, the same of every point of a sweep,
            go beside it.
    """
    rows: list[dict[str, Any]] = []
    runs: dict[comparisons.Place, list[Any]] = {}
    for path in paths:
        content = read_json(path)
        backbone, setting, method, folder = path.parts[-5:-1]
        seed = int(folder.removeprefix("seed"))
        runs.setdefault((backbone, setting, method, seed), []).extend(content["cells"])
        place = {"backbone": backbone, "setting": setting, "method": method, "seed": seed}
        shared = {key: content[key] for key in ("engine", "dtype", "weights")}
        for cell in content["cells"]:
            where = {key: cell[key] for key in ("benchmark", "language", "cell")}
            # A score has weights of its own, those of its items.
            rows += [score | place | shared | where for score in cell["scores"]]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    write_text(output, frame.to_csv(index=False, float_format="%.6g"))
    blocks = [(backbone, setting) for backbone, setting in config["blocks"]]
    settings = {name: Setting.model_validate(value) for name, value in config["settings"].items()}
    margins = config["retention_margins"]
    swept = {(point["backbone"], point["setting"], point["method"]) for point in config["sweeps"]}
    in_tables = {place: cells for place, cells in runs.items() if place[:3] not in swept}
    main = comparisons.compare(in_tables, blocks, settings, margins)
    write_text(output.with_name("comparisons.csv"), main.to_csv(index=False, float_format="%.6g"))
    parts = [pd.DataFrame(columns=[*SWEPT, *main.columns])]
    for point in config["sweeps"]:
        backbone, setting = point["backbone"], point["setting"]
        wanted = {(backbone, setting, point["method"]), (backbone, NO_SETTING, BASE)}
        of_point = {place: cells for place, cells in runs.items() if place[:3] in wanted}
        compared = comparisons.compare(of_point, [(backbone, setting)], settings, margins)
        where = {column: point[name] for column, name in SWEPT.items()}
        parts.append(compared.assign(**where)[[*SWEPT, *main.columns]])
    frame = pd.concat([part for part in parts if len(part)] or parts)
    write_text(output.with_name("sweeps.csv"), frame.to_csv(index=False, float_format="%.6g"))
