"""Trackers get what the stages wrote, and change nothing."""

import json
import logging
from pathlib import Path

import accelerate.accelerator
import accelerate.tracking
import pytest
from torch import distributed

from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.provenance.code import closure
from lensflow.storage.atomic import write_json, write_jsonl
from lensflow.workflow import project, tracking
from lensflow.workflow.experiment import read
from lensflow.workflow.plan import Plan
from lensflow.workflow.stages import STAGES

HISTORY = [
    {"step": 0, "epoch": 0.0, "split": "dev", "loss": 2.5, "push": 1.0},
    {"step": 1, "epoch": 0.5, "split": "train", "loss": 2.25, "lr": 0.5},
]
SCORE = {"metric": "usable", "n": 2, "value": 0.5, "low": 0.0, "high": 1.0, "items": [0.0, 1.0]}
SCORES = {
    "benchmark": "generation",
    "language": "sw",
    "cell": "c",
    "ids": ["0", "1"],
    "scores": [SCORE, SCORE | {"metric": "nll", "value": None, "low": None, "high": None, "items": [None, None]}],
}


class Recorder(accelerate.tracking.GeneralTracker):
    """A tracker of accelerate's that writes down what it is given."""

    name, requires_logging_directory, main_process_only = "tensorboard", True, False
    given: list
    fails = False

    def __init__(self, run_name, logging_dir, **options):
        super().__init__()
        self.run = (run_name, Path(logging_dir).as_posix(), options)

    def start(self):
        if self.fails:
            raise ConnectionError("no network")

    @property
    def tracker(self):
        return self

    def log(self, values, step=None, **options):
        type(self).given.append((*self.run, step, values))


@pytest.fixture
def recorder(monkeypatch):
    Recorder.given, Recorder.fails = [], False
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Recorder)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [accelerate.tracking.LoggerType.TENSORBOARD])
    monkeypatch.setenv(tracking.VARIABLE, "tensorboard")
    return Recorder


@pytest.fixture
def folder(tmp_path):
    """What the stages wrote of a checkpoint."""
    folder = tmp_path / "results" / "tiny" / "trio" / "lens" / "seed0"
    folder.mkdir(parents=True)
    write_jsonl(folder / "history.jsonl", HISTORY)
    content = {"engine": "hf", "dtype": "float32", "weights": "w", "cells": [SCORES]}
    write_json(folder / "scores.json", content)
    return folder


def test_the_process_group_of_an_engine_goes_on(recorder, folder):
    """In a notebook, vLLM's engine may be running, which has a group of its own."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        tracking.track("score", folder / "scores.json")
        assert recorder.given and distributed.is_initialized()
    finally:
        distributed.destroy_process_group()


def test_curves_and_scores_reach_the_tracker(recorder, folder):
    tracking.track("train", folder / "delta.safetensors")
    tracking.track("score", folder / "scores.json")
    tracking.track("pair_data", folder / "en.jsonl")
    place = "tiny/trio/lens/seed0"
    assert recorder.given == [
        (f"{place}/train", "logs/trackers", {}, 0, {"dev/loss": 2.5, "dev/push": 1.0}),
        (f"{place}/train", "logs/trackers", {}, 1, {"train/loss": 2.25, "train/lr": 0.5}),
        (f"{place}/score", "logs/trackers", {}, 0, {"generation/sw/usable": 0.5}),
    ]


def test_without_a_key_nothing_is_tracked(recorder, folder, monkeypatch):
    monkeypatch.setenv(tracking.VARIABLE, "")
    tracking.track("train", folder / "delta.safetensors")
    assert recorder.given == []


def test_a_tracker_that_fails_stops_nothing(recorder, folder, caplog):
    recorder.fails = True
    with caplog.at_level(logging.WARNING):
        tracking.track("train", folder / "delta.safetensors")
    assert "trackers: 'tensorboard' did not take tiny/trio/lens/seed0/train (no network)" in caplog.text


def test_a_stage_tells_the_trackers_when_it_has_ended(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(tracking, "track", lambda stage, output: told.append((stage, output.name, output.exists())))
    plan = Plan(read([], project.folder()), Path(), project.folder())
    config = plan.config_of("pair_data", {"corpus": "embedded", "language": "sw"})
    assert main.main(["pair-data", "--config", json.dumps(config), "--output", str(tmp_path / "sw.jsonl")]) == 0
    assert told == [("pair_data", "sw.jsonl", True)]


def test_a_tracker_reruns_no_stage(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    plans = [
        Plan(read([], project.folder(), more), Path(), project.folder()) for more in ({}, {"trackers": ["tensorboard"]})
    ]
    assert [plan.config.trackers for plan in plans] == [(), ("tensorboard",)]
    for place in plans[0].trained():
        of = {name: str(value) for name, value in place._asdict().items()}
        for stage in ("prepare_backbone", "fit_subspaces", "train", "score"):
            first, second = (plan.config_of(stage, of) for plan in plans)
            assert first == second
    assert plans[0].collect_scores() == plans[1].collect_scores()
    assert plans[0].presentation() == plans[1].presentation()
    assert not [name for name, stage in STAGES.items() if tracking.__name__ in closure(stage.module)]


def test_a_package_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(
        LensflowError, match=r"^trackers: 'wandb' is not installed; pip install wandb, or remove it from trackers$"
    ):
        Plan(read([], project.folder(), {"trackers": ["wandb"]}), Path(), project.folder())
    with pytest.raises(LensflowError, match=r"trackers.*tensorbord"):
        read([], project.folder(), {"trackers": ["tensorbord"]})
