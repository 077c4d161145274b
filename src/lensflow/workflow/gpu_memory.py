"""Check that two engines fit on one GPU: vLLM takes its share at once, and transformers loads the model a second
time."""

import math
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


def hints(plan: Plan, gpu_gb: float | None) -> list[str]:
    """Return one line for each backbone whose two engines would not fit on its GPU.

    Args:
        plan: the plan of the run.
        gpu_gb: memory of a GPU; None if it is unknown.
    """
    found = [_hint(name, plan, gpu_gb) for name in plan.backbones]
    return [line for line in found if line is not None]


def gpu_memory_gb() -> float | None:
    """Return the memory of this machine's smallest GPU in GB; None if there is no GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    sizes = [float(line) for line in done.stdout.split() if line.isdigit()] if done.returncode == 0 else []
    return min(sizes) * 2**20 / GB if sizes else None  # in MiB


def _hint(name: str, plan: Plan, gpu_gb: float | None) -> str | None:
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
