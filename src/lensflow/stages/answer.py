"""Answers of the checkpoints of one backbone (stage `answer`).

One job starts each engine once and answers all missing cells.

A cell is one benchmark in one language for one checkpoint. The answers of a cell are stored under the digest of
everything that they depend on: the requests as token ids, the tokens that end an answer, decoding, weights,
intervention, engine and code. The same requests to the same weights are therefore never answered twice, even under
another method name. A job that was killed keeps its finished cells.

An engine holds the untouched backbone. The changed weights of a checkpoint are swapped in from its delta, and then out
again.
"""

import functools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from lensflow.artifacts import interventions, layout
from lensflow.artifacts.checkpoint import TOKENIZER_FILES, verify
from lensflow.artifacts.interventions import Intervention, StateEdit
from lensflow.artifacts.weights import WeightFiles
from lensflow.benchmarks.base import Benchmark, Counted, Folders, Items, Row
from lensflow.benchmarks.registry import BENCHMARKS, AnyBenchmark, modules_of
from lensflow.errors import LensflowError
from lensflow.languages import LATIN, script_masks, scripts
from lensflow.models.engines import registry
from lensflow.models.engines.ends import eos_token_ids
from lensflow.models.engines.protocol import Answer, Engine
from lensflow.models.likelihood import drift
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.provenance.code import code_digest
from lensflow.provenance.records import recording
from lensflow.schema.backbone import PlainPrompt, Resources
from lensflow.schema.decoding import Decoding
from lensflow.schema.evaluation import Evaluation
from lensflow.schema.parsing import parse
from lensflow.schema.stages import Answering
from lensflow.storage.atomic import write_json
from lensflow.storage.cache import read_entry, write_entry
from lensflow.storage.digests import current_digest, digest
from lensflow.storage.environment import machine, versions
from lensflow.storage.integrity import checked


@dataclass(frozen=True)
class Cell:
    """One benchmark in one language."""

    name: str
    benchmark: Benchmark
    language: str

    @property
    def place(self) -> str:
        """The name of the cell in messages and progress lines."""
        return f"{self.name}, {self.language}"


