"""A project of a user's: a very small random model through the real workflow, and what can happen to it."""

import contextlib
import copy
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lensflow.artifacts.texts import SPLITS, folder
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.integrity import CORRUPT
from lensflow.storage.verified import read_jsonl
from tests import tiny
from tests.faults.forks import start

REPOSITORY = Path(__file__).parents[2]
LANGUAGES = ("en", "zh")
COUNTS = {"train": 12, "dev": 3, "test": 4}
# What a wrong number would show in: everything with scores in it. What training took differs from run to run.
COMPARED = (
    "*/*/*/*/judged.json",
    "*/*/*/*/verdicts/*",
    "scores.csv",
    "comparisons.csv",
    "versus.csv",
    "claims.csv",
    "sweeps.csv",
    "tables/*",
    "*/*/*/*/scores.json",
    "*/*/*/*/samples/*",
)
MEASURED = ("cost.md", "cost.tex", "cost.csv")
CONFIG_FILE = "faults.yaml"
TRAINED = "results/tiny/pair/lens-tiny/seed0"
TIMEOUT = 1800  # seconds, on a busy machine


class _Verdicts(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        verdict = {"content": f"It is what it is. [[{1 + zlib.crc32(asked) % 10}]]"}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": verdict}], "model": "judge"}).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def judge() -> Iterator[str]:
    """Start an endpoint that rates equal answers alike; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Verdicts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def configuration(judge: str) -> dict[str, Any]:
    """Two languages, base and one variant of Lens, and a benchmark of each kind, one with the judge at an address."""
    source = {"kind": "folder", "path": "model"}
    columns = ["category", "turns", "reference"]
    questions = {"path": "my/talk", "columns": columns, "id": "question_id", "split": "test"}
    return {
        "title": "faults",
        "backbones": {"tiny": {"source": source, "license": "CC0-1.0", "prompt": {"format": "plain"}}},
        "corpora": {"small": {"path": "corpus", "license": "CC0-1.0"}},
        "settings": {"pair": {"central": "en", "languages": list(LANGUAGES), "probing": "small", "training": "small"}},
        "methods": {"lens-tiny": {"kind": "lens", "lr": 1e-3, "epochs": 3, "batch_size": 2}},
        "benchmarks": {
            "answers": {"kind": "generation", "corpus": "small", "split": "test", "max_new_tokens": 6},
            "held-out": {"kind": "likelihood", "corpus": "small", "split": "test"},
            "talk": {
                "kind": "mt_bench",
                "dataset": questions,
                "languages": {"en": "default"},
                "judge": {"model": "judge", "base_url": judge},
                "max_new_tokens": 6,
            },
        },
        "datasets_root": "datasets",
        "evaluation": {"engine": "hf", "dtype": "float32", "limit": COUNTS["test"]},
        "runs": [
            {
                "backbones": ["tiny"],
                "settings": ["pair"],
                "methods": ["base", "lens-tiny"],
                "benchmarks": ["answers", "held-out", "cldr", {"talk": ["en"]}],
            }
        ],
    }


class Project:
    """A folder with a configuration, a model, a corpus and, once it has run, results.

    Attributes:
        root: the folder.
        server: what its processes are forked from (`forks.serve`).
        config: what `run` runs with.
    """

    def __init__(self, root: Path, server: Path, config: dict[str, Any]) -> None:
        self.root, self.server = root, server
        self.config = copy.deepcopy(config)

    @classmethod
    def new(cls, root: Path, server: Path, config: dict[str, Any]) -> "Project":
        """Write a project that has not run yet."""
        root.mkdir()
        for name in ("Snakefile", "workflow", "config", "profiles", "envs"):
            (root / name).symlink_to(REPOSITORY / name)
        tiny.save_checkpoint("llama", root / "model")
        for split in SPLITS:
            rows = read_jsonl(folder("embedded", root) / f"{split}.jsonl")[: COUNTS[split]]
            write_jsonl(
                root / "corpus" / f"{split}.jsonl",
                [row | {"prompt": {code: row["prompt"][code] for code in LANGUAGES}} for row in rows],
            )
        talk = {"question_id": 1, "category": "math", "turns": ["1 + 1?", "And 2 + 2?"], "reference": ["2", "4"]}
        write_jsonl(root / "datasets/my/talk/test.jsonl", [talk])
        return cls(root, server, config)

    def copy(self, root: Path) -> "Project":
        """Copy the project with Snakemake's records and the times of its files; links lead into the copy."""
        shutil.copytree(self.root, root, symlinks=True)
        for path in root.rglob("*"):
            if path.is_symlink() and (target := path.readlink()).is_relative_to(self.root):
                times = path.lstat()
                path.unlink()
                path.symlink_to(root / target.relative_to(self.root))
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns), follow_symlinks=False)
        return Project(root, self.server, self.config)

    def write_config(self) -> str:
        """Write the configuration; return the name of its file."""
        (self.root / CONFIG_FILE).write_text(json.dumps(self.config))  # JSON is YAML
        return CONFIG_FILE

    def start(self, *arguments: str, fault: Mapping[str, Any] | None = None) -> "Run":
        """Start the workflow as a user would, with a fault in one of its stages."""
        self.write_config()
        (self.root / "reached").unlink(missing_ok=True)  # of a fault before
        return Run(self.root, arguments, fault, self.server)

    def run(self, *arguments: str, fault: Mapping[str, Any] | None = None) -> "Run":
        """Run the workflow to its end; a fault that nothing came to would test nothing."""
        run = self.start(*arguments, fault=fault).wait()
        assert fault is None or (self.root / "reached").exists(), run.output
        return run

    def remove(self, *patterns: str) -> None:
        """Delete files and folders of the results."""
        for pattern in patterns:
            found = list((self.root / "results").glob(pattern))
            assert found, f"nothing matches {pattern}"
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def numbers(self) -> dict[str, bytes]:
        """Return every file that holds a score, by its path; not what training took."""
        results = self.root / "results"
        paths = [path for pattern in COMPARED for path in results.glob(pattern) if path.is_file()]
        return {
            str(path.relative_to(results)): path.read_bytes()
            for path in paths
            if path.name not in MEASURED and path.suffix not in (CORRUPT, ".tmp")
        }


