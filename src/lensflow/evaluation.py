"""Evaluation of a checkpoint (stage `evaluate`): one job, one start of each engine, all its cells.

A cell is one benchmark in one language. What a cell gave is kept under the digest of everything that it depends on, so
that the same weights, task and settings are never computed again, whatever the method is called, and a killed job keeps
its finished cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lensflow import languages, likelihood, metrics, statistics
from lensflow.backbones import verify
from lensflow.config import ChatPrompt, Evaluation, Generation, Likelihood, MultipleChoice, PlainPrompt
from lensflow.corpora import Text, read_texts
from lensflow.data import cldr
from lensflow.engines import Engine
from lensflow.files import digest, read_json, write_json, write_jsonl
from lensflow.prompts import PromptTokenizer

MAX_MODEL_LEN = 512  # tokens of a prompt and its answer; the embedded prompts stay below 128


@dataclass(frozen=True)
class Cell:
    """One benchmark in one language."""

    name: str
    benchmark: Generation | Likelihood | MultipleChoice
    language: str


class Evaluator:
    """Evaluates one checkpoint; engines start when the first cell needs them.

    Args:
        checkpoint: manifest of the checkpoint.
        prompt: the backbone's prompt format.
        evaluation: engine, precision, limit.
        data: folder of what `pair_data` wrote, `{corpus}/{language}.jsonl`.
    """

    def __init__(self, checkpoint: Path, prompt: PlainPrompt | ChatPrompt, evaluation: Evaluation, data: Path) -> None:
        self.manifest = verify(checkpoint)
        self.folder, self.prompt, self.evaluation, self.data = checkpoint.parent, prompt, evaluation, data

    @cached_property
    def tokenizer(self) -> PromptTokenizer:
        """The backbone's tokenizer."""
        return PromptTokenizer(self.folder, self.prompt)

    @cached_property
    def transformers_engine(self) -> Any:
        """The engine that reads whole distributions; it scores under every setting but `vllm`."""
        from lensflow.engines.transformers import TransformersEngine

        return TransformersEngine(self.folder, self.evaluation.dtype, self.tokenizer)

    @cached_property
    def vllm_engine(self) -> Any:
        """The vLLM engine."""
        from lensflow.engines.vllm import VllmEngine

        return VllmEngine(self.folder, self.evaluation.dtype, self.tokenizer, MAX_MODEL_LEN)

    @property
    def generator(self) -> Engine:
        """The engine that generates."""
        engine: Engine = self.transformers_engine if self.evaluation.engine == "hf" else self.vllm_engine
        return engine

    @property
    def scorer(self) -> Engine:
        """The engine that ranks choices: transformers unless vLLM is asked for, being faster on CPU."""
        engine: Engine = self.vllm_engine if self.evaluation.engine == "vllm" else self.transformers_engine
        return engine

    def texts(self, cell: Cell) -> list[Text]:
        """Return the prompts of a cell."""
        assert not isinstance(cell.benchmark, MultipleChoice)
        path = self.data / cell.benchmark.corpus / f"{cell.language}.jsonl"
        return read_texts(path, [cell.benchmark.split])[: self.evaluation.limit]

    def questions(self, cell: Cell) -> list[cldr.Question]:
        """Return the questions of a cell."""
        return cldr.questions([cell.language])[cell.language][: self.evaluation.limit]

    def identity(self, cell: Cell) -> dict[str, Any]:
        """Return everything that a cell's result depends on, but for the code."""
        if isinstance(cell.benchmark, MultipleChoice):
            task: list[Any] = [[q.question, list(q.choices), q.answer] for q in self.questions(cell)]
        else:
            task = [[text.id, text.prompt] for text in self.texts(cell)]
        benchmark = cell.benchmark.canonical()
        return {
            "weights": self.manifest["weights"],
            "prompt": self.prompt.canonical(),
            "benchmark": benchmark,
            "language": cell.language,
            "task": digest(task),
            "engine": self.evaluation.engine,
            "dtype": self.evaluation.dtype,
        }

    def run(self, cell: Cell) -> dict[str, Any]:
        """Compute one cell: its scores and its samples."""
        if isinstance(cell.benchmark, Generation):
            return self._generation(cell, cell.benchmark)
        if isinstance(cell.benchmark, Likelihood):
            return self._likelihood(cell)
        return self._multiple_choice(cell)

    def _generation(self, cell: Cell, benchmark: Generation) -> dict[str, Any]:
        texts = self.texts(cell)
        prompts = [self.tokenizer.encode(text.prompt) for text in texts]
        answers = self.generator.generate(prompts, benchmark.max_new_tokens, list(benchmark.stop))
        samples = []
        for text, answer in zip(texts, answers, strict=True):
            samples.append(
                {
                    "id": text.id,
                    "prompt": text.prompt,
                    "answer": answer,
                    "identified": languages.identify(answer),
                    "faithful": metrics.is_faithful(answer, cell.language),
                    "repetitive": metrics.is_repetitive(answer),
                    "copied": metrics.copies_prompt(answer, text.prompt),
                    "empty": metrics.is_empty(answer),
                }
            )
        columns = {"fidelity": "faithful", "repetition": "repetitive", "copying": "copied", "empty": "empty"}
        scores = [score(name, [int(s[column]) for s in samples]) for name, column in columns.items()]
        return {"scores": scores, "samples": samples}

    def _likelihood(self, cell: Cell) -> dict[str, Any]:
        texts = self.texts(cell)
        latin = languages.scripts(cell.language) == languages.LATIN
        masks = None if latin else languages.script_masks(self.tokenizer.vocabulary, cell.language)
        encoded = [self.tokenizer.encode_with_span(text.prompt) for text in texts]
        sequences, counted = [ids for ids, _ in encoded], [inside for _, inside in encoded]
        rows = likelihood.read_prompts(self.transformers_engine.model, sequences, counted, masks)
        samples: list[dict[str, Any]] = [
            {"id": text.id, "prompt": text.prompt, **row} for text, row in zip(texts, rows, strict=True)
        ]
        scores = [score("nll", [sample["nll"] for sample in samples], [sample["tokens"] for sample in samples])]
        if not latin:
            scores.append(score("script_mass", [sample["script_mass"] for sample in samples]))
        return {"scores": scores, "samples": samples}

    def _multiple_choice(self, cell: Cell) -> dict[str, Any]:
        from lensflow import harness

        template = self.tokenizer.render("{prompt}")
        samples = harness.multiple_choice(self.scorer, self.tokenizer, self.questions(cell), template)
        return {"scores": [score("accuracy", [int(sample["correct"]) for sample in samples])], "samples": samples}


