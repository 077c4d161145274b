"""The judge against a real OpenAI-compatible server: vLLM's own, with the embedded SmolLM2 on this machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from lensflow.cli import main
from lensflow.storage.atomic import write_json, write_jsonl
from lensflow.storage.cache import read_entry
from lensflow.storage.verified import read_json, read_jsonl

KEY = "sk-planted-e2e"
START_LIMIT = 300  # seconds
MAX_TOKENS = 24
SAMPLES = [
    {
        "id": "81",
        "category": "writing",
        "turns": ["Name a colour.", "Another one?"],
        "reference": [],
        "answers": ["Red.", "Blue."],
    },
    {
        "id": "111",
        "category": "math",
        "turns": ["What is 1 + 1?", "And 2 + 2?"],
        "reference": ["2", "4"],
        "answers": ["2", "5"],
    },
]

pytestmark = pytest.mark.slow


@dataclass
class VllmServer:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, path: str) -> str | None:
        """What the server answers to GET, None if it does not."""
        client = openai.DefaultHttpxClient(trust_env=False)
        try:
            reply = client.get(f"http://127.0.0.1:{self.port}{path}", timeout=5)
        except Exception:  # not there yet, or not any more
            return None
        return reply.text if reply.status_code == 200 else None

    def answered(self) -> int:
        """The number of requests that it has finished."""
        metrics = self.get("/metrics")
        assert metrics is not None
        return int(sum(map(float, re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", metrics, re.MULTILINE))))

    def wait(self) -> None:
        for _ in range(START_LIMIT):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            if self.get("/health") is not None:
                return
            time.sleep(1)
        pytest.fail(f"no server after {START_LIMIT} s: {self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End the server and the processes that it started, which are a group of their own."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def server(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    log = tmp_path_factory.mktemp("server") / "log"
    port = free_port()
    options = {
        "--model": str(manifest.parent),
        "--served-model-name": "smollm2",
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": "2048",
        "--max-num-batched-tokens": "512",
        "--max-num-seqs": "4",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    environment = os.environ | {
        "VLLM_API_KEY": KEY,
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",  # it would wait for a C++ compiler
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *(part for option in options.items() for part in option)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = VllmServer(process, port, log)
    try:
        started.wait()
        yield started
    finally:
        started.stop()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an evaluated checkpoint."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_json(tmp_path / "run" / "scores.json", {"weights": "w", "engine": "hf", "dtype": "float32", "cells": []})
    write_jsonl(tmp_path / "run" / "samples" / "mt-bench.en.jsonl", SAMPLES)
    return tmp_path / "run"


def arguments(run: Path, server: VllmServer, **keys: object) -> list[str]:
    judge = {"model": "smollm2", "base_url": server.url, "key_variable": "JUDGE_KEY", "max_tokens": MAX_TOKENS}
    benchmark = {
        "kind": "mt_bench",
        "dataset": {"path": "lmsys/mt_bench", "columns": ["turns"]},
        "languages": {"en": "en"},
        "judge": judge | {"parallel": 2} | keys,
    }
    config = {"benchmarks": [{"name": "mt-bench", "benchmark": benchmark, "languages": ["en"]}]}
    paths = ["--scores", run / "scores.json", "--cache", run.parent / "verdicts", "--output", run / "judged.json"]
    return ["judge", "--config", json.dumps(config), *map(str, paths)]


def refused(capsys: pytest.CaptureFixture[str], *call: str) -> str:
    assert main.main([*call]) == 2
    said = capsys.readouterr().err
    assert KEY not in said
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_a_real_server_judges_once(server: VllmServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = server.answered()
    assert main.main(arguments(run, server)) == 0
    assert server.answered() == before + 4
    judged = read_json(run / "judged.json")
    (cell,) = judged["cells"]
    rating, unparsed = cell["scores"]
    assert cell["ids"] == ["81.1", "81.2", "111.1", "111.2"]
    assert unparsed["n"] == 4
    assert unparsed["items"] == [int(item is None) for item in rating["items"]]
    assert rating["n"] == 4 - sum(unparsed["items"])
    assert all(item is None or 1 <= item <= 10 for item in rating["items"])

    rows = read_jsonl(run / "verdicts" / "mt-bench.en.jsonl")
    assert [row["rating"] for row in rows] == rating["items"]
    assert {row["model"] for row in rows} == {"smollm2"}
    kept = [read_entry(path) for path in (run.parent / "verdicts").glob("*/*.json")]
    assert sorted(file["verdict"]["text"] for file in kept) == sorted(row["verdict"] for row in rows)
    assert all(0 < file["verdict"]["usage"]["completion_tokens"] <= MAX_TOKENS for file in kept)
    assert any(row["verdict"] for row in rows)

    # Again, and after an answer has changed.
    (run / "judged.json").unlink()
    assert main.main(arguments(run, server)) == 0
    assert read_json(run / "judged.json") == judged
    assert server.answered() == before + 4
    changed = [SAMPLES[0] | {"answers": ["Red.", "Green."]}, SAMPLES[1]]
    write_jsonl(run / "samples" / "mt-bench.en.jsonl", changed)
    assert main.main(arguments(run, server)) == 0
    assert server.answered() == before + 5
    capsys.readouterr()
    assert not any(KEY in path.read_text() for path in run.parent.rglob("*") if path.is_file())


def test_what_a_real_server_refuses(
    server: VllmServer, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(capsys, *arguments(run, server, model="another"))
    assert f"{server.url} does not know model 'another' (The model `another` does not exist" in line
    line = refused(capsys, *arguments(run, server, max_tokens=4096))
    assert "refuses a request with status 400 (" in line
    assert "maximum context length" in line or "max_tokens" in line
    monkeypatch.setenv("JUDGE_KEY", "sk-wrong")
    assert "refuses the key in environment variable JUDGE_KEY (401)" in refused(capsys, *arguments(run, server))
    monkeypatch.delenv("JUDGE_KEY")
    assert "wants a key (401); set environment variable JUDGE_KEY" in refused(capsys, *arguments(run, server))
    assert not (run / "judged.json").exists()


def test_a_real_server_that_ends(server: VllmServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last test: what is finished needs no server, and what is not says so."""
    assert main.main(arguments(run, server)) == 0
    judged = (run / "judged.json").read_bytes()
    server.stop()
    capsys.readouterr()
    assert main.main(arguments(run, server)) == 0
    assert (run / "judged.json").read_bytes() == judged
    line = refused(capsys, *arguments(run, server, temperature=0.5, retries=1))
    assert f"{server.url} cannot be reached, tried 2 times (" in line
    assert line.endswith("0 of 4 verdicts (en) are kept")
