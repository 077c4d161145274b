"""All scores in one tidy table, all comparisons with base in another, and so on (stage `collect_scores`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
from pydantic import Field, model_validator

from lensflow import comparisons
from lensflow.config import Language, Name, Setting, Strict, parse
from lensflow.files import read_json, write_text
from lensflow.tables import AGAINST, BASE, NO_SETTING, escape_csv

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

# Far beyond any score, and far from where sums of squares overflow.
Finite = Annotated[float, Field(ge=-1e12, le=1e12)]
Weight = Annotated[float, Field(ge=0, le=1e12)]


class _Score(Strict):
    """What `evaluation.score` gives."""

    metric: Name
    n: Annotated[int, Field(ge=0)]
    value: Finite | None
    low: Finite | None
    high: Finite | None
    items: list[Finite | None]
    weights: list[Weight] | None = None


class _Cell(Strict):
    """A benchmark in a language."""

    benchmark: Name
    language: Language
    cell: str
    ids: list[str]
    scores: list[_Score]
    # Package -> version, and the machine as records name it; not in judged.json.
    made_with: dict[str, str] = Field(default_factory=dict)
    made_on: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        for score in self.scores:
            if len(score.items) != len(self.ids) or len(score.weights or self.ids) != len(self.ids):
                raise ValueError(f"{score.metric}: not one item and weight for each of the {len(self.ids)} ids")
        return self


class _Scores(Strict):
    """A scores.json or judged.json."""

    weights: str
    engine: str
    dtype: str
    cells: list[_Cell]


def read(path: Path) -> dict[str, Any]:
    """Read and check what `evaluate` or `judge` wrote.

    Raises:
        LensflowError: the file is missing or not of their making; names the key.
    """
    content: dict[str, Any] = read_json(path)
    parse(_Scores, content, str(path))
    return content


def collect(config: Mapping[str, Any], paths: list[Path], output: Path) -> None:
    """Write one row a score, and one row a cell of the tables.

    Args:
        config: blocks, points of sweeps, what sweeps alone ask for, settings, retention margins and the method that all
            others are compared with (`Plan.collect_scores`).
        paths: `.../{backbone}/{setting}/{method}/seed{seed}/scores.json` of every checkpoint, and judged.json.
        output: the CSV file of the scores. Beside it go `comparisons.csv`, `versus.csv`, the same against another
            method than base, and `sweeps.csv`, the same of every point of a sweep.

    Raises:
        LensflowError: a file is not valid, or a cell has two items of one id.
    """
    rows: list[dict[str, Any]] = []
    runs: dict[comparisons.Place, list[Any]] = {}
    for path in paths:
        content = read(path)
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
    safe = frame.map(lambda value: escape_csv(value) if isinstance(value, str) else value)
    return safe.to_csv(index=False, float_format="%.6g")