def score(metric: str, items: Sequence[float | None], weights: Sequence[float] | None = None) -> dict[str, Any]:
    """Sum up the items of a cell.

    Args:
        metric: its name.
        items: what every item of the cell scored, in their order; None where the metric is not defined for an item.
        weights: what the sum of the items is divided by, such as tokens; by default one each.

    Returns:
        The mean with its 95 % interval over the n items that it is defined for (Wilson where all are 0 or 1, else BCa
        bootstrap; null if there is none), and `items` and `weights` themselves, for tests on the same items.
    """
    kept = [index for index, item in enumerate(items) if item is not None]
    values = [float(items[index] or 0) for index in kept]
    counts = [1.0] * len(kept) if weights is None else [float(weights[index]) for index in kept]
    n = len(kept)
    if not n:
        value = low = high = None
    else:
        value = math.fsum(values) / math.fsum(counts)
        if weights is None and set(values) <= {0.0, 1.0}:
            low, high = statistics.proportion_interval(int(sum(values)), n)
        else:
            low, high = statistics.ratio_interval(values, counts)
    result = {"metric": metric, "n": n, "value": value, "low": low, "high": high, "items": list(items)}
    return result if weights is None else result | {"weights": list(weights)}


def evaluate(evaluator: Evaluator, cells: list[Cell], code: str, cache: Path, output: Path) -> None:
    """Evaluate a checkpoint's cells, taking from the cache what is there.

    Args:
        evaluator: of the checkpoint.
        cells: what to compute.
        code: digest of the code that computes cells.
        cache: folder of cells computed so far, by digest.
        output: `scores.json`; samples are written to `samples/{benchmark}.{language}.jsonl` beside it.
    """
    rows = []
    with tqdm(cells, desc="cells", unit="cell") as progress:
        for cell in progress:
            progress.set_postfix_str(f"{cell.name} {cell.language}")
            identity = evaluator.identity(cell)
            key = digest({"code": code, **identity})
            path = cache / key[:2] / f"{key}.json"
            if not path.is_file():
                write_json(path, {"identity": identity, **evaluator.run(cell)})
            result = read_json(path)
            write_jsonl(output.parent / "samples" / f"{cell.name}.{cell.language}.jsonl", result["samples"])
            place = {"benchmark": cell.name, "language": cell.language, "cell": key}
            rows.append(place | {"ids": [sample["id"] for sample in result["samples"]], "scores": result["scores"]})
    write_json(
        output,
        {
            "weights": evaluator.manifest["weights"],
            "engine": evaluator.evaluation.engine,
            "dtype": evaluator.evaluation.dtype,
            "cells": rows,
        },
    )
