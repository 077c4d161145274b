"""All scores in one tidy table (stage `collect_scores`)."""

from pathlib import Path

import pandas as pd

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


def collect(paths: list[Path], output: Path) -> None:
    """Write one row a score.

    Args:
        paths: `.../{backbone}/{setting}/{method}/seed{seed}/scores.json` of every checkpoint, and judged.json.
        output: the CSV file.
    """
    rows = []
    for path in paths:
        content = read_json(path)
        backbone, setting, method, seed = path.parts[-5:-1]
        place = {"backbone": backbone, "setting": setting, "method": method, "seed": int(seed.removeprefix("seed"))}
        shared = {key: content[key] for key in ("engine", "dtype", "weights")}
        for cell in content["cells"]:
            where = {key: cell[key] for key in ("benchmark", "language", "cell")}
            rows += [place | shared | where | score for score in cell["scores"]]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    write_text(output, frame.to_csv(index=False, float_format="%.6g"))
