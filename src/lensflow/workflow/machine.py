"""What a run asks of this machine: memory of its GPUs, where vLLM takes its share at once and transformers loads the
model a second time, and instructions of its processor."""

import math
import re
import shutil
import subprocess
from pathlib import Path

from lensflow.artifacts.checkpoint import weight_paths
from lensflow.models.engines import registry
from lensflow.schema.backbone import Backbone, FolderSource
from lensflow.storage.paths import resolve
from lensflow.workflow.plan import Plan

GB = 1e9
_BESIDE = 3.0  # GB that transformers takes beside the weights: CUDA's own, states and logits of a batch
_UNKNOWN = 0.5  # a share that leaves room on any card that holds the model twice
_CPUINFO = Path("/proc/cpuinfo")  # Linux alone has it
_BFLOAT16 = {"avx512bw", "amx_bf16", "bf16"}  # Linux's names of what oneDNN and Arm's library compute bfloat16 with


def hints(plan: Plan, gpu_gb: float | None, instructions: frozenset[str] | None) -> list[str]:
    """Return one line for each backbone whose two engines would not fit on its GPU, and one if the answers are slow.

    Args:
        plan: the plan of the run.
        gpu_gb: memory of a GPU; None if it is unknown.
        instructions: the processor's, as Linux names them; None if they are unknown.
    """
    found = [_no_room(name, plan, gpu_gb) for name in plan.backbones]
    return [line for line in [*found, _slow(plan, instructions)] if line is not None]


def instructions(cpuinfo: Path = _CPUINFO) -> frozenset[str] | None:
    """Return the names of the processor's sets of instructions; None where the system has no such file."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else None


def gpu_memory_gb() -> float | None:
    """Return the memory of this machine's smallest GPU in GB; None if there is no GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    sizes = [float(line) for line in done.stdout.split() if line.isdigit()] if done.returncode == 0 else []
    return min(sizes) * 2**20 / GB if sizes else None  # in MiB


def _slow(plan: Plan, instructions: frozenset[str] | None) -> str | None:
    # Gemma-3-270M on two cores with AVX2 alone: 176 s for 60 answers (mean of 2 cells), in float32 43 s (of 7).
    slow = instructions is not None and not instructions & _BFLOAT16
    on_processor = [name for name in plan.backbones if not plan.config.backbones[name].resources.gpus]
    if not slow or plan.config.evaluation.dtype != "bfloat16":
        return None
    if not any(registry.FAST in _engines(name, plan) for name in on_processor):
        return None
    return (
        "evaluation.dtype: this processor has no instructions for bfloat16, so vLLM is several times slower than in "
        "float32; set float32, unless the answers must be in bfloat16"
    )


def _no_room(name: str, plan: Plan, gpu_gb: float | None) -> str | None:
    backbone = plan.config.backbones[name]
    share, engines = backbone.resources.gpu_memory, _engines(name, plan)
    if not backbone.resources.gpus or registry.FAST not in engines or len(engines) < 2:
        return None
    size = _size_gb(backbone, plan.root)
    if gpu_gb is None or size is None:
        fitting, card = _UNKNOWN, "the GPU"
    else:
        fitting = max(0.05, math.floor(20 * (1 - (size + _BESIDE) / gpu_gb)) / 20)
        card = f"a GPU of {gpu_gb:.0f} GB"
    if share <= fitting:
        return None
    return (
        f"backbones.{name}.resources.gpu_memory: vLLM takes {share:g} of {card}, and transformers loads the model "
        f"a second time beside it; set it to {fitting:g} or less, or evaluation.engine: {registry.PLAIN}"
    )


def _engines(name: str, plan: Plan) -> set[str]:
    """Return the engines that evaluate a backbone in one process."""
    used = {benchmark for place, cells in plan.checkpoints.items() if place.backbone == name for benchmark in cells}
    engine = plan.config.evaluation.engine
    found = set()
    for benchmark in (plan.config.benchmarks[benchmark] for benchmark in used):
        if benchmark.generates or benchmark.judged:
            found.add(registry.generator(engine))
        elif benchmark.kind == "likelihood":
            found.add(registry.reader(engine))
        else:
            found.add(registry.scorer(engine))
    return found


def _size_gb(backbone: Backbone, root: Path) -> float | None:
    if isinstance(backbone.source, FolderSource):
        paths = weight_paths(resolve(backbone.source.path, root))
        return sum(path.stat().st_size for path in paths) / GB
    return backbone.resources.disk_gb
