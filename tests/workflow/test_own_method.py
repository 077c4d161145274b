"""The method that docs/configuration.md adds from outside of the package, as it stands there."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from lensflow.cli import main
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_json, read_jsonl
from tests import tiny
from tests.chain import Chain
from tests.workflow.workspace import REPOSITORY, Workspace

SECTION = (
    (REPOSITORY / "docs/configuration.md").read_text(encoding="utf-8").split("### Add a method\n")[1].split("\n### ")[0]
)
FILE, ENTRY = (re.search(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL)[1] for kind in ("python", "yaml"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder that the file lies in, as PYTHONPATH would name it."""
    (tmp_path / "my_methods").mkdir()
    (tmp_path / "my_methods" / "noise.py").write_text(FILE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def with_noise(config: dict) -> dict:
    config["methods"] |= yaml.safe_load(ENTRY)["methods"]
    config["runs"] = [config["runs"][0] | {"settings": ["en-zh"], "methods": ["base", "noise"]}]
    return config


def test_it_is_short():
    assert len(FILE.splitlines()) <= 32


def test_it_is_checked_and_planned(folder, workspace: Workspace, config, monkeypatch, capsys):
    written = folder / "noise.yaml"
    written.write_text(yaml.safe_dump(with_noise(config)))
    monkeypatch.chdir(workspace.root)
    assert main.main(["check", "--configfile", str(written)]) == 0
    assert capsys.readouterr().out == f"ok: {written}: 1 backbones, 2 checkpoints, 1 to train\n"

    path = f"{folder}:{workspace.environment['PYTHONPATH']}"
    monkeypatch.setitem(workspace.environment, "PYTHONPATH", path)
    done = workspace.snakemake(config, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "results/tiny/en-zh/noise/seed0/delta.safetensors" in done.stdout
    assert "rule train:" in done.stdout
    assert "extract_" not in done.stdout  # it has no need of them
    assert "fit_subspaces" not in done.stdout


def test_it_is_found_by_pythonpath_alone(workspace: Workspace, config):
    done = workspace.snakemake(with_noise(config), "--dry-run")
    assert done.returncode != 0
    message = "methods.noise.kind: module 'my_methods.noise' cannot be imported (ModuleNotFoundError"
    assert sum(message in line for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_it_trains(folder, checkpoint, tmp_path):
    manifest = tiny.backbone(checkpoint("llama"), tmp_path / "backbone" / "manifest.json")
    texts = {language: tmp_path / f"{language}.jsonl" for language in ("en", "zh")}
    for path in texts.values():
        write_jsonl(path, [{"id": "1", "split": "train", "prompt": "x"}])
    stage = {
        "method": yaml.safe_load(ENTRY)["methods"]["noise"],
        "setting": {"central": "en", "languages": ["en", "zh"]},
        "prompt": {"format": "plain"},
        "seed": 3,
    }
    output = tmp_path / "noise" / "seed3" / "delta.safetensors"
    files = ["--backbone", manifest, "--subspaces", "--states", "--texts", *texts.values(), "--output", output]
    assert main.main(["train", "--config", json.dumps(stage), *map(str, files)]) == 0

    delta, old = load_file(output), {}
    for path in manifest.parent.glob("*.safetensors"):
        old |= load_file(path)
    assert delta.keys() == {name for name in old if f".layers.{tiny.LAYERS - 1}." in name}
    moved = torch.cat([((delta[name] - old[name]) / old[name].std()).flatten() for name in delta])
    assert moved.std() == pytest.approx(0.02, rel=0.05)
    assert read_json(output.with_name("config.json"))["method"] == {"kind": "my_methods.noise", "scale": 0.02}
    assert read_json(output.with_name("cost.json"))["trained_parameters"] == moved.numel()
    assert read_jsonl(output.with_name("history.jsonl")) == []


class NoiseChain(Chain):
    def configuration(self) -> dict:
        config = super().configuration()
        config["methods"] = yaml.safe_load(ENTRY)["methods"]
        config["runs"][0]["methods"] = ["base", "noise"]
        return config


def test_it_is_evaluated_tabulated_and_exported_like_all_others(folder, checkpoint, monkeypatch):
    chain = NoiseChain(folder / "run", checkpoint("llama"))
    monkeypatch.chdir(chain.root)
    assert chain.make() == 0
    table = pd.read_csv(chain.results / "tables/main.csv").set_index(["method", "metric", "language"])
    assert {method for method, *_ in table.index} == {"base", "noise"}
    assert abs(table.difference["noise", "nll", "zh"]) > 0
    assert "tiny, en-zh, noise, seed 0" in (chain.results / "report.html").read_text(encoding="utf-8")
    backbone, delta = (
        chain.results / "tiny/backbone/manifest.json",
        chain.results / "tiny/en-zh/noise/seed0/delta.safetensors",
    )
    assert main.main(["export", "--backbone", str(backbone), "--delta", str(delta), str(folder / "model")]) == 0
    assert "noise" in (folder / "model/README.md").read_text(encoding="utf-8")
