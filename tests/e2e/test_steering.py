"""Steering the embedded chat model: what it does, in both engines, and with the lines of the model card in vLLM."""

import re
from pathlib import Path

import pytest

from lensflow.artifacts import interventions, texts
from lensflow.artifacts.layout import INTERVENTION
from lensflow.benchmarks.base import Folders
from lensflow.benchmarks.likelihood import Likelihood
from lensflow.cli import main
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.vllm import VllmEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import Resources
from lensflow.schema.decoding import Decoding
from lensflow.stages import pair_data
from lensflow.stages.answer import Cell
from tests.e2e import answering

NAME = "smollm2-135m-instruct"
PROMPTS = ["雨是什么？", "飞机为什么能飞？", "请介绍一下北京。", "猫为什么喜欢睡觉？", "怎样做米饭？"]
ANSWER = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module")
def run(train) -> Path:
    return train({"kind": "logit_bias", "lambda": 0.3, "lambda_unit": "state_norm"})


@pytest.fixture(scope="module")
def by_transformers(config, manifest, run):
    """The tokenizer, prompts as token ids, and their answers under steering and without."""
    tokenizer = PromptTokenizer(manifest.parent, config.backbones[NAME].prompt)
    engine, ids = TransformersEngine(manifest.parent, "float32", tokenizer), [tokenizer.encode(p) for p in PROMPTS]
    with engine.edited(interventions.load(run / INTERVENTION).edit("zh")):
        steered = engine.generate(ids, ANSWER)
    return tokenizer, ids, steered, engine.generate(ids, ANSWER)


def test_steering_raises_the_script_mass(config, manifest, run, tmp_path):
    for language in ("en", "zh"):
        output = tmp_path / "embedded" / f"{language}.jsonl"
        pair_data.pair_data(texts.folder("embedded", Path()), language, output)

    one = answering.session(manifest, config.backbones[NAME].prompt, engine="hf", limit=20)
    folders = Folders(tmp_path, tmp_path)

    def scores(language, run):
        cell = Cell("likelihood", Likelihood(kind="likelihood"), language)
        return answering.samples(one, folders, cell, tmp_path / "cells", run)[1]

    assert scores("zh", run)["script_mass"] > scores("zh", None)["script_mass"] + 0.3
    assert scores("en", run) == scores("en", None)


def test_both_engines_give_the_same_answers(manifest, run, by_transformers):
    tokenizer, ids, steered, plain = by_transformers
    assert steered != plain
    engine = VllmEngine(manifest.parent, "float32", tokenizer, 256, Resources())
    try:
        with engine.edited(interventions.load(run / INTERVENTION).edit("zh")):
            assert engine.generate(ids, ANSWER) == steered
        assert engine.generate(ids, ANSWER) == plain
    finally:
        engine.close()


def test_the_model_cards_lines_for_transformers(config, manifest, train, tmp_path, capsys):
    """An edit of a block, in the model's own chat template."""
    folder, home = train({"kind": "steer", "strength": 2.0}), tmp_path / "home"
    tokenizer = PromptTokenizer(manifest.parent, config.backbones[NAME].prompt)
    engine, ids = TransformersEngine(manifest.parent, "float32", tokenizer), [tokenizer.encode(p) for p in PROMPTS]
    plain = engine.generate(ids, ANSWER)
    with engine.edited(interventions.load(folder / INTERVENTION).edit("zh")):
        expected = engine.generate(ids, ANSWER)
    engine.close()
    assert expected != plain
    delta = folder / "delta.safetensors"
    assert main.main(["export", "--backbone", str(manifest), "--delta", str(delta), str(home)]) == 0
    card = (home / "README.md").read_text()
    (code,) = (found for found in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "lensflow.serving" in found)
    code = code.replace("max_new_tokens=128", f"max_new_tokens={ANSWER.max_new_tokens}")
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        capsys.readouterr()
        exec(code, {"folder": str(home), "question": prompt})
        assert capsys.readouterr().out == answer.text + "\n"


def test_the_model_cards_lines_for_vllm(manifest, run, by_transformers, tmp_path):
    """The exported folder by itself, without Lensflow's engine."""
    tokenizer, ids, steered, _ = by_transformers
    home, delta = tmp_path / "home", run / "delta.safetensors"
    assert main.main(["export", "--backbone", str(manifest), "--delta", str(delta), str(home)]) == 0
    card = (home / "README.md").read_text()
    (code,) = (found for found in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "vllm" in found)
    small = 'LLM(folder, dtype="float32", max_model_len=256, enforce_eager=True, kv_cache_memory_bytes=1 << 28, '
    names = {"folder": str(home)}
    exec(code.replace("LLM(folder, ", small), names)
    names["steered"].max_tokens = ANSWER.max_new_tokens
    outputs = names["llm"].generate([{"prompt_token_ids": prompt} for prompt in ids], names["steered"])
    said = [tokenizer.decode(list(output.outputs[0].token_ids)) for output in outputs]
    assert said == [answer.text for answer in steered]
