"""KL(base ‖ method) per token: 0 for a method that does nothing, and the naive value for one that does something."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lensflow.artifacts import deltas
from lensflow.artifacts.interventions import Intervention
from lensflow.artifacts.weights import WeightFiles
from lensflow.benchmarks.base import Folders
from lensflow.benchmarks.drift import Drift
from lensflow.errors import LensflowError
from lensflow.mathematics.probabilities import coarse_divergence
from lensflow.models import likelihood
from lensflow.models.likelihood import distributions
from lensflow.schema.backbone import Resources
from lensflow.schema.stages import Answering
from lensflow.stages.answer import Listener, Session, Speaker
from lensflow.stages.score import measure
from lensflow.storage.atomic import write_jsonl
from tests import tiny

PROMPT = {"format": "plain", "template": "Q: {prompt}\nA:"}
ITEMS = {f"t-{n}": {"prompt": f"What is {n}?", "own": "A number." * (n + 1)} for n in range(5)}


def log_probabilities(rows: int, size: int, seed: int) -> Any:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)).mul(3).log_softmax(1)


def test_divergence_over_the_whole_vocabulary_is_the_textbooks():
    p, q = log_probabilities(7, 50, 0), log_probabilities(7, 50, 1)
    naive = (p.double().exp() * (p.double() - q.double())).sum(1)
    torch.testing.assert_close(coarse_divergence(p, q), naive, rtol=1e-4, atol=1e-6)
    assert naive.min() > 0.5
    assert coarse_divergence(p, p).tolist() == [0] * 7


def test_divergence_over_the_likeliest_tokens_is_a_little_less():
    p, q = log_probabilities(7, 500, 0), log_probabilities(7, 500, 1)
    whole, kept = coarse_divergence(p, q), p.topk(100, 1).indices
    coarse = coarse_divergence(p.gather(1, kept), q.gather(1, kept))
    assert (coarse <= whole + 1e-9).all() and (coarse > 0.9 * whole).all()


@pytest.fixture(scope="module")
def session(checkpoint, tmp_path_factory) -> Session:
    manifest = tiny.backbone(checkpoint("llama"), tmp_path_factory.mktemp("drift") / "manifest.json")
    config = {"prompt": PROMPT, "evaluation": {"engine": "auto"}, "cells": [], "checkpoints": {}}
    return Session(manifest, Answering.model_validate(config), Resources())


@pytest.fixture
def delta(session, tmp_path) -> Path:
    """A checkpoint with another last layer."""
    files = WeightFiles(session.folder)
    name = f"model.layers.{tiny.LAYERS - 1}.mlp.down_proj.weight"
    deltas.write({name: files.read(name).float() + 0.5}, session.folder, tmp_path / "delta.safetensors")
    return tmp_path / "delta.safetensors"


def kl(session: Session, delta: Path | None, intervention: Intervention | None = None) -> dict[str, Any]:
    benchmark = Drift(kind="drift")
    rows = benchmark.ask(Speaker(session, delta, intervention or Intervention(), "en"), ITEMS, {}, "en", ())
    _, scores = measure(benchmark.samples(rows, ITEMS, "en", ()), benchmark, "en")
    (found,) = (score for score in scores if score["metric"] == "kl")
    assert found["n"] == len(ITEMS)
    return found


def naive(session: Session, change: Any) -> list[float]:
    """KL summed over the tokens of each answer, from whole distributions, a sequence at a time."""
    base, method = (AutoModelForCausalLM.from_pretrained(session.folder).eval() for _ in range(2))
    change(method)
    sums = []
    for item in ITEMS.values():
        ids, inside = session.tokenizer.encode_answered(item["prompt"], item["own"])
        p, q = (model(torch.tensor([ids])).logits[0].double().log_softmax(1) for model in (base, method))
        sums.append(float((p.exp() * (p - q)).sum(1)[:-1][torch.tensor(inside[1:])].sum().detach()))
    return sums


def test_base_does_not_drift(session, delta):
    assert kl(session, None)["value"] == 0
    kl(session, delta)  # and does not after another checkpoint
    assert kl(session, None)["value"] == 0


def test_trained_weights_against_a_naive_loop(session, delta):
    def change(model: Any) -> None:
        with torch.no_grad():
            model.model.layers[tiny.LAYERS - 1].mlp.down_proj.weight.add_(0.5)

    found, expected = kl(session, delta), naive(session, change)
    assert found["items"] == pytest.approx(expected, rel=0.02, abs=1e-6)
    assert found["value"] == pytest.approx(sum(found["items"]) / sum(found["weights"])) and found["value"] > 1e-4
    sizes = [len(f" {item['own']}") + 1 for item in ITEMS.values()]  # a token per byte, and the end
    assert found["weights"] == sizes


def test_the_rest_of_the_vocabulary_counts_as_one(session, delta, monkeypatch):
    whole = kl(session, delta)["value"]
    monkeypatch.setattr(likelihood, "KEPT", 8)
    assert 0 < kl(session, delta)["value"] < whole


def test_steering_drifts_more_the_stronger_it_is(session):
    shift = torch.randn(tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    weak, strong = (kl(session, None, Intervention(shifts={"en": s * shift}))["value"] for s in (0.1, 1.0))
    assert 0 < weak < strong
    assert kl(session, None, Intervention(shifts={"zh": shift}))["value"] == 0


def test_an_instruction_drifts_and_its_tokens_do_not_count(session):
    told = kl(session, None, Intervention(instructions={"en": "Answer in English."}))
    assert told["value"] > 0 and told["weights"] == kl(session, None)["weights"]


def test_positions_before_counted_tokens_are_read(session):
    model = AutoModelForCausalLM.from_pretrained(session.folder).eval()
    ids = [1, 60, 70, 80, 90]
    (found,) = distributions(model, [(ids, [False, False, True, False, True])])
    logp = model(torch.tensor([ids])).logits[0].log_softmax(1)[[1, 3]].detach()
    torch.testing.assert_close(found.logp, logp.gather(1, found.tokens))
    assert found.logp.shape == (2, min(likelihood.KEPT, logp.shape[1]))
    assert (found.logp[:, 0] == found.logp.max(1).values).all()


def test_what_is_asked_is_noted(session):
    listener = Listener(Speaker(session, None, Intervention(instructions={"en": "Say it."}), "en"))
    Drift(kind="drift").ask(listener, ITEMS, {}, "en", ())
    ((name, plain, own),) = listener.requests
    assert name == "drift" and plain != own and listener.engines == {"hf"}


def test_an_item_without_an_answer(tmp_path):
    write_jsonl(tmp_path / "embedded" / "en.jsonl", [{"id": "t-0", "split": "test", "prompt": "?"}])
    with pytest.raises(LensflowError, match=r"line 1: no answer; a benchmark of kind drift needs one"):
        Drift(kind="drift").items(Folders(tmp_path, Path()), "drift", "en")
