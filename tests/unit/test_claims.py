"""Claims of a protocol: shown, not shown, or shown to be absent."""

import math

import numpy as np
import pandas as pd
import pytest
import yaml

from lensflow.artifacts.layout import Place
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.mathematics import statistics
from lensflow.mathematics.power import detectable
from lensflow.mathematics.statistics import Sample
from lensflow.measures import claims
from lensflow.measures.catalogue import ABSENT, CLAIMED, NOT_SHOWN, SHOWN
from lensflow.presentation.blocks import Block, TableInputs
from lensflow.presentation.decisions import decisions_of
from lensflow.presentation.verdict import verdict_of
from lensflow.presentation.verdict_table import verdict
from lensflow.presentation.writers.markdown import to_markdown
from lensflow.schema.protocol import Protocol
from lensflow.schema.setting import Setting
from lensflow.storage.atomic import write_json

SETTINGS = {"trio": Setting(central="en", languages=("en", "zh", "sw"))}
BLOCKS = [("tiny", "trio")]
N = 100


def cells(**right):
    """The cells of a checkpoint: how many of N answers are usable in each language, the first ones."""
    return [
        {
            "benchmark": "generation",
            "language": language,
            "cell": f"{language} {count}",
            "ids": [str(i) for i in range(N)],
            "scores": [{"metric": "usable", "value": count / N, "n": N, "items": [float(i < count) for i in range(N)]}],
        }
        for language, count in right.items()
    ]


def runs(base, **methods):
    """Place -> cells, from the numbers of usable answers in en, zh and sw."""
    counts = {("tiny", "none", "base", 0): base}
    counts |= {("tiny", "trio", method, 0): of_method for method, of_method in methods.items()}
    return {place: cells(**dict(zip(("en", "zh", "sw"), count, strict=True))) for place, count in counts.items()}


def protocol(*asked):
    """A protocol of claims (method, comparator, language, test), whose margins are 0.05."""
    endpoint = {"benchmark": "generation", "metric": "usable", "direction": "higher", "margin": 0.05, "reason": "r"}
    listed = [
        {
            "name": f"claim-{number}",
            "says": f"Claim {number}.",
            "method": method,
            "comparator": comparator,
            "endpoints": [endpoint | {"language": language, "test": test}],
        }
        for number, (method, comparator, language, test) in enumerate(asked, start=1)
    ]
    return Protocol.model_validate({"backbone": "tiny", "setting": "trio", "items": N, "claims": listed})


def verdicts(base, *asked, **methods):
    return claims.decide(runs(base, **methods), protocol(*asked), SETTINGS).verdict.tolist()


def test_a_clear_gain_is_shown_and_equal_answers_are_shown_to_be_absent():
    helps, keeps = ("lens", "base", "targets", "superiority"), ("lens", "base", "central", "non-inferiority")
    assert verdicts((90, 20, 20), helps, keeps, lens=(90, 40, 40)) == [SHOWN, SHOWN]
    assert verdicts((90, 20, 20), helps, lens=(90, 20, 20)) == [ABSENT]
    assert verdicts((90, 60, 60), helps, lens=(90, 20, 20)) == [ABSENT]  # a loss is no gain
    assert verdicts((90, 20, 20), helps, lens=(90, 23, 22)) == [NOT_SHOWN]
    assert verdicts((90, 20, 20), keeps, lens=(86, 20, 20)) == [NOT_SHOWN]
    assert verdicts((90, 20, 20), keeps, lens=(50, 20, 20)) == [ABSENT]


def test_a_claim_after_one_that_is_not_shown_is_not_shown():
    first, second = ("lens", "base", "targets", "superiority"), ("sft", "base", "targets", "superiority")
    counts = {"base": (90, 20, 20), "lens": (90, 23, 22), "sft": (90, 60, 60)}
    rows = claims.decide(runs(**counts), protocol(first, second), SETTINGS)
    assert rows.verdict.tolist() == [NOT_SHOWN, NOT_SHOWN] and rows.endpoint_verdict.tolist() == [NOT_SHOWN, SHOWN]
    assert claims.decide(runs(**counts), protocol(second, first), SETTINGS).verdict.tolist() == [SHOWN, NOT_SHOWN]


def test_a_claim_compares_with_its_comparator():
    (row,) = claims.decide(
        runs((90, 10, 10), lens=(90, 40, 40), sft=(90, 30, 50)),
        protocol(("lens", "sft", "zh", "superiority")),
        SETTINGS,
    ).to_dict("records")
    assert (row["reference"], row["value"], row["questions"]) == (0.3, 0.4, N)
    assert row["difference"] == pytest.approx(0.1) and row["p"] == pytest.approx(2 / 2**10)


