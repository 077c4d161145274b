"""One table of all scores, one of all comparisons with base, and the other tables of results (stage
`collect_scores`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lensflow.artifacts.layout import BASE, NO_SETTING, place_of
from lensflow.artifacts.scores import read
from lensflow.measures import claims, comparisons
from lensflow.measures.catalogue import AGAINST
from lensflow.presentation.writers import csv
from lensflow.schema.parsing import parse
from lensflow.schema.protocol import Protocol
from lensflow.schema.setting import Setting
from lensflow.schema.stages import Collecting
from lensflow.storage.atomic import write_text

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
# Columns of sweeps.csv before the columns of comparisons.csv (where "value" is the score) -> attribute of a point.
SWEPT = {"sweep": "sweep", "at": "value", "by": "by", "of_setting": "of_setting"}


def collect(config: Mapping[str, Any], paths: list[Path], output: Path) -> None:
    """Write the scores and comparisons: one row per score, and one row per cell of the tables.

    Args:
        config: blocks, points of sweeps, benchmarks that only sweeps use, settings, retention margins, the method that
            all others are compared with, and a protocol if there is one (`Plan.collect_scores`).
        paths: `.../{backbone}/{setting}/{method}/seed{seed}/scores.json` of every checkpoint, and judged.json.
        output: the CSV file of the scores. Four files are written beside it. `comparisons.csv` compares all methods
            with base, and `versus.csv` compares them with another method. `claims.csv` holds the verdict on each claim.
            `sweeps.csv` holds the comparisons of every point of a sweep.

    Raises:
        LensflowError: a file is not valid, a cell has two items with the same id, or a claim has no scores.
    """
    rows: list[dict[str, Any]] = []
    runs: dict[comparisons.Place, list[Any]] = {}
    for path in paths:
        content = read(path)
        place = place_of(path)
        runs.setdefault(place, []).extend(content["cells"])
        shared = {key: content[key] for key in ("engine", "dtype", "weights")}
        for cell in content["cells"]:
            where = {key: cell[key] for key in ("benchmark", "language", "cell")}
            # A score has its own weights: the weights of its items.
            rows += [score | place._asdict() | shared | where for score in cell["scores"]]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    write_text(output, _csv(frame))
    blocks = [(backbone, setting) for backbone, setting in config["blocks"]]
    settings = {name: Setting.model_validate(value) for name, value in config["settings"].items()}
    margins = config["retention_margins"]
    swept = set(map(tuple, config["swept"]))
    in_tables = {place: cells for place, cells in runs.items() if place[:3] not in swept}
    main = comparisons.compare(in_tables, blocks, settings, margins)
    write_text(output.with_name("comparisons.csv"), _csv(main))
    direct, against = main.iloc[:0], config["versus"]
    if against is not None:
        direct = comparisons.compare(in_tables, blocks, settings, {}, against)
    direct = direct[direct["difference"].notna()].assign(**{AGAINST: against})[[AGAINST, *main.columns]]
    write_text(output.with_name("versus.csv"), _csv(direct))
    if (protocol := config.get("protocol")) is None:
        decided = claims.by_default(in_tables, blocks, settings, margins)
    else:
        decided = claims.decide(in_tables, parse(Protocol, protocol, "protocol"), settings)
    write_text(output.with_name("claims.csv"), _csv(decided))
    parts = [pd.DataFrame(columns=[*SWEPT, *main.columns])]
    for point in config["sweeps"]:
        backbone, setting = point["backbone"], point["setting"]
        wanted = {(backbone, setting, point["method"]), (backbone, NO_SETTING, BASE)}
        of_point = {
            place: cells
            for place, cells in runs.items()
            if place[:3] in wanted and (place[2] == BASE or place[3] in point["seeds"])
        }
        compared = comparisons.compare(of_point, [(backbone, setting)], settings, margins)
        where = {column: point[name] for column, name in SWEPT.items()}
        parts.append(compared.assign(**where)[[*SWEPT, *main.columns]])
    frame = pd.concat([part for part in parts if len(part)] or parts)
    write_text(output.with_name("sweeps.csv"), _csv(frame))


def _csv(frame: pd.DataFrame) -> str:
    safe = frame.map(lambda value: csv.escape(value) if isinstance(value, str) else value)
    return safe.to_csv(index=False, float_format="%.6g")


def run(config: Collecting, *, scores: Sequence[Path], output: Path) -> None:
    """Collect all scores into one table and compare every method with base."""
    collect(config.canonical(), list(scores), output)
