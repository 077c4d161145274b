"""The workflow by the profile for Kubernetes: a stand-in for the cluster's API runs each pod as a process."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.workspace import Workspace, demo_config

PLUGINS = ("snakemake-executor-plugin-kubernetes", "snakemake-storage-plugin-fs")
MISSING = [name for name in PLUGINS if importlib.util.find_spec(name.replace("-", "_")) is None]
MISSING += [] if shutil.which("rsync") else ["rsync"]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
# A pod's working folder is empty and goes with it. What is not an output must be there for later pods all the same.
BESIDE = """cache=$(echo "$*" | sed 's/.* --cache \\([^ ]*\\).*/\\1/')
case $1 in
  prepare-backbone) folder=$(dirname "$5"); mkdir -p "$folder"; : > "$folder/weights" ;;
  answer) [ -e "$(dirname "$5")/weights" ] || exit 1; mkdir -p "$cache"; : > "$cache/cell" ;;
  score) [ -e "$cache/cell" ] || exit 1 ;;
esac
"""


class Pods(ThreadingHTTPServer):
    """A cluster's API, as far as the plugin asks it.

    Attributes:
        containers: the container of each job, in the order of their submission.
    """

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.environment, self.folder = environment, folder
        self.containers: list[dict[str, Any]] = []
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, job: dict[str, Any]) -> None:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        self.containers.append(container)
        (command,) = container["args"][1:]
        workdir = tempfile.mkdtemp(dir=self.folder)
        with (Path(workdir) / "output").open("w") as output:
            self.running[job["metadata"]["name"]] = subprocess.Popen(
                ["/bin/sh", "-c", command], cwd=workdir, env=self.environment, stdout=output, stderr=output
            )

    def status(self, name: str) -> dict[str, int]:
        code = self.running[name].poll()
        return {} if code is None else {"failed": 1} if code else {"succeeded": 1}


class Api(BaseHTTPRequestHandler):
    server: Pods

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/jobs"):
            self.server.start(body)
        self.answer(body)

    def do_GET(self) -> None:
        if "/jobs/" in self.path:
            self.answer({"status": self.server.status(self.path.split("/jobs/")[1].split("/")[0])})
        else:
            self.answer({"items": []})

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer({})

    def answer(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def cluster(workspace: Workspace, folder: Path) -> Iterator[Pods]:
    """Serve it, and let kubectl's configuration name it."""
    with Pods(workspace.environment, folder) as pods:
        address = f"http://127.0.0.1:{pods.server_port}"
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": address}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": ""}}],
            "current-context": "test",
        }
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
        threading.Thread(target=pods.serve_forever, daemon=True).start()
        yield pods
        pods.shutdown()


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    workspace.before_stages(BESIDE)
    # Each pod installs the storage's plugin; here it is installed.
    for name, script in (("pip", ""), ("python", f'exec {sys.executable} "$@"')):
        workspace.write_program(name, script)
    subprocess.run(["git", "init", "-q"], cwd=workspace.root, check=True)
    subprocess.run(["git", "add", "Snakefile", "workflow", "config"], cwd=workspace.root, check=True)
    return workspace


def small(workspace: Workspace) -> dict:
    config = demo_config()
    source = {"kind": "folder", "path": str(workspace.root / "model")}  # in a cluster, on the volume
    config["backbones"]["tiny"] |= {"source": source, "resources": {"gpus": 2, "mem_gb": 1.5, "disk_gb": 1e-6}}
    config["runs"][0] |= {"settings": ["en-zh"], "methods": ["base", "lens-a"], "benchmarks": ["generation"]}
    return config


def snakemake(workspace: Workspace, *arguments: str) -> subprocess.CompletedProcess:
    config = str(workspace.write_config(small(workspace)))
    subprocess.run(["git", "add", config], cwd=workspace.root, check=True)
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "kubernetes", "--configfile", config]
    return subprocess.run(
        [*command, *arguments],
        cwd=workspace.root,
        env=workspace.environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run(workspace):
    done = snakemake(workspace, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"total +16\b", done.stdout), done.stderr


def test_pods(workspace, tmp_path):
    """Every pod asks for what its stage needs, and finds what earlier ones left on the volume."""
    volume, pods_folder = tmp_path / "volume", tmp_path / "pods"
    for folder in (volume, pods_folder):
        folder.mkdir()
    with cluster(workspace, pods_folder) as pods:
        workspace.environment["KUBECONFIG"] = str(pods_folder / "kubeconfig")
        places = [f"--{name}-storage-prefix={volume}/work" for name in ("local", "remote-job-local")]
        pace = ["--retries", "0", "--seconds-between-status-checks", "1"]
        storage = f"--default-storage-prefix={volume}/store"
        done = snakemake(workspace, storage, *places, "--container-image", "image", *pace)
    logs = [path.read_text()[-3000:] for path in sorted(pods_folder.glob("*/output"), key=os.path.getmtime)]
    assert done.returncode == 0, "\n".join([*logs, done.stdout, done.stderr])
    assert (volume / "store/results/tables/main.csv").is_file()
    assert {container["image"] for container in pods.containers} == {"image"}
    limits = [container["resources"]["limits"] for container in pods.containers]
    asked = [(limit["memory"], limit.get("nvidia.com/gpu"), limit["cpu"]) for limit in limits]
    expected = sorted(
        [
            ("1000M", None, "1000m"),  # texts
            ("1500M", None, "1000m"),  # backbone
            ("2000M", "1", "1000m"),  # states and subspaces
            ("1500M", "1", "1000m"),  # training
            ("1500M", "2", "8000m"),  # answers of both checkpoints
            ("3000M", None, "1000m"),  # scores
            ("4000M", None, "1000m"),  # tables, figures, report
        ],
        key=str,
    )
    assert sorted(asked, key=str) == expected
