"""The embedded models themselves: engines against each other, and the cache of computed cells."""

from pathlib import Path

import pytest

from lensflow import backbones, evaluation, harness
from lensflow.config import Evaluation, Generation, Likelihood, MultipleChoice, read
from lensflow.data import cldr
from lensflow.evaluation import Cell, Evaluator
from lensflow.files import read_json

ROOT = Path(__file__).parents[2]
NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def config():
    return read([], ROOT)


@pytest.fixture(scope="session")
def manifest(config, tmp_path_factory):
    """The prepared SmolLM2: the demo's if it ran here, else a fresh one."""
    prepared = ROOT / "results" / NAME / "backbone" / "manifest.json"
    if prepared.is_file():
        backbones.verify(prepared)
        return prepared
    output = tmp_path_factory.mktemp("backbone") / "manifest.json"
    backbones.prepare_backbone(config.backbones[NAME], ROOT, output)
    return output


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    from lensflow import corpora
    from lensflow.config import Corpus

    folder = tmp_path_factory.mktemp("data")
    for language in ("en", "zh"):
        source = corpora.folder(Corpus(license="CC0-1.0"), ROOT)
        corpora.pair_data(source, language, folder / "embedded" / f"{language}.jsonl")
    return folder


def test_vllm_and_transformers_agree_on_every_choice_in_float32(config, manifest, data):
    evaluator = Evaluator(manifest, config.backbones[NAME].prompt, Evaluation(dtype="float32"), data)
    template = evaluator.tokenizer.render("{prompt}")
    for language in ("en", "zh"):
        questions = cldr.questions([language])[language]
        rows = {
            engine: harness.multiple_choice(getattr(evaluator, engine), evaluator.tokenizer, questions, template)
            for engine in ("vllm_engine", "transformers_engine")
        }
        assert len(rows["vllm_engine"]) == len(questions) >= 100
        for ours, reference in zip(rows["vllm_engine"], rows["transformers_engine"], strict=True):
            assert ours["id"] == reference["id"]
            assert ours["loglikelihoods"] == pytest.approx(reference["loglikelihoods"], abs=2e-3)
            assert ours["chosen"] == reference["chosen"], ours["id"]


def test_a_computed_cell_is_never_computed_again(config, manifest, data, tmp_path, monkeypatch):
    settings = Evaluation(engine="hf", limit=3)
    prompt = config.backbones[NAME].prompt
    cells = [
        Cell("generation", Generation(kind="generation", max_new_tokens=8), "zh"),
        Cell("likelihood", Likelihood(kind="likelihood"), "zh"),
    ]
    first = tmp_path / "first" / "scores.json"
    evaluation.evaluate(Evaluator(manifest, prompt, settings, data), cells, "code", tmp_path / "cache", first)

    computed = []
    run = Evaluator.run
    monkeypatch.setattr(Evaluator, "run", lambda self, cell: (computed.append(cell.name), run(self, cell))[1])
    again = tmp_path / "renamed" / "scores.json"
    more = [*cells, Cell("cldr", MultipleChoice(kind="multiple_choice"), "zh")]
    evaluation.evaluate(Evaluator(manifest, prompt, settings, data), more, "code", tmp_path / "cache", again)
    assert computed == ["cldr"]  # a new benchmark costs only its own cells
    assert read_json(again)["cells"][:2] == read_json(first)["cells"]
    samples = (tmp_path / "renamed" / "samples" / "generation.zh.jsonl").read_bytes()
    assert samples == (tmp_path / "first" / "samples" / "generation.zh.jsonl").read_bytes()

    computed.clear()
    evaluation.evaluate(Evaluator(manifest, prompt, settings, data), cells, "other code", tmp_path / "cache", again)
    assert computed == ["generation", "likelihood"]


def test_likelihood_equals_the_naive_computation(config, manifest, data):
    import torch
    from transformers import AutoModelForCausalLM

    prompt = config.backbones[NAME].prompt
    evaluator = Evaluator(manifest, prompt, Evaluation(engine="hf", limit=4), data)
    cell = Cell("likelihood", Likelihood(kind="likelihood"), "zh")
    rows = evaluator.run(cell)["samples"]
    model = AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=torch.float32).eval()
    vocabulary = evaluator.tokenizer.vocabulary
    for text, row in zip(evaluator.texts(cell), rows, strict=True):
        ids, inside = evaluator.tokenizer.encode_with_span(text.prompt)
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
