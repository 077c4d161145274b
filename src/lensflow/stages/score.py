"""The scores of one checkpoint from its stored answers (stage `score`); it needs no model, no torch and no GPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensflow.artifacts import layout
from lensflow.benchmarks.base import Benchmark, Folders, Items, Row
from lensflow.benchmarks.registry import AnyBenchmark
from lensflow.errors import LensflowError
from lensflow.measures.catalogue import METRICS, describe
from lensflow.measures.score import score
from lensflow.schema.parsing import parse
from lensflow.schema.stages import Scoring
from lensflow.storage.atomic import write_json, write_jsonl
from lensflow.storage.cache import read_entry
from lensflow.storage.integrity import discard
from lensflow.storage.verified import read_json


def run(
    config: Scoring, *, answers: Path, corpora: Path, items: Path, tasks: Sequence[Path], cache: Path, output: Path
) -> None:
    """Score a checkpoint.

    Args:
        config: the cells that it has.
        answers: `answers.json` of the checkpoint.
        corpora: folder of what `pair_data` wrote.
        items: folder of what `fetch_items` wrote.
        tasks: folders that task files of one's own are named from.
        cache: folder of the answered cells.
        output: `scores.json`; samples are written to `samples/{benchmark}.{language}.jsonl` beside it.

    Raises:
        LensflowError: an answered cell is gone or damaged; `answers.json` was then set aside, so that the next run
            answers the cell again.
    """
    content = read_json(answers)
    folders = Folders(corpora, items, tuple(tasks))
    benchmarks = {entry.name: parse(AnyBenchmark, entry.benchmark, "--config cells") for entry in config.cells}
    cells = []
    for cell in content["cells"]:
        name, language = cell["benchmark"], cell["language"]
        entry = read_entry(layout.entry(cache, cell["cell"]))
        if entry is None:
            discard(answers)
            raise LensflowError(f"{name}, {language}: its answers are gone; run again to answer it")
        benchmark = benchmarks[name]
        found = benchmark.items(folders, name, language)
        asked: Items = {id_: found[id_] for id_ in cell["ids"]}
        try:
            samples = benchmark.samples(entry["answers"], asked, language, folders.tasks)
        except LensflowError as error:
            raise LensflowError(f"{name}, {language}: {error}") from error
        scores = measure(samples, benchmark, language)
        write_jsonl(output.parent / layout.SAMPLES / f"{name}.{language}.jsonl", samples)
        cells.append(cell | {"scores": scores})
    write_json(output, content | {"cells": cells})


def measure(samples: list[Row], benchmark: Benchmark, language: str) -> list[dict[str, Any]]:
    """Compute every metric whose needs the samples have; an answer is judged first."""
    for sample in samples:
        if "answer" in sample and "prompt" in sample:
            sample.update(describe(sample, language))
    scores = [score(name, [sample[name] for sample in samples]) for name in benchmark.own_metrics()]
    for name, metric in METRICS.items():
        if metric.measure is None or not metric.is_defined(samples, language):
            continue
        values = [metric.measure(sample, language) for sample in samples]
        weights = None if metric.weight is None else [sample[metric.weight] for sample in samples]
        scores.append(score(name, [None if value is None else float(value) for value in values], weights))
    return scores
