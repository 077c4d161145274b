"""All scores in one tidy table, and all comparisons with base in another (stage `collect_scores`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lensflow import comparisons
from lensflow.config import Setting
from lensflow.files import read_json, write_text

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


def collect(config: Mapping[str, Any], paths: list[Path], output: Path) -> None:
    """Write one row a score, and one row a cell of the tables.

    Args:
        config: blocks, settings and retention margins (`Plan.collect_scores`).
        paths: `.../{backbone}/{setting}/{method}/seed{seed}/scores.json` of every checkpoint, and judged.json.
        output: the CSV file of the scores; `comparisons.csv` goes beside it.
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
            rows += [place | shared | where | score for score in cell["scores"]]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    write_text(output, frame.to_csv(index=False, float_format="%.6g"))
    blocks = [(backbone, setting) for backbone, setting in config["blocks"]]
    settings = {name: Setting.model_validate(value) for name, value in config["settings"].items()}
    cells = comparisons.compare(runs, blocks, settings, config["retention_margins"])
    write_text(output.with_name("comparisons.csv"), cells.to_csv(index=False, float_format="%.6g"))
