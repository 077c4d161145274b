"""The embedded models themselves: engines against each other, swapped weights, and the cache of answered cells."""

import functools
import json
import os
import shutil
from pathlib import Path

import pytest

from lensflow.artifacts import texts
from lensflow.artifacts.items import read_items
from lensflow.benchmarks.base import Folders
from lensflow.benchmarks.generation import Generation
from lensflow.benchmarks.likelihood import Likelihood
from lensflow.benchmarks.lm_eval.tasks import LoadedTask
from lensflow.cli import main
from lensflow.models.engines import registry
from lensflow.schema.decoding import Decoding
from lensflow.stages import answer, fetch_items, pair_data
from lensflow.stages.answer import Cell
from lensflow.storage.verified import read_json
from tests.chain import call
from tests.e2e import answering

ROOT = Path(__file__).parents[2]
NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def folders(config, tmp_path_factory) -> Folders:
    """The embedded corpus and questions in two languages."""
    folder = tmp_path_factory.mktemp("data")
    source = texts.folder("embedded", ROOT)
    cldr = config.benchmarks["cldr"]
    for language in ("en", "zh"):
        pair_data.pair_data(source, language, folder / "corpora" / "embedded" / f"{language}.jsonl")
        output = folder / "items" / "cldr" / f"{language}.jsonl"
        fetch_items.fetch("cldr", cldr.dataset, language, cldr.languages[language], None, output)
    return Folders(folder / "corpora", folder / "items", (ROOT,))


@pytest.fixture
def session(config, manifest):
    """Give a function that starts the backbone with settings of `evaluation`."""
    return functools.partial(answering.session, manifest, config.backbones[NAME].prompt)


def test_vllm_and_transformers_agree_on_every_choice_in_float32(config, folders, session, tmp_path):
    engines = [session(engine=engine, dtype="float32") for engine in ("vllm", "hf")]
    for language in ("en", "zh"):
        cell = Cell("cldr", config.benchmarks["cldr"], language)
        by_vllm, by_transformers = (answering.samples(one, folders, cell, tmp_path)[0] for one in engines)
        assert len(by_vllm) == len(by_transformers) >= 100
        for ours, reference in zip(by_vllm, by_transformers, strict=True):
            assert ours["id"] == reference["id"]
            scores, wanted = ([logp for ((logp, _),) in row["responses"]] for row in (ours, reference))
            assert scores == pytest.approx(wanted, abs=2e-3)
            assert ours["accuracy"] == reference["accuracy"], ours["id"]


HUB = Path(os.environ.get("LENSFLOW_DATASETS_ROOT", ROOT.parent / "shared" / "hub"))
needs_hub = pytest.mark.skipif(not HUB.is_dir(), reason="no local copies of the hub's data sets")


