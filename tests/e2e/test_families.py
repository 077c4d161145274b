"""Every architecture family through the whole chain, from a sharded checkpoint to scores, on the command line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lensflow.artifacts.texts import SPLITS
from lensflow.cli import main
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_json, read_jsonl
from tests import tiny

LANGUAGES = ("en", "zh")
COUNTS = {"train": 6, "dev": 2, "test": 3}
PROMPT = {"format": "plain", "template": "Q: {prompt}\nA:"}
TEXT = {"en": "What is number {}?", "zh": "第{}个是什么？"}


def run(*arguments: object) -> None:
    assert main.main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize("memory", ["resident", "stream"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_family_from_shards_to_scores(checkpoint, tmp_path, family, dtype, memory):
    source = checkpoint(family, dtype)
    assert len(list(source.glob("*.safetensors"))) > 3
    backbone = tmp_path / "backbone" / "manifest.json"
    stage = {"backbone": {"source": {"kind": "folder", "path": str(source)}, "license": "none", "prompt": PROMPT}}
    run("prepare-backbone", "--config", json.dumps(stage), "--output", backbone)

    for split in SPLITS:
        rows = [
            {"id": f"{split}-{n}", "prompt": {code: text.format(n + 10 * len(split)) for code, text in TEXT.items()}}
            for n in range(COUNTS[split])
        ]
        write_jsonl(tmp_path / "corpus" / f"{split}.jsonl", rows)
    texts = {code: tmp_path / "data" / "mine" / f"{code}.jsonl" for code in LANGUAGES}
    states = {code: tmp_path / "states" / f"{code}.safetensors" for code in LANGUAGES}
    extraction = {"memory": memory, "trainable_layers": 2}
    for code in LANGUAGES:
        stage = {"path": str(tmp_path / "corpus"), "language": code}
        run("pair-data", "--config", json.dumps(stage), "--output", texts[code])
        stage = {"prompt": PROMPT, "extraction": extraction}
        run(
            *("extract-hidden-states", "--config", json.dumps(stage), "--backbone", backbone),
            *("--texts", texts[code], "--output", states[code]),
        )
    setting = {"central": "en", "languages": list(LANGUAGES)}
    files = ("--states", *states.values(), "--texts", *texts.values())
    subspaces = tmp_path / "subspaces.safetensors"
    run("fit-subspaces", "--config", json.dumps({"setting": setting}), *files, "--output", subspaces)
    method = {"kind": "lens", "lr": 1e-2, "batch_size": 2, "warmup": 0.0, "precision": "mixed"}
    stage = {"method": method, "setting": setting, "extraction": extraction, "prompt": PROMPT, "seed": 0}
    delta = tmp_path / "run" / "seed0" / "delta.safetensors"
    run(
        *("train", "--config", json.dumps(stage), "--backbone", backbone, "--subspaces", subspaces),
        *(*files, "--output", delta),
    )
    trained = load_file(delta)
    assert {name.split(".")[2] for name in trained} == {str(tiny.LAYERS - 2), str(tiny.LAYERS - 1)}

    exported = tmp_path / "checkpoint" / "manifest.json"
    run("export-checkpoint", "--backbone", backbone, "--delta", delta, "--output", exported)
    cells = [
        {"name": kind, "benchmark": {"kind": kind, "corpus": "mine"}, "languages": list(LANGUAGES)}
        for kind in ("generation", "likelihood")
    ]
    stage = {"prompt": PROMPT, "evaluation": {"engine": "hf"}, "cells": cells}
    scores = []
    for name, manifest in (("base", backbone), ("trained", exported)):
        output = tmp_path / name / "scores.json"
        run(
            *("evaluate", "--config", json.dumps(stage), "--checkpoint", manifest, "--corpora", tmp_path / "data"),
            *("--items", tmp_path / "none", "--cache", tmp_path / "cells", "--output", output),
        )
        cells_of = {(cell["benchmark"], cell["language"]): cell for cell in read_json(output)["cells"]}
        assert len(cells_of) == 4
        assert all(score["n"] == COUNTS["test"] for cell in cells_of.values() for score in cell["scores"][:1])
        scores.append(cells_of)
    nll = [cells_of["likelihood", "zh"]["scores"][0]["value"] for cells_of in scores]
    assert abs(nll[0] - nll[1]) > 1e-4  # it is another model
    assert len(read_jsonl(Path(tmp_path / "trained" / "samples" / "generation.zh.jsonl"))) == COUNTS["test"]