def test_a_claim_that_no_row_supports_cannot_be_printed():
    asked = protocol(("lens", "sft", "targets", "superiority"))
    with pytest.raises(
        LensflowError, match=r"protocol: claim 'claim-1': no scores of lens and sft for usable of gener"
    ):
        claims.decide(runs((90, 20, 20), lens=(90, 40, 40)), asked, SETTINGS)
    nothing = claims.by_default({}, BLOCKS, SETTINGS, {})
    assert nothing.empty and list(nothing) == list(CLAIMED)
    assert verdict_of({"results": "results"}, decisions_of(nothing), {}).sentences[0].startswith("Nothing to conclude")


def test_without_a_protocol_each_method_has_two_claims_and_holm_corrects():
    found = claims.by_default(
        runs((90, 20, 20), lens=(90, 28, 26), sft=(60, 27, 25)), BLOCKS, SETTINGS, {"usable": 0.1}
    )
    assert found.method.tolist() == ["lens", "lens", "sft", "sft"] and found.claim.tolist() == ["helps", "keeps"] * 2
    helping, keeping = (found[found.claim == name] for name in ("helps", "keeps"))
    assert helping.p_adjusted.tolist() == pytest.approx(statistics.holm(helping.p.tolist()).tolist())
    assert (helping.p_adjusted > helping.p).any() and keeping.margin.tolist() == [0.1, 0.1]
    assert keeping.verdict.tolist() == [SHOWN, ABSENT]


def share(values):
    items = np.array(values, dtype=float)[None, None]
    return Sample(items, np.ones_like(items))


@pytest.mark.parametrize("numbers", [False, True])
def test_p_of_non_inferiority_agrees_with_the_interval(numbers):
    rng = np.random.default_rng(3)
    before, after = rng.random((2, 40))
    base, other = (share(x if numbers else x < 0.5) for x in (before, after))
    low, _ = statistics.difference_interval(base, other)
    near = 1e-6 if numbers else 0.005  # shares have a score test, which is no inversion of their interval
    assert statistics.non_inferiority_p(base, other, -low) == pytest.approx(0.025, abs=near)
    assert statistics.non_inferiority_p(base, other, -low + 0.02) < 0.025
    assert math.isnan(statistics.non_inferiority_p(share([0.1]), share([0.2]), 0.05))


def test_detectable_difference_is_detected_in_four_of_five_samples():
    rng, n = np.random.default_rng(0), 400
    pilot = rng.random((2, n)) < 0.4
    low, high = statistics.difference_interval(share(pilot[0]), share(pilot[1]))
    smallest = detectable((high - low) / 2, n, n)
    found = 0
    for _ in range(200):
        base, other = rng.random((2, n)) < np.array([[0.4], [0.4 + smallest]])
        found += statistics.paired_p(share(base), share(other)) <= 0.05
    assert 0.7 < found / 200 < 0.9
    assert detectable(0.1, 60, 240) == pytest.approx(detectable(0.05, 1, 1))


CONFIG = {"results": "out", "told_language": ["prompt"], "settings": {"trio": {"central": "en"}}}


def said(base, left=0.1, **methods):
    found = claims.by_default(runs(base, **methods), BLOCKS, SETTINGS, {})
    costs = {Place("tiny", "trio", method, 0): {"residual": left} for method in methods if method == "lens"}
    return verdict_of(CONFIG, decisions_of(found), costs)


def test_the_verdict_says_who_leads_what_is_kept_and_how_to_export():
    found = said((90, 20, 20), lens=(90, 60, 60), sft=(40, 30, 10), prompt=(90, 99, 99))
    first, lead, kept, applied = found.sentences
    assert first == "More usable answers than base: shown for prompt†, lens; shown to be absent for sft."
    assert lead.startswith("lens leads the methods that compete (not told the language,")
    assert "usable answers 0.20 to 0.60, difference +0.400 [" in lead
    assert kept == "The central language (en) is kept within 0.05: shown for lens, prompt†; worse for sft."
    assert applied == "Applied, with what is left of the way to the push target: lens (0.10)."
    assert found.export == (
        "lensflow export --backbone out/tiny/backbone/manifest.json --delta out/tiny/trio/lens/seed0/delta.safetensors "
        "my-model"
    )
    assert found.offer == "Export the best checkpoint"
    assert "can be chance" in said((90, 20, 20), lens=(90, 23, 22)).offer
    assert said((90, 20, 20), lens=(90, 9, 9), sft=(90, 8, 8)).sentences[1].startswith("No method scores above base; ")
    lead = said((90, 20, 20), lens=(90, 9, 9), prompt=(90, 99, 99)).sentences[1]
    assert (
        lead.startswith("None of the methods that compete (not told the language,") and "; lens is the closest" in lead
    )


