"""A backbone trained through the command line, and what a user takes home."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lensflow.cli import main
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.vllm import VllmEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import Resources

NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def run(train) -> Path:
    """The folder of a short, violent training."""
    return train({"kind": "lens", "lr": 1e-3, "lambda_unit": "state_norm", "lambda": 0.5, "batch_size": 4, "epochs": 3})


@pytest.fixture(scope="module")
def exported(run, manifest) -> Path:
    """What `lensflow export` gives the user."""
    folder = run / "taken-home"
    delta = run / "delta.safetensors"
    assert main.main(["export", "--backbone", str(manifest), "--delta", str(delta), str(folder)]) == 0
    return folder


def test_transformers_and_vllm_run_the_trained_model(config, run, manifest, exported):
    tokenizer = PromptTokenizer(exported, config.backbones[NAME].prompt)
    pairs = [("What is rain?", "Water"), ("雨是什么？", "水从云中落下"), ("Habari", "nzuri sana")]
    requests = [(tokenizer.encode(text), tokenizer.tokenizer.encode(answer).ids) for text, answer in pairs]

    trained = AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=torch.float32).eval()
    untouched = naive_scores(trained, requests)
    assert trained.load_state_dict(load_file(run / "delta.safetensors"), strict=False).unexpected_keys == []
    wanted = naive_scores(trained, requests)
    assert max(abs(a - b) for a, b in zip(untouched, wanted, strict=True)) > 0.5  # the training moved it

    exported_model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    ids = torch.tensor([requests[1][0]])
    with torch.no_grad():
        assert torch.equal(exported_model(ids).logits, trained(ids).logits)
    for engine in (
        TransformersEngine(exported, "float32", tokenizer),
        VllmEngine(exported, "float32", tokenizer, 256, Resources()),
    ):
        assert [score for score, _ in engine.loglikelihoods(requests)] == pytest.approx(wanted, abs=2e-3)


@torch.no_grad()
def naive_scores(model, requests):
    scores = []
    for context, continuation in requests:
        logp = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
        positions = range(len(context) - 1, len(context) + len(continuation) - 1)
        scores.append(sum(float(logp[i, token]) for i, token in zip(positions, continuation, strict=True)))
    return scores


def test_the_model_card_says_what_it_is(exported, run, manifest):
    card = ModelCard.load(exported / "README.md")
    assert card.data.language == ["en", "zh"]
    assert (card.data.license, card.data.license_name) == ("apache-2.0", None)
    source = json.loads(manifest.read_text())["source"]
    for said in (
        source["package"],
        source["sha256"],
        "corpus `embedded`",
        "lambda_unit: state_norm",
        "Not evaluated yet",
    ):
        assert said in card.text
    for name in load_file(run / "delta.safetensors"):
        assert f"- `{name}`" in card.text


def test_the_model_card_has_the_scores_beside_the_backbones(run, manifest, tmp_path):
    def scores(value):
        score = {"metric": "accuracy", "n": 40, "value": value, "low": value - 0.1, "high": value + 0.1}
        return json.dumps({"cells": [{"benchmark": "cldr", "language": "zh", "scores": [score]}]})

    base = run.parents[2] / "none" / "base" / "seed0" / "scores.json"
    base.parent.mkdir(parents=True)
    base.write_text(scores(0.5))
    (run / "scores.json").write_text(scores(0.75))
    try:
        delta = run / "delta.safetensors"
        assert main.main(["export", "--backbone", str(manifest), "--delta", str(delta), str(tmp_path / "home")]) == 0
    finally:
        (run / "scores.json").unlink()
    row = "| cldr | zh | accuracy | 0.500 [0.400, 0.600] | 0.750 [0.650, 0.850] | 40 |"
    assert row in (tmp_path / "home" / "README.md").read_text()
