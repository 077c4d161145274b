"""The cost of a training: time, memory, tokens, parameters (stage `train`)."""

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lensflow.artifacts import costs
from lensflow.artifacts.checkpoint import verifying
from lensflow.artifacts.layout import INTERVENTION, by_language
from lensflow.errors import LensflowError
from lensflow.methods.base import Run, StateFiles, Trained
from lensflow.methods.registry import METHODS, AnyMethod
from lensflow.schema.parsing import parse
from lensflow.schema.stages import Training
from lensflow.storage import energy
from lensflow.storage.atomic import atomic_path, write_json, write_jsonl


def train_measured(run: Run[Any]) -> None:
    """Run the method's own `train` and write `cost.json` beside the delta.

    `artifacts.costs.Cost` describes the content. It includes the energy if Linux allows reading the counters, and
    `residual` and `terms` for methods that have them. It covers only this stage, not the extraction of hidden states
    before it.

    History, dev states and intervention are empty files if the method does not write them, so that all methods have the
    same files.
    """
    history = run.output.with_name("history.jsonl")
    tensors = [run.output.with_name(name) for name in ("dev_states.safetensors", INTERVENTION)]
    for path in (history, *tensors):
        path.unlink(missing_ok=True)  # of another method that had this name
    counted, started = energy.counters(), time.monotonic()
    trained = METHODS.module_of(run.method.kind).train(run)
    seconds, used = time.monotonic() - started, energy.joules(counted, energy.counters())
    if not isinstance(trained, Trained):  # a method of the user's own
        raise LensflowError(f"kind {run.method.kind}: its function train returns no Trained; return one")
    if not history.exists():
        write_jsonl(history, [])
    for path in tensors:
        if not path.exists():
            with atomic_path(path) as temporary:
                save_file({}, temporary)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    allocated = torch.cuda.max_memory_allocated() if run.gpus else 0
    costs.write(
        run.output.with_name("cost.json"),
        {
            "seconds": round(trained.earlier_seconds + seconds, 3),
            "device": "cuda" if allocated else "cpu",
            "peak_memory": allocated or resident,
            "tokens": trained.tokens,
            "trained_parameters": trained.parameters,
            "energy_joules": None if used is None else round(used, 1),
            "residual": trained.residual,
            "terms": trained.terms or None,
            "left_out": trained.left_out or None,
        },
    )


def run(
    config: Training,
    *,
    backbone: Path,
    subspaces: Path | None,
    states: Sequence[Path],
    texts: Sequence[Path],
    gpus: int,
    output: Path,
) -> None:
    """Train one method on one setting.

    Args:
        config: method, setting, prompt and seed.
        backbone: manifest of the backbone's checkpoint.
        subspaces: `subspaces.safetensors`, for methods that need hidden states.
        states: `{language}.safetensors` of each language, for methods that need hidden states.
        texts: `{language}.jsonl` of each language.
        gpus: 1 to run on a GPU, or the method's `gpus`.
        output: `delta.safetensors`.
    """
    method = parse(AnyMethod, config.method, "--config method")
    resolved = config.canonical() | {"method": method.canonical()}
    hidden = None
    if method.needs_states:
        if subspaces is None or not states or config.extraction is None:
            raise LensflowError(f"kind {method.kind} needs --subspaces, --states and extraction in --config")
        hidden = StateFiles(config.extraction, subspaces, by_language(states))
    else:
        del resolved["extraction"]
    with verifying(backbone):
        METHODS.module_of(method.kind)  # and with it what the method loads
    write_json(output.parent / "config.json", resolved)
    given = Run(method, config.setting, config.seed, config.prompt, backbone, by_language(texts), output, hidden, gpus)
    train_measured(given)
