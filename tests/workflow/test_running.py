"""`lensflow run` and `lensflow new`: from a folder and a table to a verdict, without touching another run."""

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from lensflow.cli import main, running
from lensflow.presentation.verdict import verdict_lines
from tests.tiny import save_checkpoint
from tests.workflow.workspace import write_checkpoint

WISH = ("--model", "model", "--languages", "zh,sw", "--data", "texts.csv")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a checkpoint that no weights are read of, and parallel texts."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "model")
    write_texts(tmp_path / "texts.csv")
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """The command lines that Snakemake would be started with, and where; every one fails."""
    commands = []

    def run(command, **options):
        commands.append((command, Path.cwd(), options["env"]["PATH"]))
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(running.subprocess, "run", run)
    return commands


MODEL = ("--model", "model", "--languages", "sw")


def write_texts(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["en", "zh", "sw"])
        writer.writerows([f"What is {n}?", f"{n}是什么？", f"{n} ni nini?"] for n in range(20))


def test_one_command_writes_a_file_checks_it_and_starts_snakemake(here, started, capsys):
    assert main.main(["run", *WISH]) == 2
    ((command, folder, path),) = started
    assert folder == here
    options = dict(zip(command[3::2], command[4::2], strict=False))
    assert options["--configfile"] == str(here / "lensflow.yaml")
    assert Path(options["--snakefile"]).read_text().startswith('"""Wiring only')
    assert (Path(path.split(os.pathsep)[0]) / "lensflow").is_file()
    said = capsys.readouterr()
    assert "lensflow.yaml: 2 trainings, 18 cells" in said.out
    assert said.err == (
        "error: lensflow.yaml: a stage failed, and its log is above; correct the cause and continue: lensflow run "
        f"{here / 'lensflow.yaml'}\n"
    )


def test_a_dry_run_writes_nothing(here, started, capsys):
    assert main.main(["run", *WISH, "--dry-run"]) == 0
    assert sorted(path.name for path in here.iterdir()) == ["model", "texts.csv"]
    assert started == []
    assert "settings: [en-zh-sw]" in capsys.readouterr().out


def test_another_file_is_replaced_only_if_that_is_wanted(here, started, capsys):
    assert main.main(["new", *WISH]) == 0
    assert main.main(["new", *WISH]) == 0  # the same
    kept = Path("lensflow.yaml").read_text()
    assert main.main(["run", *WISH, "--methods", "lens-gentle"]) == 2
    assert "lensflow.yaml: exists already with other content; run it as it is" in capsys.readouterr().err
    assert Path("lensflow.yaml").read_text() == kept
    assert main.main(["new", *WISH, "--methods", "lens-gentle", "--force"]) == 0
    assert yaml.safe_load(Path("lensflow.yaml").read_text())["runs"][0]["methods"] == ["base", "lens-gentle"]


def test_results_of_another_file_are_kept(here, started, capsys):
    assert main.main(["new", *WISH]) == 0
    Path("results").mkdir()
    of_another = {"title": "Other", "command": "snakemake --configfile other.yaml --cores 2"}
    Path("results/config.json").write_text(json.dumps(of_another))
    assert main.main(["run"]) == 2
    assert "results: holds the results of another run (Other); choose another folder" in capsys.readouterr().err
    assert started == []
    assert main.main(["run", "--force"]) == 2  # of the failed start
    assert len(started) == 1


def test_without_options_the_file_here_runs_else_the_demo(here, started, capsys):
    assert main.main(["new", *WISH]) == 0
    assert main.main(["run"]) == 2
    Path("empty").mkdir()
    main.main(["run", "--directory", "empty"])
    assert (
        yaml.safe_load(Path("empty/lensflow.yaml").read_text())["title"]
        == "Lensflow demo: Lens, steering and a prompt on one small model"
    )
    assert [folder for _, folder, _ in started] == [here, here / "empty"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "mine.yaml"], "mine.yaml: no such file; write one by lensflow new, name a model by --model, or corr"),
        (["run", "model"], "model: a folder, not a configuration file; write one by lensflow new, name a model by --"),
        (
            ["run", "--languages", "sw", "hi", "--model", "model"],
            "hi: no such file; write names in one list (sw,hi), or",
        ),
        (["run", "--languages", "sw", "--model", ""], "--model: missing; name a folder with a checkpoint"),
        (["new", *MODEL, "--directory", "texts.csv"], "--directory: texts.csv is a file; name a folder"),
        (["new", *MODEL, "--directory", "texts.csv/run"], "texts.csv/run: the folder cannot be made ("),
        (["run", "texts.csv", "--gpus", "1"], "--gpus: texts.csv says what to run; change it there"),
        (["run", "--languages", "sw"], "--model: missing; name a folder with a checkpoint"),
        (["run", "--model", "model"], "--languages: missing; name the languages to make better, such as sw,hi"),
    ],
)
def test_a_mistake_is_one_line(here, started, capsys, arguments, message):
    assert main.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert started == []


@pytest.mark.parametrize("found", [0, 1])
def test_a_machine_without_the_gpus_is_named_before_anything_is_written(here, started, capsys, monkeypatch, found):
    monkeypatch.setattr("torch.cuda.device_count", lambda: found)
    request = ["run", *MODEL, "--data", "texts.csv", "--gpus", "2"]
    assert main.main(request) == 2
    said = f"error: --gpus 2: torch finds {found} CUDA devices on this machine; set resources.gpus: {found}"
    assert said in capsys.readouterr().err
    assert started == [] and not Path("lensflow.yaml").exists()
    assert main.main(["new", *request[1:]]) == 0  # for another machine
    assert main.main(["run"]) == 2
    assert said in capsys.readouterr().err and started == []


@pytest.mark.slow
def test_a_folder_and_a_table_end_in_a_verdict(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    save_checkpoint("llama", tmp_path / "model")
    write_texts(tmp_path / "texts.csv")
    assert main.main(["new", *WISH, "--methods", "lens-strong", "--directory", "run"]) == 0
    file = Path("run/lensflow.yaml")
    quick = file.read_text().replace("engine: auto", "engine: hf")
    file.write_text(quick.replace("generation: {corpus: texts}", "generation: {corpus: texts, max_new_tokens: 8}"))
    assert main.main(["run", "run/lensflow.yaml"]) == 0
    config = json.loads(Path("run/results/config.json").read_text()) | {"results": "run/results"}
    verdict = verdict_lines(config, Path("run/results"))
    assert verdict
    said = capfd.readouterr().out.strip().splitlines()
    assert said[-len(verdict) - 1 :] == [*verdict, "Report: run/results/report.html"]
    assert Path("run/results/report.html").is_file()
    # The file runs by Snakemake alone, and there is nothing left to do.
    done = subprocess.run(
        f"{config['command']} --dry-run", shell=True, cwd="run", capture_output=True, text=True, check=True
    )
    assert "Nothing to be done" in done.stdout + done.stderr
