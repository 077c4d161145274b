"""performance/gpu.sh without a GPU: a step that is broken should not be found on a GPU that is lent for minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_step_runs(tmp_path):
    command = ["sh", "performance/gpu.sh", str(tmp_path), "rehearsal"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    logs = "\n".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0, f"{done.stdout}\n{logs}"
    rows = [line.split("\t") for line in (tmp_path / "summary.tsv").read_text().splitlines()]
    assert [(name, code) for name, code, _ in rows] == [(name, "0") for name in ("versions", "tests", "vllm", "stream")]
    for name in ("tests", "vllm"):
        (last,) = (line for line in (tmp_path / f"{name}.log").read_text().splitlines() if " passed" in line)
        assert "failed" not in last  # and not all were skipped
