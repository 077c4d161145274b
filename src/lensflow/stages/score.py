"""The scores of one checkpoint from its stored answers (stage `score`); it needs no model, no torch and no GPU."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensflow.artifacts import layout
from lensflow.benchmarks.base import Benchmark, Folders, Items, Row
from lensflow.benchmarks.registry import AnyBenchmark
from lensflow.errors import LensflowError
from lensflow.measures.catalogue import METRICS, Value
from lensflow.measures.samples import describe
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
        config: the cells of the checkpoint.
        answers: `answers.json` of the checkpoint.
        corpora: output folder of `pair_data`.
        items: output folder of `fetch_items`.
        tasks: folders in which the user's own task files are searched.
        cache: folder of the answered cells.
        output: `scores.json`; samples are written to `samples/{benchmark}.{language}.jsonl` beside it.

    Raises:
        LensflowError: an answered cell is missing or damaged. `answers.json` was then renamed, so that the next run
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
            raise LensflowError(f"{name}, {language}: its answers are missing; run again to make them")
        benchmark = benchmarks[name]
        found = benchmark.items(folders, name, language)
        asked: Items = {id_: found[id_] for id_ in cell["ids"]}
        try:
            samples = benchmark.samples(entry["answers"], asked, language, folders.tasks)
        except LensflowError as error:
            raise LensflowError(f"{name}, {language}: {error}") from error
        references = benchmark.references(folders, language)
        if asked.keys() <= references.keys():
            for sample in samples:
                sample["reference"] = references[sample["id"]]
        units, scores = measure(samples, benchmark, language)
        write_jsonl(output.parent / layout.SAMPLES / f"{name}.{language}.jsonl", samples)
        asked_of = {} if units == cell["ids"] else {"asked": cell["ids"]}
        cells.append(cell | {"ids": units, "scores": scores} | asked_of)
    write_json(output, content | {"cells": cells})


def measure(samples: list[Row], benchmark: Benchmark, language: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Compute every metric for which the samples have the inputs; an answer is judged first.

    Returns:
        The units that statistics count, and the scores of the metrics. A unit of several items gets their mean.
    """
    if samples and {"answer", "prompt"} <= samples[0].keys():
        for sample, found in zip(samples, describe(samples, language, benchmark.prompted_in(language)), strict=True):
            sample.update(found)
    units: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        units.setdefault(benchmark.unit_of(sample["id"]), []).append(index)
    scores = [
        score(name, [_mean([sample[name] for sample in samples], of) for of in units.values()])
        for name in benchmark.own_metrics()
    ]
    for name, metric in METRICS.items():
        if name in benchmark.own_metrics() or metric.measure is None or not metric.is_defined(samples, language):
            continue
        values = [metric.measure(sample, language) for sample in samples]
        weights = None if metric.weight is None else [sample[metric.weight] for sample in samples]
        scores.append(score(name, [_mean(values, of) for of in units.values()], weights))
    return list(units), scores


def _mean(values: Sequence[Value], indices: Sequence[int]) -> float | None:
    """Return the mean of the known values at some positions; None if none is known."""
    known = [float(value) for index in indices if (value := values[index]) is not None]
    return math.fsum(known) / len(known) if known else None
