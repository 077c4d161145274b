"""Cells of the embedded chat model, answered and scored without Snakemake."""

from pathlib import Path
from typing import Any

from lensflow.artifacts import interventions
from lensflow.artifacts.interventions import Intervention
from lensflow.artifacts.layout import INTERVENTION, entry
from lensflow.benchmarks.base import Folders
from lensflow.schema.backbone import Prompt, Resources
from lensflow.schema.evaluation import Evaluation
from lensflow.schema.stages import Answering
from lensflow.stages import score
from lensflow.stages.answer import Answerer, Cell, Session, Speaker
from lensflow.storage.cache import read_entry


def session(manifest: Path, prompt: Prompt, **settings: Any) -> Session:
    """Return a backbone that answers, with these settings of `evaluation`."""
    config = Answering(prompt=prompt, evaluation=Evaluation(**settings), cells=[], checkpoints={})
    return Session(manifest, config, Resources())


def speaker(one: Session, run: Path | None, language: str, source: str | None = None) -> Speaker:
    """Return the checkpoint in the folder of a run, or the untouched backbone, as it answers in a language."""
    if run is None:
        return Speaker(one, None, Intervention(), language, source)
    return Speaker(one, run / "delta.safetensors", interventions.load(run / INTERVENTION), language, source)


def samples(
    one: Session, folders: Folders, cell: Cell, cache: Path, run: Path | None = None
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Answer a cell as the stage `answer` does, and score it as `score` does; return samples and metric -> value."""
    source = cell.benchmark.prompted_in(cell.language)
    answerer, asker = Answerer(one, folders, cache), speaker(one, run, cell.language, source)
    asked = answerer.asked(cell, asker)
    answerer.answer(asked, asker)
    rows = read_entry(entry(cache, asked.key))["answers"]
    found = cell.benchmark.samples(rows, answerer.items(cell), cell.language, folders.tasks)
    _, scores = score.measure(found, cell.benchmark, cell.language)
    return found, {one["metric"]: one["value"] for one in scores}
