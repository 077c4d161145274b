import pandas as pd
import pytest

from lensflow.stages import collect_scores
from lensflow.storage.atomic import write_json
from lensflow.storage.verified import read_json


def write(path, share):
    items = [1.0] * round(10 * share) + [0.0] * round(10 - 10 * share)
    score = {"metric": "fidelity", "n": 10, "value": share, "low": 0.1, "high": 0.9, "items": items}
    same = {"benchmark": "generation", "ids": list("abcdefghij"), "scores": [score]}
    cells = [same | {"language": language, "cell": f"{path} {language}"} for language in ("en", "zh")]
    write_json(path, {"engine": "hf", "dtype": "float32", "weights": "w", "cells": cells})
    return path


def test_every_score_has_the_digest_of_the_checkpoint(tmp_path):
    path = write(tmp_path / "tiny/none/base/seed0/scores.json", 0.5)
    content = read_json(path)
    content["cells"][0]["scores"][0]["weights"] = [3] * 10  # of the items
    write_json(path, content)
    blocks = {"blocks": [], "settings": {}, "retention_margins": {}, "versus": None, "sweeps": [], "swept": []}
    collect_scores.collect(blocks, [path], tmp_path / "scores.csv")
    found = pd.read_csv(tmp_path / "scores.csv")
    assert list(found) == list(collect_scores.COLUMNS) and found.weights.tolist() == ["w", "w"]
    assert found.value.tolist() == [0.5, 0.5] and found.method.tolist() == ["base", "base"]


def test_a_sweeps_rows_have_its_value_and_the_score(tmp_path):
    values = {"none/base": 0.5, "en-zh/lens": 0.6, "en-zh/lens.lambda-0.1": 0.7, "en-zh/lens.lambda-3": 0.9}
    paths = [write(tmp_path / "tiny" / place / "seed0/scores.json", share) for place, share in values.items()]
    # Another seed of the method, which the sweep does not have.
    paths.append(write(tmp_path / "tiny/en-zh/lens/seed1/scores.json", 0.1))
    point = {"sweep": "lambda", "by": None, "backbone": "tiny", "of_setting": "en-zh", "setting": "en-zh", "seeds": [0]}
    config = {
        "blocks": [["tiny", "en-zh"]],
        "settings": {"en-zh": {"central": "en", "languages": ["en", "zh"]}},
        "retention_margins": {},
        "versus": None,
        "sweeps": [
            point | {"value": 0.1, "method": "lens.lambda-0.1"},
            point | {"value": 0.3, "method": "lens"},  # its own value: it stands in the tables, too
            point | {"value": 3, "method": "lens.lambda-3"},
        ],
        "swept": [["tiny", "en-zh", "lens.lambda-0.1"], ["tiny", "en-zh", "lens.lambda-3"]],
    }
    collect_scores.collect(config, paths, tmp_path / "scores.csv")
    swept = pd.read_csv(tmp_path / "sweeps.csv")
    assert list(swept)[:4] == ["sweep", "at", "by", "of_setting"] and swept.columns.is_unique
    found = {(row.at, row.method, row.language): row.value for row in swept.itertuples()}
    assert found == pytest.approx(
        {
            (at, method, language): value
            for at, own, share in ((0.1, "lens.lambda-0.1", 0.7), (0.3, "lens", 0.6), (3, "lens.lambda-3", 0.9))
            for method, value in (("base", 0.5), (own, share))
            for language in ("en", "zh")
        }
    )
    # A point stands in no table, and every point is compared with base by itself.
    assert set(pd.read_csv(tmp_path / "comparisons.csv").method) == {"base", "lens"}
    assert swept[swept.method != "base"].difference.tolist() == pytest.approx([0.2, 0.2, 0.1, 0.1, 0.4, 0.4])