class Session:
    """One backbone that answers for any of its checkpoints. An engine starts when the first cell needs it.

    Args:
        backbone: manifest of the backbone's checkpoint.
        config: prompt format, engine, precision.
        resources: GPUs and their memory.

    Raises:
        LensflowError: the backbone is damaged.
    """

    def __init__(self, backbone: Path, config: Answering, resources: Resources) -> None:
        self.manifest = verify(backbone)
        self.folder, self.evaluation, self.resources = backbone.parent, config.evaluation, resources
        self.tokenizer = PromptTokenizer(self.folder, config.prompt)
        self._files = WeightFiles(self.folder)
        self._engines: dict[str, Engine] = {}
        self._delta: dict[str, Path | None] = {}  # engine -> the delta that its weights have

    @functools.cache  # noqa: B019, one session lives as long as its stage
    def prompting(self, frame: str | None, shots: tuple[tuple[str, str], ...]) -> PromptTokenizer:
        """Return the tokenizer with another plain template and with examples; see `Intervention`."""
        prompt = self.tokenizer.prompt if frame is None else PlainPrompt(format="plain", template=frame)
        messages = [
            {"role": role, "content": text}
            for shot in shots
            for role, text in zip(("user", "assistant"), shot, strict=True)
        ]
        return PromptTokenizer(self.folder, prompt, messages)

    @functools.cached_property
    def ends(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        return sorted(eos_token_ids(self.folder, self.tokenizer))

    def engine(self, name: str, delta: Path | None) -> Engine:
        """Return an engine with the weights of a checkpoint.

        Args:
            name: name of the engine.
            delta: delta of the checkpoint; None for the untouched backbone.
        """
        if name not in self._engines:
            module = registry.module_of(name)
            self._engines[name] = module.start(self.folder, self.tokenizer, self.evaluation, self.resources)
            self._delta[name] = None
        engine = self._engines[name]
        if self._delta[name] != delta:
            engine.swap(self._weights(self._delta[name], delta))
            self._delta[name] = delta
        return engine

    def _weights(self, old: Path | None, new: Path | None) -> dict[str, Tensor]:
        """Return the tensors that turn one checkpoint into another, in the backbone's own precision, as an export has
        them."""
        trained = {} if new is None else load_file(checked(new))
        names = dict.fromkeys([*_names(old), *trained])
        tensors = {}
        for name in names:
            if name not in self._files.location:
                raise LensflowError(f"{new}: tensor '{name}' is not in {self.folder}; it belongs to another backbone")
            original = self._files.read(name)
            if name in trained and trained[name].shape != original.shape:
                raise LensflowError(f"{new}: tensor '{name}' has another shape than in {self.folder}; train again")
            tensors[name] = trained[name].to(original.dtype) if name in trained else original
        return tensors


def _names(delta: Path | None) -> list[str]:
    if delta is None:
        return []
    with safe_open(delta, framework="pt") as file:
        return sorted(file.keys())


@dataclass(frozen=True)
class Speaker:
    """One checkpoint that answers in one language; an `Asker` for benchmarks.

    Attributes:
        session: the backbone.
        delta: delta of the checkpoint; None for the untouched backbone.
        intervention: what the checkpoint does while it answers.
        language: wanted language of the answers.
        source: language of the prompts; None if it is the same.
    """

    session: Session
    delta: Path | None
    intervention: Intervention
    language: str
    source: str | None = None

    @property
    def tokenizer(self) -> PromptTokenizer:
        """The backbone's tokenizer."""
        return self.session.tokenizer

    @property
    def prompting(self) -> PromptTokenizer:
        """The tokenizer that renders prompts in the method's form."""
        frame, shots = self.intervention.frames.get(self.language), self.intervention.shots.get(self.language, ())
        if frame is None and not shots:
            return self.session.tokenizer
        return self.session.prompting(frame, tuple((question, answer) for question, answer in shots))

    def instruct(self, prompt: str) -> str:
        """Return the user's text."""
        return self.intervention.instruct(self.language, prompt)

    def generate(self, prompts: list[list[int]], decoding: Decoding) -> list[Answer]:
        """Continue prompts."""
        engine = self._engine(registry.generator)
        with engine.edited(self._edit):
            return engine.generate(prompts, decoding)

    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Score continuations."""
        engine = self._engine(registry.scorer)
        with engine.edited(self._edit):
            scored = engine.loglikelihoods(requests)
        self._check_numbers(value for value, _ in scored)
        return scored

    def read(self, sequences: list[list[int]], counted: list[list[bool]]) -> list[dict[str, float]]:
        """Score whole prompts."""
        latin = scripts(self.language) == LATIN
        masks = None if latin else script_masks(self.tokenizer.vocabulary, self.language)
        engine = self._engine(registry.reader)
        with engine.edited(self._edit):
            found = engine.read(sequences, counted, masks)
        self._check_numbers(value for row in found for value in row.values())
        return found

    def drift(self, plain: Counted, own: Counted) -> list[dict[str, float]]:
        """Compare the untouched backbone with the checkpoint, at the backbone's likeliest tokens."""
        name = registry.reader(self.session.evaluation.engine)
        before = self.session.engine(name, None).distributions(plain, None)
        engine = self._engine(registry.reader)
        with engine.edited(self._edit):
            after = engine.distributions(own, [found.tokens for found in before])
        return drift(before, after)

    def _check_numbers(self, values: Iterable[float]) -> None:
        """Refuse NaN: the likeliest of choices would be the first one."""
        if any(map(math.isnan, values)):
            raise LensflowError(
                f"{self.session.folder}: the model computes NaN in {self.session.evaluation.dtype}; set "
                "evaluation.dtype: float32, or give other weights"
            )

    @property
    def _edit(self) -> StateEdit | None:
        return self.intervention.edit(self.language, self.source)

    def _engine(self, role: Any) -> Engine:
        return self.session.engine(role(self.session.evaluation.engine), self.delta)


class Listener:
    """Records what a benchmark would ask and answers nothing; an `Asker` that needs no engine.

    Attributes:
        requests: all requests, as JSON values.
        engines: the engines that would answer.
    """

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self.requests: list[Any] = []
        self.engines: set[str] = set()
        self.tokenizer = speaker.tokenizer
        self.instruct, self.prompting = speaker.instruct, speaker.prompting

    def generate(self, prompts: list[list[int]], decoding: Decoding) -> list[Answer]:
        """Record prompts."""
        self._note(registry.generator, ["generate", prompts, decoding.model_dump(include=set(Decoding.model_fields))])
        return [Answer("", (), cut=False)] * len(prompts)

    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Record continuations."""
        self._note(registry.scorer, ["score", requests])
        return [(0.0, False)] * len(requests)

    def read(self, sequences: list[list[int]], counted: list[list[bool]]) -> list[dict[str, float]]:
        """Record prompts, and the language whose script is measured."""
        self._note(registry.reader, ["read", sequences, counted, self._speaker.language])
        return [{}] * len(sequences)

    def drift(self, plain: Counted, own: Counted) -> list[dict[str, float]]:
        """Record sequences."""
        self._note(registry.reader, ["drift", plain, own])
        return [{}] * len(own)

    def _note(self, role: Any, request: Any) -> None:
        self.requests.append(request)
        self.engines.add(role(self._speaker.session.evaluation.engine))


@dataclass(frozen=True)
class Asked:
    """A cell of a checkpoint, and everything that its key is made from.

    Attributes:
        cell: the benchmark and language.
        items: ids of the cell's items, in order.
        identity: everything that its answers depend on.
        key: the digest of `identity`.
    """

    cell: Cell
    items: tuple[str, ...]
    identity: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The digest under which the answers are stored."""
        return digest(self.identity)


def chosen(items: Items, evaluation: Evaluation) -> Items:
    """Return the first `limit` items, or those that Python's `random.sample` draws, in the order of the draw."""
    ids, sample = list(items), evaluation.sample
    if sample is not None and sample.n <= len(ids):
        ids = random.Random(sample.seed).sample(ids, sample.n)
    return {id_: items[id_] for id_ in ids[: evaluation.limit]}


class Answerer:
    """Answers the cells of one backbone's checkpoints; cached cells are not answered again.

    Args:
        session: the backbone.
        folders: the folders of the items.
        cache: folder of the answered cells, by digest.
    """

    def __init__(self, session: Session, folders: Folders, cache: Path) -> None:
        self.session, self.folders, self.cache = session, folders, cache
        self._items: dict[tuple[str, str, str], Items] = {}
        self._requests: dict[tuple[str, str, str], tuple[str, list[str]]] = {}

    def items(self, cell: Cell, split: str = "items") -> Items:
        """Return a cell's items, or the part that the configuration selects; the items are read once."""
        place = (cell.name, cell.language, split)
        if place not in self._items:
            found = cell.benchmark.items(self.folders, cell.name, cell.language, split)
            self._items[place] = chosen(found, self.session.evaluation) if split == "items" else found
        return self._items[place]

    def asked(self, cell: Cell, speaker: Speaker) -> Asked:
        """Work out the requests of a cell to a checkpoint, and the key of the cell; no engine starts."""
        prompt = speaker.prompting.render(speaker.instruct("\0"))  # checkpoints differ in their prompts alone
        place = (cell.name, cell.language, prompt)
        if place not in self._requests:
            listener = Listener(speaker)
            self._ask(cell, listener)
            self._requests[place] = digest(listener.requests), sorted(listener.engines)
        requests, used = self._requests[place]
        evaluation, files = self.session.evaluation, self.session.manifest["files"]
        code = code_digest(__name__, BENCHMARKS.path_of(cell.benchmark.kind), *map(registry.path_of, used))
        identity: dict[str, Any] = {
            "code": code,
            "weights": weights_of(self.session.manifest, speaker.delta),
            "requests": requests,
            "ends": self.session.ends,
            "config": files["config.json"]["sha256"],  # positions, windows and caps change answers, too
            # Some checkpoints name special tokens in the settings alone, and these are no part of an answer.
            "tokenizer": {name: files[name]["sha256"] for name in TOKENIZER_FILES if name in files},
            "engines": used,
            "dtype": evaluation.dtype,
            "attention": evaluation.attention,
            "lm_eval": version("lm_eval") if cell.benchmark.kind == "lm_eval" else None,
        }
        if edit := speaker.intervention.identity(cell.language, speaker.source):
            identity["intervention"] = edit
        return Asked(cell, tuple(self.items(cell)), identity)

    def answer(self, asked: Asked, speaker: Speaker) -> dict[str, Any]:
        """Return the cache entry of a cell; if there is none, the cell is answered."""
        path = layout.entry(self.cache, asked.key)
        entry: dict[str, Any] | None = read_entry(path)
        if entry is None:
            rows = self._ask(asked.cell, speaker)
            made = {"identity": asked.identity, "made_with": versions(), "made_on": machine()}
            entry = made | {"answers": rows}
            write_entry(path, entry)
        return entry

    def _ask(self, cell: Cell, asker: Any) -> list[Row]:
        items, fewshot = self.items(cell), self.items(cell, "fewshot")
        try:
            return cell.benchmark.ask(asker, items, fewshot, cell.language, self.folders.tasks)
        except LensflowError as error:
            raise LensflowError(f"{cell.place}: {error}") from error


def weights_of(manifest: Mapping[str, Any], delta: Path | None) -> str:
    """Return the digest of a checkpoint's weights. It is the backbone's digest if the delta changes nothing."""
    own: str = manifest["weights"]
    return own if not _names(delta) or delta is None else digest([own, current_digest(delta)])


def run(
    config: Answering,
    *,
    backbone: Path,
    runs: Sequence[Path],
    corpora: Path,
    items: Path,
    tasks: Sequence[Path],
    cache: Path,
    gpus: int,
    gpu_memory: float,
) -> None:
    """Answer all cells of some checkpoints of a backbone; cached cells are not answered again.

    Args:
        config: prompt, engine, cells, and the cells of each run.
        backbone: manifest of the backbone's checkpoint.
        runs: folders of the checkpoints. Each contains `delta.safetensors` and `intervention.safetensors`, except for
            base's. `answers.json` is written there.
        corpora: output folder of `pair_data`.
        items: output folder of `fetch_items`.
        tasks: folders in which the user's own task files are searched.
        cache: folder of the answered cells.
        gpus: number of GPUs for the engines.
        gpu_memory: share of a GPU's memory for vLLM.

    Raises:
        LensflowError: a file is damaged, an item does not fit its benchmark, or an engine does not start.
    """
    for name in {registry.generator(config.evaluation.engine), registry.scorer(config.evaluation.engine)}:
        registry.check(name)
    session = Session(backbone, config, Resources(gpus=gpus, gpu_memory=gpu_memory))
    answerer = Answerer(session, Folders(corpora, items, tuple(tasks)), cache)
    kinds = [parse(AnyBenchmark, entry.benchmark, "--config cells") for entry in config.cells]
    with tqdm(runs, desc="checkpoints", unit="checkpoint", disable=len(runs) < 2) as progress:
        for folder in progress:
            progress.set_postfix_str(layout.place_of(folder / layout.ANSWERS).method)
            wanted = config.checkpoints[layout.folder_of(folder)]
            cells = [
                Cell(config.cells[index].name, kinds[index], language)
                for index in wanted
                for language in config.cells[index].languages
            ]
            _answer_checkpoint(answerer, config, cells, backbone, folder)


def _answer_checkpoint(answerer: Answerer, config: Answering, cells: list[Cell], backbone: Path, folder: Path) -> None:
    """Answer the cells of one checkpoint and write its `answers.json`, with its own record."""
    session, output = answerer.session, folder / layout.ANSWERS
    is_base = layout.place_of(output).is_base
    delta = None if is_base else folder / layout.DELTA
    applied = folder / layout.INTERVENTION
    texts = [
        *(
            answerer.folders.corpora / corpus / f"{language}.jsonl"
            for c in cells
            for corpus in c.benchmark.corpora
            for language in c.benchmark.reads(c.language)
        ),
        *(answerer.folders.items / c.name / f"{c.language}.jsonl" for c in cells if not c.benchmark.corpora),
    ]
    own = config.of(layout.folder_of(folder))
    given = {"backbone": backbone, "texts": list(dict.fromkeys(texts)), "output": output}
    given |= {} if is_base else {"delta": delta, "intervention": applied}
    modules = modules_of((cell.benchmark.kind for cell in cells), config.evaluation.engine)
    with recording("answer", code_digest(__name__, *modules), own, given):
        intervention = Intervention() if is_base else interventions.load(applied)
        if intervention.width not in (None, session.manifest["hidden_size"]):
            raise LensflowError(
                f"{applied}: changes states of {intervention.width} dimensions, {backbone} has states of "
                f"{session.manifest['hidden_size']}; it belongs to another backbone"
            )
        if intervention.depth > (depth := session.manifest["layers"]):
            raise LensflowError(
                f"{applied}: changes block {intervention.depth - 1}, {backbone} has {depth} blocks; "
                "it belongs to another backbone"
            )
        asked = []
        for cell in cells:
            speaker = Speaker(session, delta, intervention, cell.language, cell.benchmark.prompted_in(cell.language))
            asked.append((answerer.asked(cell, speaker), speaker))
        rows = []
        with tqdm(asked, desc="cells", unit="cell") as progress:
            for one, speaker in progress:
                progress.set_postfix_str(one.cell.place)
                entry = answerer.answer(one, speaker)
                row = {"benchmark": one.cell.name, "language": one.cell.language, "cell": one.key}
                rows.append(row | {"ids": list(one.items)} | {key: entry[key] for key in ("made_with", "made_on")})
        content = {"weights": weights_of(session.manifest, delta), "cells": rows}
        write_json(output, content | {key: getattr(config.evaluation, key) for key in ("engine", "dtype")})