class Run:
    """A run of the workflow in its own group of processes."""

    def __init__(self, root: Path, arguments: Sequence[str], fault: Mapping[str, Any] | None, server: Path) -> None:
        environment = os.environ | {
            "COLUMNS": "1000",  # no line of a log is broken
            "PATH": f"{server}{os.pathsep}{os.environ['PATH']}",
        }
        if fault is not None:
            environment["FAULT"] = json.dumps(fault)
        command = ["snakemake", "--configfile", CONFIG_FILE, "--cores", "2", *arguments]
        self.root, self.code, self.output = root, -1, ""
        file, name = tempfile.mkstemp(dir=root)
        self._output = Path(name)
        self._process = start(server, command, root, environment, [file, file], group=0)
        os.close(file)

    def until_reached(self) -> "Run":
        """Wait until the stage with the fault has come to it."""
        end = time.monotonic() + TIMEOUT
        while not (self.root / "reached").exists():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)
        return self

    def go_on(self) -> None:
        """Let the stage with the fault go on."""
        (self.root / "go").touch()

    def signal(self, number: int, group: bool) -> None:
        """Send a signal to Snakemake, or to it and all that it started, as ctrl-C in a terminal does."""
        (os.killpg if group else os.kill)(self._process.pid, number)

    def wait(self) -> "Run":
        """Wait for the end and read what was said."""
        self.code = self._process.wait(TIMEOUT)
        self.output = self._output.read_text()
        return self


@contextlib.contextmanager
def own_disk(folder: Path, free: int) -> Iterator[None]:
    """Put a folder on a disk of its own that has so many bytes left; only root may."""
    content = folder.with_name(f"{folder.name}.content")
    folder.rename(content)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        shutil.copytree(content, folder, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(content)
        room = shutil.disk_usage(folder).free - free
        (folder / "filler").write_bytes(bytes(room))
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def mountable() -> bool:
    """Say whether this user may mount."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
        except FileNotFoundError:
            return False
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return done.returncode == 0


def truncate(path: Path) -> None:
    """Cut a file in half, and leave its time as it was: nothing but its content says so."""
    content = path.read_bytes()
    _replace(path, content[: len(content) // 2])


def flip(path: Path) -> None:
    """Change one bit in the middle of a file, and leave its time as it was."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    _replace(path, bytes(content))


def _replace(path: Path, content: bytes) -> None:
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