def test_nothing_is_concluded_about_a_method_that_was_not_applied():
    found = said((90, 20, 20), left=0.9, lens=(90, 60, 60))
    (only,) = found.sentences
    assert only.startswith(
        "Nothing is concluded about lens (0.90): not applied, because more than 0.3 of the way to the"
    )
    assert found.export == ""


def test_no_export_without_a_gain_and_items_that_are_needed():
    found = said((90, 50, 50), lens=(90, 65, 35))
    assert found.export == "" and found.sentences[1].startswith("lens is not above base: usable answers 0.50")
    needed = decisions_of(claims.by_default(runs((90, 50, 50), lens=(90, 65, 35)), BLOCKS, SETTINGS, {}))[0]
    assert f"about {needed.enough} items per language show a difference of 0.05 with 80 % power" in found.sentences[-1]


def test_a_study_is_told_claim_by_claim():
    asked = protocol(("lens", "base", "targets", "superiority"), ("lens", "base", "central", "non-inferiority"))
    rows = claims.decide(runs((90, 20, 20), lens=(90, 60, 60)), asked, SETTINGS)
    first, second = verdict_of(CONFIG, decisions_of(rows), {}).sentences
    assert first.startswith("1. Claim 1: shown (usable, targets +0.400 [") and second.startswith("2. Claim 2: shown (")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"margin": 0.0}, "greater than 0"), ({"reason": ""}, "at least 1"), ({"test": "t"}, "superiority")],
)
def test_a_protocol_without_margin_reason_or_test_is_refused(change, message):
    plain = protocol(("lens", "base", "targets", "superiority")).canonical()
    plain["claims"][0]["endpoints"][0] |= change
    with pytest.raises(ValueError, match=message):
        Protocol.model_validate(plain)


def test_a_protocol_has_at_most_five_claims():
    with pytest.raises(ValueError, match="at most 5"):
        protocol(*[("lens", "base", "zh", "superiority")] * 6)


def test_claims_are_read_as_written(tmp_path):
    found = claims.by_default(runs((90, 20, 20), lens=(90, 60, 60)), BLOCKS, SETTINGS, {})
    found.to_csv(tmp_path / "claims.csv", index=False)
    again = decisions_of(pd.read_csv(tmp_path / "claims.csv", dtype={"seeds": str}))
    assert [one.verdict for one in again] == found.verdict.tolist() and again[0].seeds == "0"


def test_power_prints_the_smallest_detectable_difference_of_each_claim(tmp_path, monkeypatch, capsys):
    asked = protocol(("lens", "base", "targets", "superiority")).canonical()
    asked |= {"dev": {"generation": "generation-dev"}, "items": 4 * N}
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(asked))
    for place, of_place in runs((90, 20, 20), lens=(90, 40, 40)).items():
        of_dev = [cell | {"benchmark": "generation-dev"} for cell in of_place]
        for cell in of_dev:
            cell["scores"] = [score | {"low": 0.0, "high": 1.0} for score in cell["scores"]]
        content = {"weights": "w", "engine": "hf", "dtype": "float32", "cells": of_dev}
        write_json(tmp_path / "results" / Place(*place).folder / "scores.json", content)
    write_json(tmp_path / "results/config.json", {"settings": {"trio": SETTINGS["trio"].canonical()}})
    monkeypatch.chdir(tmp_path)
    assert main.main(["power", "protocol.yaml", "results"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| claim-1: usable, targets |"))
    _, _, items, smallest, margin, enough, _ = (part.strip() for part in line.split("|"))
    assert (items, margin) == (str(N), "0.05")
    assert int(enough) == pytest.approx(4 * N * (float(smallest) / 0.05) ** 2, rel=0.03)
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(asked | {"dev": {}}))
    assert main.main(["power", "protocol.yaml", "results"]) == 2
    assert "dev: names no benchmark for 'generation'; add one" in capsys.readouterr().err


def test_the_table_has_a_line_for_each_claim_and_says_how_it_was_decided():
    found = claims.by_default(runs((90, 20, 20), lens=(90, 60, 60)), BLOCKS, SETTINGS, {})
    block = Block("tiny", "trio", "en", ("zh", "sw"), (), ())
    costs = {Place("tiny", "trio", "lens", 0): {"residual": 0.9}}
    text = to_markdown(verdict(TableInputs((block,), costs=costs, decisions=decisions_of(found))))
    lines = [line for line in text.splitlines() if line.startswith(("| more", "| the"))]
    assert [line.split(" | ")[-1] for line in lines] == ["shown |", "shown |"]
    assert all("| lens ‡ not applied | base | usable, " in line for line in lines)
    assert "Holm's correction over the methods" in text and "after training, more than 0.3 of the way" in text
    assert verdict(TableInputs((block,))).sheets == ()
