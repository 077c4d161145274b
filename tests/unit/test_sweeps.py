"""Sweeps: what they expand to."""

from pathlib import Path

import pytest

from lensflow.errors import LensflowError
from lensflow.workflow import sweeps
from lensflow.workflow.experiment import load, read

ROOT = Path(__file__).parents[2]


def config_of(sweep, **run):
    data = read([], ROOT).canonical()
    data["sweeps"] = {"mine": {"method": "lens-gentle"} | sweep}
    own = {"backbones": ["smollm2-135m-instruct"], "settings": ["en-zh"], "methods": ["base"], "sweeps": ["mine"]}
    data["runs"] = [data["runs"][0] | own | run]
    return load(data)


def test_each_value_is_a_method_of_its_own():
    config = config_of({"key": "lambda", "values": [0, 0.1, 1.0]}, seeds=[0, 1])
    expanded = sweeps.expand(config)
    names = ["lens-gentle.lambda-0", "lens-gentle.lambda-0.1", "lens-gentle.lambda-1"]
    assert [expanded.methods[name].strength_of("zh") for name in names] == [0, 0.1, 1.0]
    assert [run.methods for run in expanded.runs[1:]] == [("base", name) for name in names]
    assert all(run.seeds == (0, 1) and run.settings == ("en-zh",) for run in expanded.runs[1:])
    rest = {key: value for key, value in expanded.methods[names[1]].canonical().items() if key != "lambda"}
    assert rest == {key: value for key, value in config.methods["lens-gentle"].canonical().items() if key != "lambda"}
    assert [(point.value, point.method, point.setting) for point in sweeps.points(config)] == [
        (value, name, "en-zh") for value, name in zip([0, 0.1, 1.0], names, strict=True)
    ]


def test_all_there_is_is_a_value():
    config = config_of({"key": "examples", "values": [10, None]}, seeds=[2, 1])
    assert [(point.value, point.method, point.seeds) for point in sweeps.points(config)] == [
        (10, "lens-gentle.examples-10", (1, 2)),
        ("all", "lens-gentle", (1, 2)),
    ]


def test_a_key_inside_a_section():
    expanded = sweeps.expand(config_of({"key": "weights.retain", "values": [0.5, 2]}))
    weights = expanded.methods["lens-gentle.weights.retain-2"].weights
    assert (weights.pull, weights.push, weights.retain) == (1.0, 1.0, 2)


def test_a_key_of_the_setting_makes_settings():
    config = config_of({"key": "setting.space", "values": ["post_norm", "pre_norm"]})
    expanded = sweeps.expand(config)
    assert expanded.settings["en-zh.space-pre_norm"].space == "pre_norm"
    assert expanded.settings["en-zh.space-pre_norm"].languages == config.settings["en-zh"].languages
    assert expanded.runs[2].settings == ("en-zh.space-pre_norm",)
    assert expanded.runs[2].methods == ("base", "lens-gentle")
    assert sweeps.points(config)[1].of_setting == "en-zh"


def test_two_keys_are_a_grid():
    by = {"key": "epochs", "values": [1, 5]}
    config = config_of({"key": "lr", "values": [1e-5, 1e-4], "by": by})
    assert [(point.value, point.by, point.method) for point in sweeps.points(config)] == [
        (1e-5, "epochs 1", "lens-gentle"),
        (1e-5, "epochs 5", "lens-gentle.epochs-5"),
        (1e-4, "epochs 1", "lens-gentle.lr-0.0001"),
        (1e-4, "epochs 5", "lens-gentle.lr-0.0001.epochs-5"),
    ]
    method = sweeps.expand(config).methods["lens-gentle.lr-0.0001.epochs-5"]
    assert (method.lr, method.epochs) == (1e-4, 5)


def test_a_value_that_is_there_anyway_makes_no_other_method_or_setting():
    own = config_of({"key": "lambda", "values": [0.1]}).methods["lens-gentle"].strength_of("zh")
    config = config_of({"key": "lambda", "values": [own, 3.0], "by": {"key": "setting.space", "values": ["post_norm"]}})
    assert [(point.value, point.method, point.setting) for point in sweeps.points(config)] == [
        (own, "lens-gentle", "en-zh"),
        (3.0, "lens-gentle.lambda-3", "en-zh"),
    ]
    expanded = sweeps.expand(config)
    assert expanded.settings.keys() == config.settings.keys()
    assert expanded.methods.keys() - config.methods.keys() == {"lens-gentle.lambda-3"}
    assert [run.methods[1] for run in expanded.runs[1:]] == ["lens-gentle", "lens-gentle.lambda-3"]


def test_without_sweeps_nothing_changes():
    config = read([], ROOT)
    assert sweeps.expand(config) is config
    assert sweeps.points(config) == []


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"key": "lamda", "values": [1]}, r"^sweeps\.mine: lamda 1: no such key; it has kind, lambda, "),
        ({"key": "weights.all", "values": [1]}, r"^sweeps\.mine: weights\.all 1: no such key; it has kind, "),
        ({"key": "setting.rank", "values": [1, 2]}, r"^sweeps\.mine: setting\.rank 2: rank: 2 is more than "),
        (
            {"key": "lr", "values": [1e-3, 1.0000001e-3]},
            r"^sweeps\.mine: lr 0\.0010000001: the name '.*' belongs",
        ),
        ({"key": "lr", "values": [None]}, r"^sweeps\.mine: lr null: lr: must be a valid number"),
        ({"key": "lambda", "values": [0.1, -1]}, r"^sweeps\.mine: lambda -1: lambda: "),
        (
            {"key": "layers", "values": [2, 9]},
            r"^config: methods\.lens-gentle\.layers-9\.layers: 9 is more than extract",
        ),
        ({"key": "lambda", "values": []}, r"^config: sweeps\.mine\.values: must not be empty"),
        (
            {"key": "lambda", "values": [1], "method": "lenz"},
            r"^config: sweeps\.mine\.method: no 'lenz'; known: base, ",
        ),
    ],
)
def test_mistakes(sweep, message):
    with pytest.raises(LensflowError, match=message):
        sweeps.expand(config_of(sweep))


def test_a_sweep_that_is_not_there():
    with pytest.raises(LensflowError, match=r"^config: runs\[0\]\.sweeps: no 'other'; known: mine$"):
        config_of({"key": "lambda", "values": [1]}, sweeps=["other"])
