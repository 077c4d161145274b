"""Trackers of experiments: training curves and scores in TensorBoard, Trackio, W&B or MLflow, by accelerate.

A tracker gets the results of a stage after the stage has ended, in the process of the stage's command. No stage imports
this module, and no stage's configuration names a tracker. A tracker therefore changes no result, and adding one does
not run any stage again.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lensflow.artifacts import scores
from lensflow.artifacts.layout import place_of
from lensflow.errors import LensflowError
from lensflow.storage.verified import read_jsonl

Tracker = Literal["tensorboard", "trackio", "wandb", "mlflow"]
VARIABLE = "LENSFLOW_TRACKERS"  # tells the stages' commands
FOLDER = Path("logs/trackers")  # of trackers that write files
PROJECT = "lensflow"
NAME_OF_RUN = {"wandb": "name", "trackio": "name", "mlflow": "run_name"}  # TensorBoard calls a run by its project
LOG = logging.getLogger(__name__)


def check(trackers: Sequence[str]) -> None:
    """Check that the trackers' packages are installed.

    Raises:
        LensflowError: a package is not installed.
    """
    for name in trackers:
        if find_spec(name) is None:
            raise LensflowError(f"trackers: '{name}' is not installed; pip install {name}, or remove it from trackers")


def track(stage: str, output: Path) -> None:
    """Send the results of a stage to the trackers that the environment names.

    If a tracker fails, the stage's log says so and the run continues.

    Args:
        stage: name of the stage; only `train` and `score` have something to track.
        output: the file that the stage wrote, in the folder of a checkpoint.
    """
    names = os.environ.get(VARIABLE)
    if not names or stage not in _ROWS:
        return
    rows, run = list(_ROWS[stage](output)), f"{place_of(output).folder}/{stage}"
    for name in names.split(","):
        try:
            _log(name, run, rows)
        except Exception as error:  # packages, networks and services fail in types of their own
            LOG.warning("trackers: '%s' did not take %s (%s); results are not affected", name, run, error)


def _log(name: str, run: str, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(log_with=name, project_dir=str(FOLDER))
    project, named = (PROJECT, {NAME_OF_RUN[name]: run}) if name in NAME_OF_RUN else (run, {})
    accelerator.init_trackers(project, init_kwargs={name: named})
    for step, values in rows:
        accelerator.log(dict(values), step=step)
    for tracker in accelerator.trackers:  # `end_training` would also end torch's process group, of vLLM's engine, say
        tracker.finish()


def _curve(output: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the steps of a training with their values in its history, as `{split}/{name}`."""
    for row in read_jsonl(output.with_name("history.jsonl")):
        numbers = {key: row[key] for key in row.keys() - {"step", "epoch", "split"}}
        yield row["step"], {f"{row['split']}/{key}": value for key, value in sorted(numbers.items())}


def _scores(output: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the scores of a checkpoint as `{benchmark}/{language}/{metric}`, in one step."""
    values: dict[str, Any] = {
        f"{cell['benchmark']}/{cell['language']}/{score['metric']}": score["value"]
        for cell in scores.read(output)["cells"]
        for score in cell["scores"]
    }
    yield 0, {name: value for name, value in values.items() if value is not None}


_ROWS = {"train": _curve, "score": _scores}
