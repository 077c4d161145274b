"""The choice of hyperparameters on dev: the rule of config/study/tune.yaml."""

import pandas as pd
import pytest
from performance.tuning import chosen, page, trials

from lensflow.errors import LensflowError

KINDS = {
    "l-1": "lens",
    "l-2": "lens",
    "l-3": "lens",
    "l-4": "lens",
    "s-1": "sft",
    "s-2": "sft",
    "p": "prompt",
    "d": "diffmean",
    "b": "logit_bias",
}
# trial -> usable in the targets, usable in English, KL on English
SCORES = {
    "base": (0.20, 0.70, 0.0),
    "l-1": (0.30, 0.70, 0.02),
    "l-2": (0.30, 0.68, 0.01),  # a tie, with the lower KL
    "l-3": (0.50, 0.64, 0.01),  # better, but English is lost
    "l-4": (0.60, 0.70, 0.01),  # best, but not applied
    "s-1": (0.90, 0.70, 0.30),  # no trial of this kind keeps English
    "s-2": (0.40, 0.10, 0.20),
    "p": (0.25, 0.70, 0.0),
    "d": (0.35, 0.70, 0.0),
    "b": (0.35, 0.70, 0.0),
}


def _table(scores=SCORES):
    rows = []
    for name, (targets, english, kl) in scores.items():
        usable = {
            "method": name,
            "benchmark": "generation-dev",
            "metric": "usable",
            "n": 40,
            "not_applied": name == "l-4",
        }
        rows.append(usable | {"language": "targets", "value": targets, "low": targets - 0.1, "high": targets + 0.1})
        rows.append(usable | {"language": "en", "value": english, "low": 0.0, "high": 1.0})
        drift = {"method": name, "benchmark": "drift-dev", "metric": "kl", "n": 40, "language": "en"}
        rows.append(drift | {"value": kl, "low": kl, "high": kl})
    return pd.DataFrame(rows)


def test_most_usable_among_those_that_keep_english():
    assert {kind: trial.name for kind, trial in chosen(trials(_table(), KINDS)).items()} == {
        "lens": "l-2",
        "sft": "s-2",  # the lowest KL
        "prompt": "p",
        "diffmean": "d",
        "logit_bias": "b",
    }


def test_the_page_has_every_trial_and_the_best_kind_without_training():
    text = page(trials(_table(), KINDS), _table())
    assert all(f"| {name} |" in text for name in SCORES)
    assert text.count("| yes |\n") == len(set(KINDS.values()))
    assert "Of the kinds without training, `d` has the most usable answers." in text


def test_a_trial_without_scores():
    with pytest.raises(LensflowError, match="no scores of l-2"):
        trials(_table({name: score for name, score in SCORES.items() if name != "l-2"}), KINDS)
