"""The command that the tables and the report name makes them again."""

import json
import shlex
from pathlib import Path

import pytest

from tests.workflow.workspace import Workspace, demo_config


def config() -> dict:
    """The demo's, but for the benchmark whose task file is looked for in the folder of the results."""
    whole = demo_config()
    whole["runs"][0]["benchmarks"] = ["generation"]
    return whole


def command(workspace: Workspace, folder: Path, *arguments: str) -> str:
    done = workspace.snakemake(config(), *arguments, "--cores", "2", "results/config.json")
    assert done.returncode == 0, done.stderr
    text: str = json.loads((folder / "results/config.json").read_text())["command"]
    return text


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("commands"))


def test_it_names_files_and_values(workspace: Workspace) -> None:
    assert command(workspace, workspace.root) == "snakemake --configfile config/test.yaml --cores 2"
    found = command(workspace, workspace.root, "--config", "title=my title")
    assert found == "snakemake --configfile config/test.yaml --config 'title=my title' --cores 2"


def test_it_names_the_folder_and_can_be_run(workspace: Workspace) -> None:
    other = workspace.root / "other"
    other.mkdir()
    (other / "model").symlink_to(workspace.root / "model")
    found = command(workspace, other, "--directory", "other")
    assert found == "snakemake --configfile config/test.yaml --directory other --cores 2"
    # The workspace's own options come first; the last --configfile and --cores are those of the command.
    arguments = shlex.split(found)[1:]
    done = workspace.snakemake(config(), *arguments, "results/tables/main.md", "--dry-run", "--quiet", "rules")
    assert done.returncode == 0, done.stderr
    assert "make_table" in done.stdout + done.stderr and "report" not in done.stdout
