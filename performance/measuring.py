"""What the benchmarks share: processes with their time and peak memory, and the table of ratios."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError
from lensflow.schema.backbone import Backbone
from lensflow.storage.atomic import write_text
from lensflow.workflow.experiment import Config

# No torch here: a child's maximum resident set begins with its parent's.
COLUMNS = ("dtype", "measure", "unit", "ours", "reference", "ratio", "target", "met")


@dataclass(frozen=True)
class Measured:
    """What one process took."""

    seconds: float
    megabytes: float  # largest resident set
    result: dict[str, Any] = field(default_factory=dict)
    gpu_megabytes: float = 0.0  # most of the GPU that was in use, by whomever, less what was before


def backbone_of(config: Config, manifest: Path) -> Backbone:
    """Return the catalog's entry of a prepared backbone, `.../{backbone}/backbone/manifest.json`.

    Raises:
        LensflowError: there is no such file, or the catalog has no such backbone.
    """
    name = manifest.absolute().parent.parent.name
    if not manifest.is_file() or name not in config.backbones:
        raise LensflowError(f"--backbone {manifest}: not the manifest.json of a prepared backbone; run make demo first")
    return config.backbones[name]


def device_name(gpus: int) -> str:
    """Name what the stages run on; torch is asked in a process of its own.

    Raises:
        LensflowError: they are to run on a GPU, and there is none.
    """
    if not gpus:
        return f"{os.cpu_count()} cores"
    code = "import json, torch; print(json.dumps({'name': torch.cuda.is_available() and torch.cuda.get_device_name()}))"
    if not (name := spawn(["-c", code]).result["name"]):
        raise LensflowError(f"--gpus {gpus}: this machine has no CUDA device that torch can use; leave the option out")
    return str(name)


@contextmanager
def watched_gpu() -> Iterator[list[int]]:
    """Collect what is in use of the first GPU's memory, MiB, ten times a second; nothing where the driver does not say.

    The driver counts CUDA's own part too, and whatever else runs there: the first number is from before.
    """
    used: list[int] = []
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    query = ["nvidia-smi", f"--id={first}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which(query[0]) else ""
    if not answer.isdecimal():
        yield used
        return
    used.append(int(answer))
    process = subprocess.Popen([*query, "--loop-ms=100"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reader = threading.Thread(target=lambda lines: used.extend(map(int, lines)), args=(process.stdout,))
    reader.start()
    try:
        yield used
    finally:
        process.terminate()
        reader.join()
        process.wait()


def say(text: str) -> None:
    """Show progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def spawn(arguments: Iterable[str | Path], threads: int | None = None, quiet: bool = False) -> Measured:
    """Run a process to its end; what it prints on stdout is its result in JSON, or nothing, or not wanted (`quiet`)."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with watched_gpu() as used:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        with process.stdout:
            printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # the resources of this child alone
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise LensflowError(f"{' '.join(map(str, arguments))[:200]}: failed; its message stands above")
    on_gpu = float(max(used) - used[0]) if used else 0.0
    return Measured(seconds, usage.ru_maxrss / 1024, {} if quiet else json.loads(printed or "{}"), on_gpu)


def row(
    dtype: str, measure: str, unit: str, ours: float, reference: float | None = None, at_least: float | None = None
) -> dict[str, Any]:
    """One row of the table; the ratio is reference / ours, so that more is better."""
    ratio = reference / ours if reference is not None and unit else None
    result = {"dtype": dtype, "measure": measure, "unit": unit, "ours": ours, "reference": reference, "ratio": ratio}
    met = "" if at_least is None or ratio is None else verdict(ratio >= at_least)
    return result | {"target": "" if at_least is None else f">= {at_least:g}x", "met": met}


def verdict(met: bool) -> str:
    """Say whether a target is met."""
    return "yes" if met else "NO"


def cell(key: str, value: Any) -> str:
    """Write a value of the table."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" + ("x" if key == "ratio" else "") if value < 1000 else f"{value:.0f}"
    return str(value)


def markdown(rows: list[dict[str, Any]], heading: str) -> str:
    """Write the table."""
    lines = [heading, "", f"| {' | '.join(COLUMNS)} |", f"|{'|'.join('---' for _ in COLUMNS)}|"]
    lines += [f"| {' | '.join(cell(key, entry[key]) for key in COLUMNS)} |" for entry in rows]
    return "\n".join(lines) + "\n"


def write(rows: list[dict[str, Any]], heading: str, stem: Path) -> None:
    """Write what there is as Markdown and CSV."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(stem.with_suffix(".csv"), table.getvalue())
    write_text(stem.with_suffix(".md"), markdown(rows, heading))
