"""Was the method applied? What is left of the way to the push target, and the terms of the loss before and after."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lensflow.artifacts import costs, deltas, language_subspaces
from lensflow.artifacts.interventions import Intervention
from lensflow.errors import LensflowError
from lensflow.methods.lens.config import Lens
from lensflow.methods.registry import AnyMethod
from lensflow.presentation.model_card import hub_license, model_card
from lensflow.schema.extraction import Extraction
from lensflow.schema.parsing import parse
from lensflow.stages.train import train_measured
from lensflow.storage.atomic import write_json
from tests import tiny

FAST = {"kind": "lens", "lr": 3e-3, "batch_size": 4, "epochs": 2, "lambda": 0.5}
OF_EACH = {"zh": 0.5, "sw": 0.8}
TRAIN, ALL = range(13), range(16)


def lens(**changes):
    return Lens.model_validate(FAST | changes)


@pytest.fixture(scope="module")
def without_dev(checkpoint, tmp_path_factory):
    """Texts to train on alone."""
    folder = tmp_path_factory.mktemp("without-dev")
    return tiny.run_stages(checkpoint("llama"), folder, Extraction(batch_tokens=64), dev=0)


def train(files, folder, config, **given):
    """Run the stage; return its folder and cost.json."""
    output = folder / "method" / "seed0" / "delta.safetensors"
    train_measured(files.run(config, output, **given))
    return output.parent, costs.read(output.with_name("cost.json"))


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").open()]


def naive_states(files, delta=None):
    """Last-token states of every text from the whole model, with a delta in it or not."""
    model = AutoModelForCausalLM.from_pretrained(files.checkpoint, dtype=torch.float32).eval()
    model.load_state_dict(load_file(delta) if delta else {}, strict=False)
    with torch.no_grad():
        return {
            code: torch.stack([model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids in of])
            for code, of in files.sequences.items()
        }


def naive(files, config, texts, states, before):
    """Residual and terms of some texts, text by text, with d×d projections."""
    subspaces = language_subspaces.load(files.subspaces["post_norm"], files.setting("post_norm"))
    m_a, m_s = subspaces.agnostic[-1], subspaces.specific[-1]
    p_a, p_s = torch.outer(m_a, m_a) / (m_a @ m_a), m_s @ m_s.T
    left, sums = [], dict.fromkeys(("pull", "push", "retain"), 0.0)
    for index in texts:
        for code in ("zh", "sw"):
            shift = config.strength_of(code) * subspaces.directions[-1, tiny.LANGUAGES.index(code)]
            away = p_s @ states[code][index] - p_s @ before[code][index] - shift
            left.append(float(away.norm() / shift.norm()))
            apart = p_a @ (states[code][index] - states["en"][index])
            moved = states["en"][index] - before["en"][index]
            for name, difference in (("pull", apart), ("push", away), ("retain", moved)):
                sums[name] += float(difference.square().mean()) / (2 * len(texts))
    return sum(left) / len(left), sums


@pytest.mark.parametrize(("family", "dev"), [("llama", True), ("llama", False), ("gemma3", True)])
def test_residual_and_terms_are_those_of_the_whole_model(stages, without_dev, tmp_path, family, dev):
    files, texts = (stages(family), ALL[13:]) if dev else (without_dev, TRAIN)
    config = lens(weights={"pull": 0.7, "push": 1.3, "retain": 2.0}, **{"lambda": OF_EACH})
    folder, cost = train(files, tmp_path, config)
    before, after = naive_states(files), naive_states(files, folder / "delta.safetensors")
    left, after_terms = naive(files, config, texts, after, before)
    untouched, before_terms = naive(files, config, texts, before, before)
    assert cost["residual"] == pytest.approx(left, rel=1e-3)
    assert 0.05 < left < 0.99 and untouched == pytest.approx(1)
    for when, terms in (("before", before_terms), ("after", after_terms)):
        weighted = {name: config.weights.canonical()[name] * value for name, value in terms.items()}
        for name, value in terms.items():
            found = cost["terms"][when][name]
            assert found["value"] == pytest.approx(value, rel=1e-3, abs=1e-9)
            assert found["share"] == pytest.approx(weighted[name] / sum(weighted.values()), rel=1e-3, abs=1e-8)
        assert sum(term["share"] for term in cost["terms"][when].values()) == pytest.approx(1)


@pytest.mark.parametrize("direction", ["own", "random", "permuted"])
def test_a_training_that_does_nothing_leaves_all_of_the_way(stages, tmp_path, direction):
    _, cost = train(stages("llama"), tmp_path, lens(lr=1e-30, direction=direction))
    assert cost["residual"] == pytest.approx(1, abs=1e-5)
    assert cost["terms"]["after"]["push"]["value"] == pytest.approx(cost["terms"]["before"]["push"]["value"])


def test_a_training_to_convergence_leaves_little(without_dev, tmp_path):
    _, cost = train(without_dev, tmp_path, lens(epochs=12))
    assert cost["residual"] < 0.3


def test_a_method_without_a_push_has_no_residual(stages, tmp_path):
    files = stages("llama")
    _, cost = train(files, tmp_path / "a", lens(weights={"push": 0.0}))
    assert "residual" not in cost and cost["terms"]["after"]["push"]["share"] == 0
    _, cost = train(files, tmp_path / "b", lens(**{"lambda": {"zh": 0.0, "sw": 0.0}}))
    assert "residual" not in cost
    steer = parse(AnyMethod, {"kind": "logit_bias"})
    _, cost = train(files, tmp_path / "c", steer)
    assert not {"residual", "terms"} & cost.keys()


def test_a_language_that_is_not_pushed_does_not_count(stages, tmp_path):
    files, config = stages("llama"), lens(**{"lambda": {"zh": 0.5, "sw": 0.0}})
    folder, cost = train(files, tmp_path, config)
    subspaces = language_subspaces.load(files.subspaces["post_norm"], files.setting("post_norm"))
    states, m_s = load_file(folder / "dev_states.safetensors"), subspaces.specific[-1]
    shift = 0.5 * subspaces.directions[-1, 1]
    away = (states["after.zh"] - states["before.zh"] - shift) @ m_s @ m_s.T
    assert cost["residual"] == pytest.approx(float((away.norm(dim=1) / shift.norm()).mean()), rel=1e-4)


# --- Until a residual is reached --------------------------------------------------------------------------------------


def until(residual, epochs):
    return lens(epochs=1, until={"residual": residual, "epochs": epochs}, warmup=0.5)


def test_until_stops_as_soon_as_little_is_left_of_the_train_texts(stages, tmp_path):
    files, config = stages("gemma3"), until(0.4, 30)
    folder, cost = train(files, tmp_path / "a", config)
    rows = history(folder)
    steps = [row for row in rows if row["split"] == "train"]
    left = [row["residual"] for row in rows if "residual" in row]
    assert 1 < len(left) < 30 and len(steps) == 7 * len(left)
    assert all("residual" in row for row in steps if row["step"] % 7 == 0)
    assert left[-1] <= 0.4 < min(left[:-1])
    states = naive_states(files), naive_states(files, folder / "delta.safetensors")
    assert left[-1] == pytest.approx(naive(files, config, TRAIN, states[1], states[0])[0], rel=1e-3)
    assert [row["lr"] for row in steps] == pytest.approx([3e-3 * min(step / 4, 1) for step in range(len(steps))])
    _, one = train(files, tmp_path / "b", lens(epochs=1))
    assert cost["tokens"] == len(left) * one["tokens"]


def test_until_stops_at_the_most_epochs_which_change_nothing_before(stages, tmp_path):
    files = stages("gemma3")
    (shorter, cost), (longer, _) = (train(files, tmp_path / str(n), until(0.01, n)) for n in (2, 3))
    rows, more = history(shorter), history(longer)
    assert [row["step"] for row in rows if "residual" in row] == [7, 14]
    assert len(more) > len(rows) and more[: len(rows)] == rows
    assert cost["residual"] > 0.01


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"until": {"residual": 0.3, "epochs": 20}, "epochs": 2}, "epochs: has no effect with until; set until.epo"),
        ({"until": {"residual": 0.3, "epochs": 20}, "weights": {"push": 0.0}}, "until: nothing is pushed; raise weigh"),
        ({"until": {"residual": 0.3, "epochs": 20}, "lambda": {"zh": 0.0}}, "until: nothing is pushed; raise weights"),
        ({"until": {"residual": 1.0, "epochs": 20}}, "until.residual: must be less than 1, not 1.0"),
        ({"until": {"residual": 0.3}}, "until.epochs: "),
        ({"until": {"residual": 0.3, "epoch": 20}}, "until: unknown key 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_an_until_that_is_refused(keys, message):
    with pytest.raises(LensflowError) as error:
        parse(Lens, {"kind": "lens", **keys})
    assert str(error.value).startswith(f"config: {message}") and "\n" not in str(error.value)


@pytest.mark.parametrize(("left", "marked"), [(0.3, False), (0.31, True), (None, False)])
def test_the_model_card_says_what_was_not_applied(stages, tmp_path, left, marked):
    delta = tmp_path / "tiny" / "trio" / "mine" / "seed0" / "delta.safetensors"
    deltas.write({}, stages("llama").checkpoint, delta)
    setting = stages("llama").setting("post_norm").canonical()
    write_json(
        delta.with_name("config.json"),
        {"setting": setting, "method": {"kind": "lens"}, "prompt": {"format": "plain", "template": "{prompt}"}},
    )
    score = {"metric": "nll", "value": 1.0, "low": None, "high": None, "n": 3}
    cell = {"benchmark": "likelihood", "language": "en", "scores": [score]}
    write_json(delta.with_name("scores.json"), {"cells": [cell]})
    costs.write(delta.with_name("cost.json"), {"residual": left})
    manifest = {"source": {}, "license": "none", "weights": "w", "model_type": "llama", "layers": 4, "hidden_size": 32}
    text = model_card(manifest, delta, Intervention(), biased=False)
    assert "| likelihood | en | nll | – | 1.000 | 3 |" in text
    assert ("\n‡ not applied: after training, more than 0.3 of the way" in text) == marked


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("Apache-2.0", ("apache-2.0", None)),
        ("Gemma Terms of Use", ("gemma", None)),
        ("Llama 3.1 Community License", ("llama3.1", None)),
        ("CC BY 9, mine", ("other", "cc-by-9-mine")),
    ],
)
def test_a_licence_has_the_hubs_form(name, called):
    assert hub_license(name) == called


# --- cost.json --------------------------------------------------------------------------------------------------------


def test_costs_are_checked_as_they_are_written_and_read(tmp_path):
    path = tmp_path / "cost.json"
    terms = {"before": {"pull": costs.Term(value=2.0, share=None)}}
    costs.write(path, {"seconds": 1.5, "energy_joules": None, "residual": 0.4, "terms": terms})
    assert costs.read(path) == {"seconds": 1.5, "residual": 0.4, "terms": {"before": {"pull": {"value": 2.0}}}}
    with pytest.raises(LensflowError, match=r"cost\.json: residual: must be a finite number, not nan$"):
        costs.write(path, {"residual": math.nan})
    for content, message in (
        ('{"residual": -1.0}', "residual: must be greater than or equal to 0, not -1.0"),
        ('{"terms": {"later": {}}}', "terms.later"),
        ('{"terms": {"after": {"push": {"value": 1.0, "share": 1.5}}}}', "terms.after.push.share: must be less than"),
        ('{"second": 1.0}', "unknown key 'second'; did you mean 'seconds'?"),
    ):
        path.write_text(content)
        with pytest.raises(LensflowError) as error:
            costs.read(path)
        assert str(error.value).startswith(f"{path}: {message}")
