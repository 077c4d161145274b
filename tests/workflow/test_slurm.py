"""The workflow on a SLURM cluster: one node, really run by SLURM."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.workflow import cluster as slurm
from tests.workflow.cluster import Cluster
from tests.workflow.workspace import REPOSITORY, Workspace, demo_config

pytestmark = pytest.mark.skipif(
    bool(slurm.missing()), reason=f"SLURM is not installed ({', '.join(slurm.missing())}); Debian: slurm-wlm, munge"
)
WAIT = 1800  # seconds at most
# In the fake command line: the training that is to be cancelled waits, until the test lets it go on.
WAITING = '[ "$1" != train ] || while [ ! -e go ]; do touch "waiting.$$"; sleep 0.2; done\n'


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory() as folder, slurm.started(Path(folder)) as running:
        yield running


def until(condition: Callable[[], Any], process: subprocess.Popen) -> None:
    """Wait for something that a process brings about; a busy machine takes its time."""
    end = time.monotonic() + WAIT
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


@contextmanager
def running(command: list[str], folder: Path, environment: dict[str, str], output: Path) -> Iterator[subprocess.Popen]:
    """Run a command, no longer than the block."""
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_groups_resources_and_a_cancelled_job(cluster, tmp_path):
    workspace = Workspace(tmp_path)
    workspace.before_stages(WAITING)
    config = demo_config()
    resources = {"gpus": 2, "mem_gb": 1.5, "runtime": 7, "partition": "gpus", "disk_gb": 1e-6}
    config["backbones"]["tiny"]["resources"] = resources
    config["runs"][0] |= {"settings": ["en-zh"], "methods": ["base", "lens-a"], "benchmarks": ["generation"]}
    arguments = ["--configfile", str(workspace.write_config(config))]
    environment = workspace.environment | {"SLURM_CONF": cluster.environment["SLURM_CONF"]}
    environment["PATH"] = f"{workspace.programs}{os.pathsep}{cluster.environment['PATH']}"
    output = tmp_path / "output"
    with running(slurm.snakemake(arguments), workspace.root, environment, output) as process:
        until(lambda: list(workspace.root.glob("waiting.*")), process)
        (training,) = (job for job in cluster.jobs() if job["comment"].startswith("rule_train"))
        cluster.run("scancel", str(training["job_id"]))
        (workspace.root / "go").touch()
        assert process.wait(timeout=WAIT) == 0, output.read_text()
    assert (workspace.root / "results/tables/main.csv").is_file()

    jobs = [
        (
            job["comment"].removeprefix("rule_"),
            job["job_state"],
            job["memory_per_node"],
            job["time_limit"],
            job["tres_per_job"],
            job["partition"],
        )
        for job in cluster.jobs()
    ]
    states = "states_extract_hidden_states_fit_subspaces"
    tables = "tables_collect_scores_make_figures_make_table_report_resolve_config"
    train = "train_wildcards_tiny_en-zh_lens-a_0"
    # 14 stages, 8 jobs: short ones share a job, one after the other; the training again, with twice of everything.
    assert sorted(jobs) == sorted(
        [
            ("inputs_pair_data", "COMPLETED", 1000, 6, "", "other"),
            ("prepare_backbone_wildcards_tiny", "COMPLETED", 1500, 7, "", "other"),
            (states, "COMPLETED", 2000, 2 * 7 + 10, "gres:gpu:1", "gpus"),
            (train, "CANCELLED", 1500, 7, "gres:gpu:1", "gpus"),
            (train, "COMPLETED", 3000, 14, "gres:gpu:1", "gpus"),
            ("answer_tiny_0", "COMPLETED", 1500, 7, "gres:gpu:2", "gpus"),
            ("scores_score", "COMPLETED", 3000, 20, "", "other"),
            (tables, "COMPLETED", 4000, 52, "", "other"),
        ]
    )
    nodes = {job["comment"]: job["node_count"] for job in cluster.jobs()}
    assert set(nodes.values()) == {1}


def tiny_config(folder: Path) -> dict:
    """A random model of real code, whose training takes long enough to be cancelled."""
    tiny.save_checkpoint("llama", folder / "model")
    source = {"kind": "folder", "path": "model"}
    benchmarks = ["generation", "likelihood"]
    run = {"backbones": ["tiny"], "settings": ["en-zh"], "methods": ["base", "lens-long"], "benchmarks": benchmarks}
    return {
        "title": "tiny",
        "backbones": {"tiny": {"source": source, "license": "CC0-1.0", "prompt": {"format": "plain"}}},
        "methods": {"lens-long": {"kind": "lens", "epochs": 60, "lr": 1e-4}},
        "benchmarks": {name: {"split": "dev"} for name in benchmarks},
        "evaluation": {"engine": "hf", "dtype": "float32", "limit": 2},
        "runs": [run],
    }


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "smallest"])
def test_a_cancelled_training_changes_no_table(cluster, tmp_path, size):
    """A run that was cut short has, once it is finished, the tables of one that was not."""
    if shutil.which("lensflow") is None:
        pytest.skip("the command lensflow is not installed; run make setup")
    for name in ("Snakefile", "workflow", "config", "profiles", "envs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    config = REPOSITORY / "config/smallest.yaml"
    if size == "tiny":
        config = tmp_path / "tiny.yaml"
        config.write_text(json.dumps(tiny_config(tmp_path)))
    environment = os.environ | cluster.environment | {"OMP_NUM_THREADS": "1"}

    output = tmp_path / "output"
    command = slurm.snakemake(["--configfile", str(config)])

    def finish() -> str:
        with running(command, tmp_path, environment, output) as process:
            assert process.wait(timeout=WAIT) == 0, output.read_text()
        return (tmp_path / "results/tables/main.csv").read_text()

    before = {job["job_id"] for job in cluster.jobs()}
    begun = "results/*/en-zh/*/seed0/config.json"  # a training writes it first
    with running([*command, "--retries", "0"], tmp_path, environment, output) as process:
        until(lambda: list(tmp_path.glob(begun)), process)
        started = [job for job in cluster.jobs() if job["job_id"] not in before]
        (training,) = (job for job in started if job["comment"].startswith("rule_train"))
        assert training["job_state"] == "RUNNING"
        cluster.run("scancel", str(training["job_id"]))
        assert process.wait(timeout=WAIT) != 0, output.read_text()
    assert not list(tmp_path.glob("results/*/en-zh/*/seed0/delta.safetensors"))

    interrupted = finish()
    (delta,) = tmp_path.glob("results/*/en-zh/*/seed0/delta.safetensors")
    assert "en-zh" in interrupted
    shutil.rmtree(delta.parent)
    assert finish() == interrupted