@needs_hub
@pytest.mark.parametrize(("benchmark", "language"), [("xcopa", "sw"), ("xwinograd", "ja"), ("mgsm", "zh")])
def test_answers_are_those_of_lm_evals_own_hf_model(config, manifest, session, tmp_path, benchmark, language):
    """To the item, on the tasks as lm-eval defines them; generated answers too."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    task, limit = config.benchmarks[benchmark], 2 if benchmark == "mgsm" else 30
    fetch_items.fetch(
        benchmark, task.dataset, language, task.languages[language], HUB, tmp_path / f"{benchmark}/{language}.jsonl"
    )
    data = Folders(tmp_path, tmp_path, (ROOT,))
    one = session(engine="hf", dtype="float32", limit=limit)
    ours, _ = answering.samples(one, data, Cell(benchmark, task, language), tmp_path / "cells")
    assert len(ours) == limit

    lm = HFLM(pretrained=str(manifest.parent), dtype="float32", device="cpu", batch_size=4)
    items = dict(list(read_items(tmp_path / f"{benchmark}/{language}.jsonl", "items").items())[:limit])
    fewshot = read_items(tmp_path / f"{benchmark}/{language}.jsonl", "fewshot")
    loaded = LoadedTask(task, **task._loading(items, fewshot, language, (ROOT,))).loaded
    results = evaluate(lm, {"tasks": {loaded.config.task: loaded}}, bootstrap_iters=0, log_samples=True)
    metric, _, name = task.metrics["accuracy"].partition(",")
    logged = results["samples"][loaded.config.task]
    reference = {row["doc_id"]: row for row in logged if name in ("", row["filter"])}
    for number, row in enumerate(ours):
        assert row["accuracy"] == reference[number][metric], row["id"]
        for mine, theirs in zip(row["responses"], reference[number]["resps"], strict=True):
            if benchmark == "mgsm":
                assert mine[0] == theirs[0]
            else:
                assert mine[0][0] == pytest.approx(theirs[0][0], abs=2e-3)


def answer_run(config, manifest, folders, runs, cells, cache, **settings) -> None:
    """Run the stage `answer` for the checkpoints in some folders."""
    kinds = [{"name": c.name, "benchmark": c.benchmark.canonical(), "languages": [c.language]} for c in cells]
    stage = {
        "prompt": config.backbones[NAME].prompt.canonical(),
        "evaluation": settings,
        "cells": kinds,
        "checkpoints": {"/".join(run.parts[-4:]): list(range(len(cells))) for run in runs},
    }
    given = {"backbone": manifest, "runs": runs, "corpora": folders.corpora, "items": folders.items, "tasks": [ROOT]}
    assert main.main(call("answer", stage, cache=cache, **given)) == 0


def counted(monkeypatch, module, name) -> list[str]:
    """Return the list to which each call of a function adds a name."""
    calls, function = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: (calls.append(module.__name__), function(*args))[1])
    return calls


def test_an_answered_cell_is_never_answered_again(config, manifest, folders, tmp_path, monkeypatch):
    settings, cache = {"engine": "hf", "limit": 3}, tmp_path / "cells"
    cells = [
        Cell("generation", Generation(kind="generation", max_new_tokens=8), "zh"),
        Cell("likelihood", Likelihood(kind="likelihood"), "zh"),
    ]
    first, again = (tmp_path / name / "none" / "base" / "seed0" for name in ("first", "renamed"))
    answer_run(config, manifest, folders, [first], cells, cache, **settings)

    asked = []
    compute = answer.Answerer._ask

    def ask(self, cell, asker):
        if isinstance(asker, answer.Speaker):
            asked.append(cell.name)
        return compute(self, cell, asker)

    monkeypatch.setattr(answer.Answerer, "_ask", ask)
    more = [*cells, Cell("cldr", config.benchmarks["cldr"], "zh")]
    answer_run(config, manifest, folders, [again], more, cache, **settings)
    assert asked == ["cldr"]  # a new benchmark costs only its own cells
    assert read_json(again / "answers.json")["cells"][:2] == read_json(first / "answers.json")["cells"]

    asked.clear()
    monkeypatch.setattr(answer, "code_digest", lambda *modules: "other code")
    answer_run(config, manifest, folders, [again], cells, cache, **settings)
    assert asked == ["generation", "likelihood"]


VIOLENT = {"kind": "lens", "lr": 1e-3, "lambda_unit": "state_norm", "lambda": 0.5, "batch_size": 4, "epochs": 3}
PROMPTS = ["What is rain?", "雨是什么？", "飞机为什么能飞？", "Habari"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["hf", "vllm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_after_a_swap_back_the_backbone_answers_with_the_same_bits(session, train, engine, dtype):
    one, run = session(engine=engine, dtype=dtype), train(VIOLENT)
    base, trained = answering.speaker(one, None, "zh"), answering.speaker(one, run, "zh")
    prompts = [one.tokenizer.encode(text) for text in PROMPTS]
    requests = [(prompt, one.tokenizer.encode_plain(" 水从云中落下")) for prompt in prompts]

    def said(speaker):
        answers = speaker.generate(prompts, Decoding(max_new_tokens=12))
        return answers, speaker.loglikelihoods(requests)

    before, moved, after = said(base), said(trained), said(base)
    assert after == before
    assert all(ours != theirs for ours, theirs in zip(moved[1], before[1], strict=True))
    assert moved[0] != before[0]
    assert said(trained) == moved


@pytest.mark.slow
def test_each_engine_starts_once_for_all_checkpoints(config, manifest, folders, train, tmp_path, monkeypatch):
    """Base, a method that changes weights and one that edits states, with the engines that `auto` takes."""
    runs = [tmp_path / NAME / "none" / "base" / "seed0"]
    bias = {"kind": "logit_bias", "lambda": 0.3, "lambda_unit": "state_norm"}
    for kind, method in (("lens", VIOLENT), ("logit_bias", bias)):
        runs.append(tmp_path / NAME / "en-zh" / kind / "seed0")
        shutil.copytree(train(method), runs[-1])
    cells = [
        Cell("generation", Generation(kind="generation", max_new_tokens=8), "zh"),
        Cell("cldr", config.benchmarks["cldr"], "zh"),
    ]
    starts = {name: counted(monkeypatch, registry.module_of(name), "start") for name in ("vllm", "hf")}
    answer_run(config, manifest, folders, runs, cells, tmp_path / "cells", engine="auto", limit=4)
    assert {name: len(calls) for name, calls in starts.items()} == {"vllm": 1, "hf": 1}
    assert len({json.dumps(read_json(run / "answers.json")["cells"]) for run in runs}) == 3
    assert len(list((tmp_path / "cells").glob("*/*.json"))) == 6


def test_likelihood_equals_the_naive_computation(manifest, folders, session, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    one = session(engine="hf", dtype="float32", limit=4)
    rows, _ = answering.samples(one, folders, Cell("likelihood", Likelihood(kind="likelihood"), "zh"), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=torch.float32).eval()
    vocabulary = one.tokenizer.vocabulary
    for row in rows:
        ids, inside = one.tokenizer.encode_with_span(row["prompt"])
        with torch.inference_mode():
            logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        counted = [i for i in range(1, len(ids)) if inside[i]]
        assert row["tokens"] == len(counted)
        assert row["nll"] == pytest.approx(-sum(float(logp[i - 1, ids[i]]) for i in counted), rel=1e-4)
        target = latin = 0.0
        for token, probability in enumerate(logp[-1].exp().tolist()):
            letters = [c for c in (vocabulary[token] if token < len(vocabulary) else "") if c.isalpha()]
            if letters and all("\u4e00" <= c <= "\u9fff" or "\u3400" <= c <= "\u4dbf" for c in letters):
                target += probability
            elif letters and all(c.isascii() or "\u00c0" <= c <= "\u024f" for c in letters):
                latin += probability
        assert row["script_mass"] == pytest.approx(target / (target + latin), abs=5e-3)
