"""The embedded models themselves: engines against each other, and the cache of computed cells."""

import os
from pathlib import Path

import pytest
from lensflow.stages.evaluate import Cell, Evaluator, Inputs

from lensflow.artifacts import texts
from lensflow.benchmarks.generation import Generation
from lensflow.benchmarks.likelihood import Likelihood
from lensflow.schema.backbone import Resources
from lensflow.schema.evaluation import Evaluation
from lensflow.stages import evaluate, fetch_items, pair_data
from lensflow.storage.verified import read_json

ROOT = Path(__file__).parents[2]
NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def inputs(config, manifest, tmp_path_factory):
    """The embedded corpus and questions in two languages."""
    folder = tmp_path_factory.mktemp("data")
    source = texts.folder("embedded", ROOT)
    cldr = config.benchmarks["cldr"]
    for language in ("en", "zh"):
        pair_data.pair_data(source, language, folder / "corpora" / "embedded" / f"{language}.jsonl")
        output = folder / "items" / "cldr" / f"{language}.jsonl"
        fetch_items.fetch("cldr", cldr.dataset, language, cldr.languages[language], None, output)
    return Inputs(manifest, folder / "corpora", folder / "items", (ROOT,))


def evaluator(config, inputs, **settings):
    return Evaluator(inputs, config.backbones[NAME].prompt, Evaluation(**settings), Resources())


def test_vllm_and_transformers_agree_on_every_choice_in_float32(config, inputs):
    engines = [evaluator(config, inputs, engine=engine) for engine in ("vllm", "hf")]
    for language in ("en", "zh"):
        cell = Cell("cldr", config.benchmarks["cldr"], language)
        for engine in engines:
            engine.prepare([cell])
        by_vllm, by_transformers = (engine.run(cell)["samples"] for engine in engines)
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
def test_answers_are_those_of_lm_evals_own_hf_model(config, manifest, tmp_path, benchmark, language):
    """To the item, on the tasks as lm-eval defines them; generated answers too."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    task, limit = config.benchmarks[benchmark], 2 if benchmark == "mgsm" else 30
    fetch_items.fetch(
        benchmark, task.dataset, language, task.languages[language], HUB, tmp_path / f"{benchmark}/{language}.jsonl"
    )
    cell = Cell(benchmark, task, language)
    one = evaluator(config, Inputs(manifest, tmp_path, tmp_path, (ROOT,)), engine="hf", limit=limit)
    one.prepare([cell])
    ours = one.run(cell)["samples"]
    assert len(ours) == limit

    lm = HFLM(pretrained=str(manifest.parent), dtype="float32", device="cpu", batch_size=4)
    loaded = one._runs[cell.place].loaded
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


def test_a_computed_cell_is_never_computed_again(config, inputs, tmp_path, monkeypatch):
    settings = {"engine": "hf", "limit": 3}
    cells = [
        Cell("generation", Generation(kind="generation", max_new_tokens=8), "zh"),
        Cell("likelihood", Likelihood(kind="likelihood"), "zh"),
    ]
    first = tmp_path / "first" / "scores.json"
    evaluate.evaluate(evaluator(config, inputs, **settings), cells, "code", tmp_path / "cache", first)

    computed = []
    compute = Evaluator.run
    monkeypatch.setattr(Evaluator, "run", lambda self, cell: (computed.append(cell.name), compute(self, cell))[1])
    again = tmp_path / "renamed" / "scores.json"
    more = [*cells, Cell("cldr", config.benchmarks["cldr"], "zh")]
    evaluate.evaluate(evaluator(config, inputs, **settings), more, "code", tmp_path / "cache", again)
    assert computed == ["cldr"]  # a new benchmark costs only its own cells
    assert read_json(again)["cells"][:2] == read_json(first)["cells"]
    samples = (tmp_path / "renamed" / "samples" / "generation.zh.jsonl").read_bytes()
    assert samples == (tmp_path / "first" / "samples" / "generation.zh.jsonl").read_bytes()

    computed.clear()
    evaluate.evaluate(evaluator(config, inputs, **settings), cells, "other code", tmp_path / "cache", again)
    assert computed == ["generation", "likelihood"]


def test_likelihood_equals_the_naive_computation(config, manifest, inputs):
    import torch
    from transformers import AutoModelForCausalLM

    one = evaluator(config, inputs, engine="hf", limit=4)
    rows = one.run(Cell("likelihood", Likelihood(kind="likelihood"), "zh"))["samples"]
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
