"""The published procedure of performance/method.py computes what our stages compute, or the race means nothing."""

import importlib
import json
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lensflow.artifacts import language_subspaces
from lensflow.artifacts.states import save
from lensflow.artifacts.texts import read_texts
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.methods.base import Run, StateFiles
from lensflow.methods.lens import training
from lensflow.methods.lens.config import Lens
from lensflow.models.loading import load_decoder
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting
from lensflow.stages import extract_hidden_states, fit_subspaces
from lensflow.storage.atomic import write_jsonl
from lensflow.workflow.experiment import read
from tests import tiny

PAIRS = 12  # not a multiple of the published probing batch, nor of the training batch
WORDS = {"en": "raisin", "zh": "葡萄干", "sw": "zabibu"}


def benchmark(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "performance")
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def method():
    return benchmark("method")


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_both_sides_fit_the_same_subspaces_and_train_on_the_same_loss(method, checkpoint, tmp_path, family):
    folder = checkpoint(family)
    setting = Setting.model_validate({"central": "en", "languages": list(tiny.LANGUAGES)})
    # A learning rate at which nothing moves: the mean over an epoch then does not depend on the order.
    lens = {"kind": "lens", "retain_on": "mean", "lr": 1e-12, "weights": {"pull": 0.7, "push": 1.3, "retain": 1.0}}
    config = Lens.model_validate(lens | {"lambda": {"zh": 0.5, "sw": 0.9}, "batch_size": 4, "batch_of": "texts"})
    extraction = Extraction(max_tokens=24, truncation_side="right")
    prompt, tokenizer = PlainPrompt(format="plain"), PromptTokenizer(folder, PlainPrompt(format="plain"))
    texts, states = {}, {}
    decoder = load_decoder(folder)
    for language, word in WORDS.items():
        texts[language] = tmp_path / "texts" / f"{language}.jsonl"
        states[language] = tmp_path / "states" / f"{language}.safetensors"
        rows = [{"id": str(i), "split": "train", "prompt": f"{word * (i % 3 + 1)} {i}"} for i in range(PAIRS)]
        write_jsonl(texts[language], rows)
        sequences = extract_hidden_states.tokenize(
            tokenizer, language, read_texts(texts[language], ["train"]), extraction
        )
        with tempfile.TemporaryDirectory() as scratch:
            found = extract_hidden_states.extract(decoder, sequences, extraction, Path(scratch))
        save(states[language], found, sequences.names)
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    fit_subspaces.fit(setting, states, texts, ours)
    delta = tmp_path / "run" / "seed0" / "delta.safetensors"
    files = StateFiles(extraction, ours, states)
    training.train(Run(config, setting, 0, prompt, folder / "manifest.json", texts, delta, files))
    history = [json.loads(line) for line in (delta.parent / "history.jsonl").open()]

    task = {"checkpoint": folder, "dtype": "float32", "prompt": prompt.canonical(), "texts": texts, "pairs": PAIRS}
    task |= {"gpus": 0, "extraction": extraction.canonical(), "languages": list(tiny.LANGUAGES)}
    method.published_probe(task | {"output": theirs})
    fitted, published = language_subspaces.load(ours, setting), load_file(theirs)
    for layer in range(tiny.LAYERS):
        torch.testing.assert_close(published[f"{layer}.agnostic"][:, 0], fitted.agnostic[layer], rtol=1e-3, atol=1e-4)
        basis = published[f"{layer}.specific"]
        mine = fitted.specific[layer]
        torch.testing.assert_close(basis @ basis.mT, mine @ mine.mT, rtol=1e-3, atol=1e-4)
    loss = method.published_train(task | {"subspaces": theirs, "method": config.canonical()})["loss"]
    rows = [row["loss"] for row in history if row["split"] == "train"]
    assert loss == pytest.approx(sum(rows) / len(rows), rel=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_option_is_refused_before_anything_runs(method):
    assert method.device_name(0).endswith(" cores")
    with pytest.raises(LensflowError, match=r"^--gpus 1: this machine has no CUDA device .*; leave the option out$"):
        method.device_name(1)


def test_both_benchmarks_hand_the_gpu_to_the_stages_that_use_one(method, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(method, "spawn", lambda arguments: called.append(arguments[2:]))
    paths = {"backbone": tmp_path, "output": tmp_path}
    method.stage("extract-hidden-states", {}, gpus=1, texts=[tmp_path], backbone=tmp_path, outputs=[tmp_path])
    method.stage("train", {}, gpus=1, subspaces=tmp_path, states=[tmp_path], texts=[tmp_path], **paths)
    called += [[name.replace("_", "-"), *rest] for name, rest in benchmark("stream").stages(tmp_path, 1)]
    parsed = [main.parser().parse_args(list(map(str, arguments))) for arguments in called]
    using = [args.function.args[0].name for args in parsed if getattr(args, "gpus", 0) == 1]
    assert using == ["extract_hidden_states", "train", "extract_hidden_states", "train"]


def test_a_backbone_that_is_not_prepared(tmp_path):
    config = read([], Path(__file__).parents[2])
    for path in (tmp_path / "gemma-3-270m/backbone/manifest.json", tmp_path / "manifest.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pytest.raises(LensflowError, match=r"not the manifest\.json of a prepared backbone; run make demo first"):
            benchmark("measuring").backbone_of(config, path)
        path.touch()
    assert benchmark("measuring").backbone_of(config, tmp_path / "gemma-3-270m/backbone/manifest.json").prompt
