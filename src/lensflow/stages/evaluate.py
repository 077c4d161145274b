"""Evaluation of a checkpoint (stage `evaluate`): one job, one start of each engine, all its cells.

A cell is one benchmark in one language. What a cell gave is kept under the digest of everything that it depends on, so
that the same weights, task and settings are never computed again, whatever the method is called, and a killed job keeps
its finished cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lensflow import languages
from lensflow.artifacts import interventions
from lensflow.artifacts.checkpoint import verify
from lensflow.artifacts.interventions import Intervention
from lensflow.artifacts.items import read_items
from lensflow.artifacts.texts import read_texts
from lensflow.benchmarks import harness
from lensflow.benchmarks.dataset_generation import DatasetGeneration
from lensflow.benchmarks.generation import Generation
from lensflow.benchmarks.kinds import Benchmark
from lensflow.benchmarks.likelihood import Likelihood
from lensflow.benchmarks.lm_eval import Task
from lensflow.benchmarks.mt_bench import MtBench
from lensflow.errors import LensflowError
from lensflow.measures import confusion
from lensflow.measures.answers import copies_prompt, is_empty, is_faithful, is_repetitive
from lensflow.measures.score import score
from lensflow.models import likelihood
from lensflow.models.engines.protocol import Engine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import ChatPrompt, PlainPrompt, Resources
from lensflow.schema.decoding import Decoding
from lensflow.schema.evaluation import Evaluation
from lensflow.storage.atomic import write_json, write_jsonl
from lensflow.storage.cache import read_entry, write_entry
from lensflow.storage.digests import digest
from lensflow.storage.environment import machine, versions


@dataclass(frozen=True)
class Cell:
    """One benchmark in one language."""

    name: str
    benchmark: Benchmark
    language: str

    @property
    def place(self) -> tuple[str, str]:
        """Benchmark and language, which name it."""
        return self.name, self.language


@dataclass(frozen=True)
class Inputs:
    """Where a checkpoint's evaluation reads from.

    Attributes:
        checkpoint: its manifest.
        corpora: folder of what `pair_data` wrote, `{corpus}/{language}.jsonl`.
        items: folder of what `fetch_items` wrote, `{benchmark}/{language}.jsonl`.
        tasks: folders that task files of one's own are named from, in the order in which they are searched.
        intervention: what `train` wrote beside the checkpoint's delta; None for the untouched backbone.
    """

    checkpoint: Path
    corpora: Path
    items: Path
    tasks: tuple[Path, ...]
    intervention: Path | None = None


class Evaluator:
    """Evaluates one checkpoint; engines start when the first cell needs them.

    Args:
        inputs: what it reads.
        prompt: the backbone's prompt format.
        evaluation: engine, precision, limit.
        resources: GPUs and their memory.

    Raises:
        LensflowError: the checkpoint is damaged, or the intervention belongs to another backbone.
    """

    def __init__(
        self,
        inputs: Inputs,
        prompt: PlainPrompt | ChatPrompt,
        evaluation: Evaluation,
        resources: Resources,
    ) -> None:
        self.manifest = verify(inputs.checkpoint)
        self.folder = inputs.checkpoint.parent
        self.inputs, self.prompt, self.evaluation, self.resources = inputs, prompt, evaluation, resources
        self.intervention = interventions.load(inputs.intervention) if inputs.intervention else Intervention()
        if self.intervention.width not in (None, self.manifest["hidden_size"]):
            raise LensflowError(
                f"{inputs.intervention}: changes states of {self.intervention.width} dimensions, {inputs.checkpoint} "
                f"has states of {self.manifest['hidden_size']}; it belongs to another backbone"
            )
        self._runs: dict[tuple[str, str], harness.TaskRun] = {}

    @cached_property
    def tokenizer(self) -> PromptTokenizer:
        """The backbone's tokenizer."""
        return PromptTokenizer(self.folder, self.prompt)

    @cached_property
    def transformers_engine(self) -> Any:
        """The engine that reads whole distributions; it scores under every setting but `vllm`."""
        from lensflow.models.engines.transformers import TransformersEngine

        device = "cuda" if self.resources.gpus else "cpu"
        return TransformersEngine(
            self.folder, self.evaluation.dtype, self.tokenizer, device, attention=self.evaluation.attention
        )

    @cached_property
    def vllm_engine(self) -> Any:
        """The vLLM engine."""
        from lensflow.models.engines.vllm import VllmEngine

        return VllmEngine(
            self.folder, self.evaluation.dtype, self.tokenizer, self.evaluation.max_model_len, self.resources
        )

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

    def _items(self, cell: Cell, split: str = "items") -> dict[str, dict[str, Any]]:
        """Return a cell's items by id: those of its data set, or a corpus' texts as `{"prompt": ...}`."""
        if isinstance(cell.benchmark, (Generation, Likelihood)):
            path = self.inputs.corpora / cell.benchmark.corpus / f"{cell.language}.jsonl"
            found = {text.id: {"prompt": text.prompt} for text in read_texts(path, [cell.benchmark.split])}
        else:
            found = read_items(self.inputs.items / cell.name / f"{cell.language}.jsonl", split)
        return dict(list(found.items())[: self.evaluation.limit]) if split == "items" else found

    def _task_file(self, cell: Cell) -> Path:
        assert isinstance(cell.benchmark, Task)
        entry = cell.benchmark.languages[cell.language]
        return harness.task_file(harness.task_name(cell.benchmark, entry), self.inputs.tasks)

    def identity(self, cell: Cell) -> dict[str, Any]:
        """Return everything that a cell's result depends on, but for the code."""
        benchmark = cell.benchmark.canonical()
        identity = {
            "weights": self.manifest["weights"],
            "prompt": self.prompt.canonical(),
            "language": cell.language,
            "items": digest(self._items(cell)),
            "engine": self.evaluation.engine,
            "dtype": self.evaluation.dtype,
            "attention": self.evaluation.attention,
        }
        if "languages" in benchmark:  # of the others nothing depends
            benchmark["languages"] = benchmark["languages"][cell.language]
        if isinstance(cell.benchmark, Task):
            task = {"file": harness.file_digest(self._task_file(cell)), "fewshot": digest(self._items(cell, "fewshot"))}
            identity |= {"task": task, "lm_eval": version("lm_eval")}
        benchmark.pop("judge", None)  # rates the answers later
        if intervention := self.intervention.identity(cell.language, instructed=_is_instructed(cell.benchmark)):
            identity["intervention"] = intervention
        return identity | {"benchmark": benchmark}

    def prepare(self, cells: Sequence[Cell]) -> None:
        """Build the tasks of cells, so that a mistake in one is reported before an engine starts.

        Raises:
            LensflowError: a task's file is not valid, or does not fit its items.
        """
        for cell in cells:
            if isinstance(cell.benchmark, Task):
                entry = cell.benchmark.languages[cell.language]
                variables = {"language_name": languages.english_name(cell.language)}
                self._runs[cell.name, cell.language] = harness.TaskRun(
                    cell.benchmark,
                    entry,
                    self._task_file(cell),
                    self._items(cell),
                    self._items(cell, "fewshot"),
                    variables,
                )

    def run(self, cell: Cell) -> dict[str, Any]:
        """Compute one cell: its scores and its samples.

        Raises:
            LensflowError: names the benchmark and the language.
        """
        try:
            match cell.benchmark:
                case Task():
                    return self._task(cell, cell.benchmark)
                case Likelihood():
                    return self._likelihood(cell)
                case MtBench():
                    return self._conversations(cell, cell.benchmark)
                case Generation():
                    return self._generation(cell, cell.benchmark, "prompt")
                case DatasetGeneration():
                    return self._generation(cell, cell.benchmark, cell.benchmark.prompt)
        except LensflowError as error:
            raise LensflowError(f"{cell.name}, {cell.language}: {error}") from error

    def _generate(self, cell: Cell, prompts: list[list[int]], decoding: Decoding) -> list[str]:
        with self.generator.edited(self.intervention.edit(cell.language)):
            return self.generator.generate(prompts, decoding)

    def _score(self, cell: Cell, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        with self.scorer.edited(self.intervention.edit(cell.language)):
            return self.scorer.loglikelihoods(requests)

    def _asked(self, cell: Cell, prompt: str) -> str:
        """What the user says: a prompt, with an instruction where the method gives one."""
        return self.intervention.instruct(cell.language, prompt)

    def _generation(self, cell: Cell, decoding: Decoding, column: str) -> dict[str, Any]:
        prompts = {id_: str(item[column]) for id_, item in self._items(cell).items()}
        encoded = [self.tokenizer.encode(self._asked(cell, prompt)) for prompt in prompts.values()]
        answers = self._generate(cell, encoded, decoding)
        samples: list[dict[str, Any]] = []
        detectable = confusion.is_detectable(cell.language)
        for (id_, prompt), answer in zip(prompts.items(), answers, strict=True):
            samples.append(
                {
                    "id": id_,
                    "prompt": prompt,
                    "answer": answer,
                    "identified": languages.identify(answer),
                    "faithful": is_faithful(answer, cell.language),
                    "repetitive": is_repetitive(answer),
                    "copied": copies_prompt(answer, prompt),
                    "empty": is_empty(answer),
                    "lines_pass": confusion.line_passes(answer, cell.language) if detectable else None,
                    "words_pass": confusion.words_pass(answer, cell.language) if detectable else None,
                }
            )
        columns = {
            "fidelity": "faithful",
            "line_pass_rate": "lines_pass",
            "word_pass_rate": "words_pass",
            "repetition": "repetitive",
            "copying": "copied",
            "empty": "empty",
        }
        if not detectable:
            del columns["line_pass_rate"], columns["word_pass_rate"]
        elif languages.scripts(cell.language) == languages.LATIN:
            del columns["word_pass_rate"]
        scores = [score(name, [_number(s[key]) for s in samples]) for name, key in columns.items()]
        return {"scores": scores, "samples": samples}

    def _likelihood(self, cell: Cell) -> dict[str, Any]:
        prompts = {id_: item["prompt"] for id_, item in self._items(cell).items()}
        latin = languages.scripts(cell.language) == languages.LATIN
        masks = None if latin else languages.script_masks(self.tokenizer.vocabulary, cell.language)
        encoded = [self.tokenizer.encode_with_span(prompt) for prompt in prompts.values()]
        sequences, counted = [ids for ids, _ in encoded], [inside for _, inside in encoded]
        engine = self.transformers_engine
        with engine.edited(self.intervention.edit(cell.language)):
            rows = likelihood.read_prompts(engine.model, sequences, counted, masks)
        samples: list[dict[str, Any]] = [
            {"id": id_, "prompt": prompt, **row} for (id_, prompt), row in zip(prompts.items(), rows, strict=True)
        ]
        scores = [score("nll", [sample["nll"] for sample in samples], [sample["tokens"] for sample in samples])]
        if not latin:
            scores.append(score("script_mass", [sample["script_mass"] for sample in samples]))
        return {"scores": scores, "samples": samples}

    def _task(self, cell: Cell, task: Task) -> dict[str, Any]:
        lm = harness.engine_lm(
            self.tokenizer,
            partial(self._score, cell),
            partial(self._generate, cell),
            partial(self._asked, cell),
            task.chat,
        )
        samples = self._runs[cell.name, cell.language].run(lm)
        scores = [score(name, [sample[name] for sample in samples]) for name in task.metrics]
        return {"scores": scores, "samples": samples}

    def _conversations(self, cell: Cell, benchmark: MtBench) -> dict[str, Any]:
        """Answer every turn of every question; stage `judge` rates the answers."""
        items = self._items(cell)
        messages: dict[str, list[dict[str, str]]] = {id_: [] for id_ in items}
        for turn in range(max(len(item["turns"]) for item in items.values())):
            asked = [id_ for id_, item in items.items() if turn < len(item["turns"])]
            for id_ in asked:
                messages[id_].append({"role": "user", "content": self._asked(cell, items[id_]["turns"][turn])})
            for category in dict.fromkeys(items[id_]["category"] for id_ in asked):
                here = [id_ for id_ in asked if items[id_]["category"] == category]
                prompts = [self.tokenizer.encode_rendered(self.tokenizer.conversation(messages[id_])) for id_ in here]
                decoding = benchmark.decoding(category)
                for id_, answer in zip(here, self._generate(cell, prompts, decoding), strict=True):
                    messages[id_].append({"role": "assistant", "content": answer.strip()})
        samples = []
        for id_, item in items.items():
            answers = [message["content"] for message in messages[id_] if message["role"] == "assistant"]
            kept = {key: item[key] for key in ("category", "turns", "reference")}
            samples.append({"id": id_, **kept, "answers": answers})
        return {"scores": [], "samples": samples}


def _is_instructed(benchmark: Benchmark) -> bool:
    """Whether what the user says is the benchmark's to change: not lm-eval's own text, nor held-out prompts."""
    return benchmark.chat if isinstance(benchmark, Task) else not isinstance(benchmark, Likelihood)


def _number(outcome: bool | None) -> int | None:
    return None if outcome is None else int(outcome)


def evaluate(evaluator: Evaluator, cells: list[Cell], code: str, cache: Path, output: Path) -> None:
    """Evaluate a checkpoint's cells, taking from the cache what is there.

    Args:
        evaluator: of the checkpoint.
        cells: what to compute.
        code: digest of the code that computes cells.
        cache: folder of cells computed so far, by digest.
        output: `scores.json`, which says for every cell which packages made it on which machine; samples are written to
            `samples/{benchmark}.{language}.jsonl` beside it.
    """
    identities = {cell.place: evaluator.identity(cell) for cell in cells}
    keys = {place: digest({"code": code, **identity}) for place, identity in identities.items()}
    paths = {place: cache / key[:2] / f"{key}.json" for place, key in keys.items()}
    missing = {cell.place for cell in cells if read_entry(paths[cell.place]) is None}
    evaluator.prepare([cell for cell in cells if cell.place in missing])
    rows = []
    with tqdm(cells, desc="cells", unit="cell") as progress:
        for cell in progress:
            progress.set_postfix_str(f"{cell.name} {cell.language}")
            key, path = keys[cell.place], paths[cell.place]
            if cell.place in missing:
                computed = evaluator.run(cell)
                made = {"identity": identities[cell.place], "made_with": versions(), "made_on": machine()}
                write_entry(path, made | computed)
            result = read_entry(path)
            write_jsonl(output.parent / "samples" / f"{cell.name}.{cell.language}.jsonl", result["samples"])
            place = {"benchmark": cell.name, "language": cell.language, "cell": key}
            place |= {name: result[name] for name in ("made_with", "made_on")}
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
