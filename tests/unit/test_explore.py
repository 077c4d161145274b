"""The study's exploratory questions (performance/explore.py): numbers by definition, sentences from made-up effects."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from lensflow.errors import LensflowError


@pytest.fixture
def explore(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "performance"))
    return importlib.import_module("explore")


def test_bias_shares_are_r_squared_of_the_centred_logits(explore, tmp_path):
    rng = np.random.default_rng(0)
    head = rng.normal(size=(50, 6)).astype(np.float32)
    save_file({"model.embed_tokens.weight": torch.from_numpy(head)}, tmp_path / "model.safetensors")
    gram = explore.gram_of(tmp_path)
    delta = rng.normal(size=6)
    changes = 0.7 * delta + 0.3 * rng.normal(size=(9, 6))

    logits, constant = changes @ head.T, head @ delta
    logits -= logits.mean(1, keepdims=True)
    constant -= constant.mean()
    fitted = np.linalg.lstsq(np.tile(constant, 9)[:, None], logits.ravel(), rcond=None)[0]
    along = 1 - ((logits - fitted * constant) ** 2).sum() / (logits**2).sum()
    best = 1 - ((logits - logits.mean(0)) ** 2).sum() / (logits**2).sum()
    assert explore.bias_shares(changes, delta, gram) == pytest.approx((along, best), rel=1e-4)
    assert 0 < along < best < 1
    assert explore.bias_shares(np.outer([1, 1, 1], delta), delta, gram) == pytest.approx((1, 1))


def test_a_checkpoint_without_a_known_output_layer(explore, tmp_path):
    save_file({"head": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(LensflowError, match="no output layer"):
        explore.gram_of(tmp_path)


def effect(explore, method, difference, half=0.02, base=0.2):
    return explore.Effect(method, base + difference, difference, difference - half, difference + half)


def test_findings_say_what_the_effects_show(explore, tmp_path):
    changes = {"bias": 0.01, "steer": -0.01, "diffmean": -0.1, "recover": -0.2}
    rungs = [effect(explore, name, change) for name, change in changes.items()]
    central = {"steer": effect(explore, "steer", -0.3), "diffmean": effect(explore, "diffmean", 0.0)}
    found = explore.ladder(rungs, central)
    assert "base is diffmean -0.100 [-0.120, -0.080]; English is shown to suffer under steer." in found.finding
    assert explore.ladder(rungs[:2], {}).finding.startswith("No rung is shown to give fewer")

    lens, near = effect(explore, "lens", 0.05), effect(explore, "lens", 0.08)
    prompts = [effect(explore, "frame", 0.1), effect(explore, "english", -0.2)]
    assert "gives more than Lens: frame +0.100" in explore.frames(prompts, lens, {}).finding
    assert "gives not clearly more or less than Lens" in explore.frames(prompts, near, {}).finding
    assert "gives less than Lens: english" in explore.frames(prompts[1:], lens, {}).finding

    reached = {0.6: -0.05, 0.1: 0.01, 0.3: 0.04}
    found = explore.dose([(place, effect(explore, "lens", change)) for place, change in reached.items()], 0.2)
    assert "at a displacement of 0.30 (0.240; base 0.200;" in found.finding
    assert "0.150 at the largest, 0.60." in found.finding

    gains = {name: effect(explore, "lens", change) for name, change in (("zh", 0.1), ("sw", -0.1), ("bn", 0.0))}
    features = {"fertility": {"zh": 1.0, "sw": 3.0, "bn": 2.0}, "base": {"zh": 0.3, "sw": 0.2, "bn": 0.4}}
    found = explore.languages(gains, features, "lens")
    assert "gain in zh, loss in sw" in found.finding
    assert "The gain goes with fertility most (rank correlation over 3 languages -1.00)." in found.finding
    found = explore.languages(gains, {"base": features["base"]}, "lens")
    assert "Nothing explains the gain; base is the closest (rank correlation over 3 languages +0.50)." in found.finding

    shares = {"lens-gentle": {"zh": (0.5, 0.7), "sw": (0.25, 0.75)}}
    finding = explore.bias(shares).finding
    assert "along W_U δ explains 25% to 50% of how lens-gentle" in finding and "constant 70% to 75%" in finding
    text = explore.page([explore.bias(shares), found])
    assert "![Which languages gain, and why?](explore.languages.svg)" in text
    explore.save(found.figure, tmp_path / "explore.languages")
    assert (tmp_path / "explore.languages.svg").is_file()


def test_effects_are_of_usable_answers_in_one_language(explore):
    columns = ["method", "metric", "language", "value", "difference", "difference_low", "difference_high"]
    rows = [
        ("base", "usable", "targets", 0.2, None, None, None),
        ("lens", "usable", "targets", 0.3, 0.1, 0.05, 0.15),
        ("lens", "usable", "zh", 0.4, 0.2, 0.05, 0.35),
        ("lens", "fidelity", "targets", 0.9, 0.3, 0.2, 0.4),
    ]
    found = explore.effects(pd.DataFrame(rows, columns=columns), "targets")
    assert list(found.values()) == [explore.Effect("lens", 0.3, 0.1, 0.05, 0.15)]
