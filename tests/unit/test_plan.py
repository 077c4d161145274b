"""What the workflow asks of the configuration."""

from collections import Counter
from pathlib import Path

import pytest

from lensflow.workflow.experiment import read
from lensflow.workflow.plan import Plan

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("setting", "use", "corpus"),
    [
        ("paper-en-zh", "probing", "lens-probing"),
        ("paper-en-zh", "training", "lens-manipulation"),
        ("paper-en-zh", "figures", "lens-manipulation"),  # its probing texts are not translations of each other
        ("bactrian-en-zh", "figures", "bactrian-x"),
        ("en-zh", "figures", "embedded"),
    ],
)
def test_figures_by_layer_show_parallel_texts(setting, use, corpus):
    assert Plan(read([ROOT / "config/paper.yaml"], ROOT), ROOT, ROOT).corpus(setting, use) == corpus


def test_methods_are_shown_in_the_order_of_the_runs():
    shown = Plan(
        read([ROOT / "config/study/primary.yaml", ROOT / "config/study/explore.yaml"], ROOT), ROOT, ROOT
    ).presentation()
    assert shown["order"][:3] == ["base", "lens", "lens-gentle"] and shown["order"][-1] == "prompt-native"
    assert set(shown["order"]) == set(shown["methods"])


def test_texts_that_a_benchmark_reads_beside_its_own_language(tmp_path):
    """References are compared with those in the central language, which no setting may have."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "benchmarks: {said: {kind: references, corpus: bactrian-x, split: dev, central: en}}\n"
        "runs: [{backbones: [smollm2-135m-instruct], settings: [bactrian-en-zh], methods: [base],"
        " benchmarks: [{said: [zh]}]}]\n"
    )
    plan = Plan(read([path], ROOT), ROOT, ROOT)
    assert list(plan.used_corpora["bactrian-x"]) == ["en", "zh"]


def test_figures_are_of_the_trainings_in_their_setting_and_in_its_sweeps(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "sweeps: {texts: {method: lens-gentle, key: setting.probing_texts, values: [9]}}\n"
        "runs:\n"
        "  - {backbones: [smollm2-135m-instruct], settings: [en-zh], methods: [base, lens-gentle],"
        " benchmarks: [generation], sweeps: [texts]}\n"
        "  - {backbones: [smollm2-135m-instruct], settings: [zh-en-ja], methods: [lens-gentle],"
        " benchmarks: [generation]}\n"
    )
    plan = Plan(read([path], ROOT), ROOT, ROOT)
    drawn = {
        setting: [c.setting for c in plan.drawn("smollm2-135m-instruct", setting)] for setting in ("en-zh", "zh-en-ja")
    }
    assert drawn == {"en-zh": ["en-zh", "en-zh.probing_texts-9"], "zh-en-ja": ["zh-en-ja"]}


STUDY = ROOT / "config/study"


def study(*names):
    """The plan of a study, from its files, one on top of the other."""
    return Plan(read([STUDY / name for name in names], ROOT), ROOT, ROOT)


def test_the_exploratory_runs_have_the_methods_of_each_question_and_add_to_the_primary_ones():
    primary = study("primary.yaml")
    explore, draws, trainings = (
        study("primary.yaml", name) for name in ("explore.yaml", "draws.yaml", "trainings.yaml")
    )
    kinds = {explore.config.methods[place.method].kind for place in explore.checkpoints}
    assert kinds >= {"lens", "logit_bias", "steer", "diffmean", "recover", "prompt"}
    assert explore.config.sweeps["lambda"].key == "lambda"  # the figure of dose and response looks for this name
    seeds = Counter(place.method for place in draws.checkpoints)
    assert seeds == {"base": 1, "lens": 1, "lens-rotated": 20, "lens-resampled": 5}
    shared = {place.method for place in primary.checkpoints} - {"lens-random"}
    assert shared < {place.method for place in trainings.checkpoints}
    assert {place.method for place in explore.checkpoints} >= {"base", "lens", "prompt-shots"}
    for plan in (explore, draws, trainings):
        for name in {place.method for place in primary.checkpoints}:
            assert plan.config.methods[name] == primary.config.methods[name]  # or it would be trained twice
        assert plan.protocol is None  # the verdict is the primary runs' alone


def test_the_second_model_is_trained_until_lens_is_applied():
    second = study("second.yaml")
    until = second.config.methods["lens-until"].until
    assert {place.backbone for place in second.checkpoints} == {"smollm2-135m-instruct"} and until.residual == 0.3
    assert {place.method for place in second.checkpoints} >= {"base", "lens-until", "prompt-shots"}


def test_the_smallest_study_tests_every_claim():
    small = study("primary.yaml", "small.yaml")
    claimed = {name for claim in small.protocol.claims for name in (claim.method, claim.comparator)}
    assert claimed <= {place.method for place in small.checkpoints} and len(small.checkpoints) < 20
