"""Lensflow as a module of another workflow, from a folder and from a git host."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.workspace import REPOSITORY, Workspace, demo_config

SECTION = (
    (REPOSITORY / "docs/configuration.md").read_text(encoding="utf-8").split("## As a module\n")[1].split("\n## ")[0]
)
SNAKEFILE = SECTION.split("```python\n")[1].split("```")[0]  # as the documentation has it
RECORDING = 'printf "%s\\n" "$*" >> "$CALLS"\n'


class Outer:
    """Another workflow, in a folder of its own, that uses the one of a workspace."""

    def __init__(self, folder: Path, workspace: Workspace, source: str) -> None:
        self.folder, self.environment = folder, workspace.environment | {"CALLS": str(folder / "calls")}
        folder.mkdir()
        (folder / "Snakefile").write_text(SNAKEFILE.replace('"lensflow/Snakefile"', source))
        config = demo_config()
        config["backbones"]["tiny"]["source"]["path"] = "../workspace/model"  # from the folder that Snakemake runs in
        config["runs"][0] |= {"settings": ["en-zh"], "methods": ["base", "lens-a"]}
        config["runs"][0]["benchmarks"] += [{"xcopa-letter": ["zh"]}]
        config["methods"]["steer"] = {"kind": "logit_bias"}
        config["runs"][0]["methods"].append("steer")
        config["sweeps"] = {"mine": {"method": "lens-a", "key": "lr", "values": [1e-3]}}
        config["runs"][0]["sweeps"] = ["mine"]
        (folder / "config.yaml").write_text(json.dumps({"lensflow": config, "runs": "of the other workflow"}))

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def recording(tmp_path) -> Workspace:
    """A workspace whose command line writes down how it is called."""
    workspace = Workspace(tmp_path)
    workspace.before_stages(RECORDING)
    return workspace


def check(outer: Outer, repository: Path) -> None:
    """Run it: everything lies below the prefix, stages find each other's files there, and a second run does nothing."""
    done = outer.snakemake("rows.txt", "lensflow_all")
    assert done.returncode == 0, done.stderr
    assert (outer.folder / "rows.txt").read_text().split() == ["0", "lens/results/tables/main.csv"]
    assert {path.name for path in outer.folder.iterdir() if path.is_dir()} == {".snakemake", "lens"}
    calls = (outer.folder / "calls").read_text().splitlines()
    (answering,) = (call.split() for call in calls if call.startswith("answer "))
    scorings = [call.split() for call in calls if call.startswith("score ")]
    assert len(scorings) == 4  # base, two methods, a point of a sweep
    for words in (answering, *scorings):
        for option, folder in (("--corpora", "data"), ("--items", "benchmarks"), ("--cache", "cells")):
            assert words[words.index(option) + 1] == f"lens/results/{folder}"
        assert words[words.index("--tasks") + 1 :][:2] == [".", str(repository)]
    assert (outer.folder / answering[answering.index("--backbone") + 1]).name == "manifest.json"
    runs = answering[answering.index("--runs") + 1 : answering.index("--corpora")]
    assert {f"{run}/answers.json" for run in runs} == {words[words.index("--answers") + 1] for words in scorings}
    for run in runs:
        own = outer.folder / run / "intervention.safetensors"
        assert own.is_file() != ("none/base" in run)
    (table,) = (call for call in calls if call.startswith("make-table "))
    assert table.endswith(" --output lens/results/tables")
    (report,) = (call for call in calls if call.startswith("report "))
    assert " --results lens/results " in report
    described = json.loads((outer.folder / "lens/results/config.json").read_text())
    assert (described["command"], described["results"]) == ("snakemake --cores 2", "lens/results")
    again = outer.snakemake("rows.txt", "lensflow_all", "--dry-run")
    assert "Nothing to be done" in again.stdout, again.stdout


def test_from_a_folder(recording, tmp_path):
    check(Outer(tmp_path / "outer", recording, f'"{recording.root}/Snakefile"'), recording.root)


def test_from_a_git_host(recording, tmp_path):
    """GitHub itself is out of reach: git is told that the repository lies here."""

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=recording.root, check=True, capture_output=True)

    git("init")
    git("add", "Snakefile", "workflow", "config", "envs")
    git("commit", "-m", "x")
    git("tag", "v1.0.0")
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[url "file://{recording.root}"]\ninsteadOf = https://github.com/someone/lensflow\n')
    source = 'github("someone/lensflow", path="Snakefile", tag="v1.0.0")'
    outer = Outer(tmp_path / "outer", recording, source)
    outer.environment["GIT_CONFIG_GLOBAL"] = str(settings)
    cached = (
        tmp_path / "cache/snakemake/snakemake/source-cache/hosted-git/githubfile/github.com/someone/lensflow/v1.0.0"
    )
    check(outer, cached)
    assert (cached / "config/tasks/letter/xcopa.yaml").is_file()


def test_a_mistake_is_one_line(recording, tmp_path):
    outer = Outer(tmp_path / "outer", recording, f'"{recording.root}/Snakefile"')
    config = json.loads((outer.folder / "config.yaml").read_text())
    config["lensflow"]["titel"] = "x"
    (outer.folder / "config.yaml").write_text(json.dumps(config))
    done = outer.snakemake("rows.txt", "lensflow_all")
    assert done.returncode != 0
    assert "error: config: unknown key 'titel'; did you mean 'title'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_files_that_are_read_are_fetched_from_a_git_host():
    listed = (REPOSITORY / "Snakefile").read_text().split("OWN_FILES = [")[1].split("]")[0]
    own = {line.strip().strip('",') for line in listed.splitlines() if line.strip()}
    folders = [REPOSITORY / "config" / name for name in ("catalog", "reported", "tasks")]
    found = {path.relative_to(REPOSITORY).as_posix() for folder in folders for path in folder.rglob("*.yaml")}
    assert own == found | {"config/demo.yaml"}


def test_the_workflow_catalog():
    usage = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["software-stack-deployment"]["conda"] is True
