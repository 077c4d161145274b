"""The whole chain again, in another folder and on another number of threads; and what of the environment it tells."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from safetensors.torch import load_file

from tests import chain

SECRETS = {
    "OPENAI_API_KEY": "sk-planted-openai-0123",
    "JUDGE_KEY": "sk-planted-judge-4567",
    "HF_TOKEN": "hf_plantedTokenOfTheHub89",
    "HUGGING_FACE_HUB_TOKEN": "hf_plantedTokenOfTheHub89",
    "AWS_SECRET_ACCESS_KEY": "planted/aws/secret",
}
# What a run takes is another thing than what it gives.
MEASURED = re.compile(r"cost\.(json|csv|md|tex)$|report\.html$|\.record\.json$")


def run_chain(source: Path, folder: Path, threads: int) -> str:
    """Run the chain in a folder and a process of its own, with secrets in the environment; return what it printed."""
    folder.mkdir()
    environment = os.environ | SECRETS | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, chain.__file__, str(folder), str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    source = checkpoint("llama")
    for name, threads in (("first", 1), ("second", 1), ("threads", 2)):
        printed = run_chain(source, folder / name, threads)
        (folder / f"{name}.log").write_text(printed)
    return {name: folder / name for name in ("first", "second", "threads")}


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_runs_in_two_folders_are_the_same_in_every_byte(runs: dict[str, Path]) -> None:
    first, second = files(runs["first"]), files(runs["second"])
    assert list(first) == list(second)
    assert len(first) > 60
    assert {"results/tables/main.csv", "results/tiny/en-zh/lens/seed0/delta.safetensors"} <= set(first)
    differ = [name for name in first if first[name].read_bytes() != second[name].read_bytes()]
    assert [name for name in differ if not MEASURED.search(name)] == []


def test_two_threads_give_the_same_tables(runs: dict[str, Path]) -> None:
    first, other = files(runs["first"]), files(runs["threads"])
    tables = [name for name in first if name.endswith(".csv") and not MEASURED.search(name)]
    assert len(tables) == 11
    assert [name for name in tables if first[name].read_bytes() != other[name].read_bytes()] == []


def test_two_threads_give_nearly_the_same_tensors(runs: dict[str, Path]) -> None:
    """A sum in another order differs in its last bits; a training carries them on."""
    first, other = files(runs["first"]), files(runs["threads"])
    names = [name for name in first if re.search(r"hidden_states/.*safetensors$|delta\.safetensors$", name)]
    assert len(names) == 3
    for name in names:
        one, two = load_file(first[name]), load_file(other[name])
        assert one.keys() == two.keys()
        for key, tensor in one.items():
            difference = (tensor.float() - two[key].float()).abs().max()
            assert difference <= 1e-4 * tensor.float().abs().max(), (name, key)


def planted(folder: Path) -> list[str]:
    found = []
    for path in [*files(folder).values(), *folder.parent.glob("*.log")]:
        content = path.read_bytes()
        found += [f"{name} in {path}" for name, secret in SECRETS.items() if secret.encode() in content]
    return found


def test_no_secret_of_the_environment_is_in_a_log_or_an_artefact(runs: dict[str, Path]) -> None:
    assert planted(runs["first"]) == []
    (runs["first"].parent / "x.log").write_text(SECRETS["HF_TOKEN"])  # it would be found
    assert planted(runs["first"]) != []


class Hub(BaseHTTPRequestHandler):
    """A hub that refuses everything, and repeats what it was told."""

    seen: ClassVar[list[str]] = []
    status = 401

    def do_GET(self) -> None:
        self.seen.append(str(self.headers["Authorization"]))
        body = f"You said {self.headers['Authorization']}".encode()
        self.send_response(self.status)
        self.send_header("X-Error-Message", f"You said {self.headers['Authorization']}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.seen.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ITEMS = (
    '{"benchmark": "mine", "config": "default", "dataset": {"path": "some/data", "columns": ["a"], "revision": "%s"}}'
    % ("0" * 40)
)
BACKBONE = (
    '{"backbone": {"source": {"kind": "hub", "name": "some/model", "revision": "%s"}, "license": "none", '
    '"prompt": {"format": "plain"}}}' % ("0" * 40)
)


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize(
    "arguments",
    [
        ["fetch-items", "--config", ITEMS, "--language", "en", "--output", "out/en.jsonl"],
        ["prepare-backbone", "--config", BACKBONE, "--output", "out/manifest.json"],
    ],
    ids=["dataset", "model"],
)
def test_a_hub_that_repeats_the_token(
    hub: str, tmp_path: Path, arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "status", status)
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | SECRETS
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "lensflow.cli", *arguments],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    line = Path(f"/proc/{process.pid}/cmdline").read_text()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert any(SECRETS["HF_TOKEN"] in seen for seen in Hub.seen)  # the hub was sent it
    (tmp_path / "said.log").write_text(said + line)
    assert planted(tmp_path) == []
    assert SECRETS["HF_TOKEN"] not in said + line
    assert said.splitlines()[-1].startswith("error: ")
