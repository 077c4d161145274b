"""The embedded chat model is asked in English, and methods are told that answers should be in Chinese."""

import pytest

from lensflow.benchmarks.base import Folders
from lensflow.benchmarks.dataset_generation import DatasetGeneration
from lensflow.schema.parsing import parse
from lensflow.stages.answer import Cell
from lensflow.storage.atomic import write_jsonl
from tests.e2e import answering

NAME = "smollm2-135m-instruct"
TOPICS = ("rain", "bread", "a bridge", "the moon", "a library", "a cat", "winter", "the sea", "tea", "a train")
CROSS = {
    "kind": "dataset_generation",
    "dataset": {"path": "x/y", "columns": ["prompt"]},
    "languages": {"zh": "zh"},
    "prompt_language": "en",
    "max_new_tokens": 24,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        {"kind": "diffmean", "layer": 0.6, "strength": 0.4, "unit": "state_norm"},
        {"kind": "logit_bias", "lambda": 0.8, "lambda_unit": "state_norm"},
    ],
    ids=lambda method: method["kind"],
)
def test_a_method_with_a_target_answers_in_it(config, manifest, train, tmp_path, method):
    items = [{"split": "items", "id": t, "item": {"prompt": f"Tell me about {t}."}} for t in TOPICS]
    write_jsonl(tmp_path / "cross" / "zh.jsonl", items)
    one = answering.session(manifest, config.backbones[NAME].prompt, engine="hf")
    folders, cell = Folders(tmp_path, tmp_path), Cell("cross", parse(DatasetGeneration, CROSS), "zh")

    def faithful(run):
        found, _ = answering.samples(one, folders, cell, tmp_path / "cells", run)
        return sum(sample["faithful"] is True for sample in found)

    assert faithful(train(method)) >= faithful(None) + 4
