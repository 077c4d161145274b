"""Verdicts of a judge on answers (stage `judge`).

`lensflow.measures.grading` writes the requests and reads the verdicts.

Every turn of every question gets its own verdict. A verdict is saved as soon as it arrives, under the digest of its
request. If the stage is killed or the endpoint fails, the next run asks only for the missing verdicts.
"""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from pydantic import BaseModel, Field, ValidationError
from tqdm import tqdm

from lensflow.artifacts.layout import SAMPLES
from lensflow.artifacts.layout import entry as entry_path
from lensflow.benchmarks.registry import AnyBenchmark
from lensflow.errors import LensflowError
from lensflow.measures.grading import PROTOCOLS, Protocol
from lensflow.schema.judge import Judge
from lensflow.schema.parsing import parse
from lensflow.schema.stages import Judging
from lensflow.storage.atomic import write_json, write_jsonl
from lensflow.storage.cache import read_entry, write_entry
from lensflow.storage.digests import digest
from lensflow.storage.verified import read_json, read_jsonl


@dataclass(frozen=True)
class Answers:
    """The answers to one benchmark in one language.

    Attributes:
        name: name of the benchmark.
        judge: the judge.
        language: language of the answers.
        samples: one dictionary per question: `id`, `category`, `turns` (one or two), `answers`, `reference` (one per
            turn; blank or missing if there is none).
        protocol: the grading protocol.
    """

    name: str
    judge: Judge
    language: str
    samples: Sequence[Mapping[str, Any]]
    protocol: Protocol = PROTOCOLS["quality"]

    @property
    def turns(self) -> list[tuple[Mapping[str, Any], int]]:
        """Each question's sample with the number of each of its turns, from 1. Each pair needs one verdict."""
        return [(sample, turn) for sample in self.samples for turn in range(1, len(sample["turns"]) + 1)]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The requests to the judge in the order of `turns`: everything that a verdict depends on.

        The address of the endpoint is not part of a request. Your own server may have another address in every job, and
        its verdicts must stay valid. The name of the model must therefore identify the model.
        """
        asked = {"model": self.judge.model, "temperature": self.judge.temperature, "max_tokens": self.judge.max_tokens}
        more = {"extra_body": dict(self.judge.extra)} if self.judge.extra else {}
        return [{**asked, **more, "messages": self.protocol.messages(*turn)} for turn in self.turns]


class _Message(BaseModel):
    content: str | None = None  # null: the judge refused, or spent all of its tokens on thinking


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    """The fields of a chat completion that are read."""

    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    usage: dict[str, Any] | None = None


def read_answers(name: str, judge: Judge, language: str, path: Path, protocol: str = "quality") -> Answers:
    """Read the samples of stage `score`. A sample with a `prompt` and an `answer` is a question of one turn.

    Raises:
        LensflowError: the file is missing, or a question does not have one or two turns of text, an answer to each
            turn, and a list of reference answers.
    """
    samples = [
        {"turns": [sample["prompt"]], "answers": [sample["answer"]], "reference": []} | sample
        if "answer" in sample
        else sample
        for sample in read_jsonl(path)
    ]
    for sample in samples:
        where = f"benchmarks.{name} ({language}), question '{sample['id']}'"
        for key in ("turns", "answers", "reference"):
            if not isinstance(sample[key], list) or not all(isinstance(text, str) for text in sample[key]):
                raise LensflowError(f"{where}: {key} must be a list of texts; correct the data set")
        if not 1 <= len(sample["turns"]) <= 2:
            raise LensflowError(f"{where}: {len(sample['turns'])} turns; a judge is asked about one or two")
        if len(sample["answers"]) != len(sample["turns"]):
            raise LensflowError(f"{where}: not one answer per turn; delete {path} and run again")
    return Answers(name, judge, language, samples, PROTOCOLS[protocol])


class Endpoint:
    """A judge that several threads can ask at the same time.

    Args:
        judge: address, key and limits. The key is read from the environment and is used only in the requests.

    Raises:
        LensflowError: the key cannot be sent.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._key = os.environ.get(judge.key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise LensflowError(
                f"environment variable {judge.key_variable} is not a valid key: it has characters beyond ASCII; set "
                f"it again"
            )
        self._pace = threading.Lock()
        self._next = 0.0
        # Without a key none is sent, not even the one that the client would look for by itself.
        self._headers = {} if self._key else {"Authorization": openai.omit}
        self._client = openai.OpenAI(
            base_url=judge.base_url,
            api_key=self._key or "none",
            timeout=judge.timeout,
            max_retries=judge.retries,
            # A hook sees the client's retries, too: they count against a limit like any request.
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._wait]}),
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for one verdict; the client waits and tries again after refusals that may pass.

        Args:
            request: `model`, `messages`, `temperature`, `max_tokens`, and optionally `extra_body` with more keys.

        Returns:
            The `text` of the verdict (empty if the judge wrote nothing), `finish_reason`, and the `model` and token
            `usage`
            if the endpoint names them.

        Raises:
            LensflowError: the endpoint gives no verdict; the message says why, and what to do.
        """
        try:
            reply = self._client.chat.completions.with_raw_response.create(**request, extra_headers=self._headers).text
        except openai.APIError as error:
            raise LensflowError(self._reason(error)) from None
        try:
            completion = _Completion.model_validate_json(reply)
        except ValidationError:
            raise LensflowError(
                f"{self._judge.base_url} does not answer with a chat completion "
                f"({self._one_line(reply) or 'nothing'}); correct judge.base_url or the server"
            ) from None
        choice = completion.choices[0]
        return {
            "text": choice.message.content or "",
            "finish_reason": choice.finish_reason,
            "model": completion.model,
            "usage": completion.usage,
        }

    def _wait(self, _: object) -> None:
        """Wait until the next request may start; requests are spread evenly over the minute."""
        if self._judge.requests_per_minute is None:
            return
        with self._pace:
            start = max(time.monotonic(), self._next)
            self._next = start + 60 / self._judge.requests_per_minute
        time.sleep(max(0.0, start - time.monotonic()))

    def _reason(self, error: openai.APIError) -> str:
        judge, url = self._judge, self._judge.base_url
        tries = "once" if judge.retries == 0 else f"{judge.retries + 1} times"
        if isinstance(error, openai.APITimeoutError):
            advice = "raise judge.timeout or lower judge.parallel"
            return f"{url} gave no answer in {judge.timeout:g} s, tried {tries}; {advice}"
        if isinstance(error, openai.APIConnectionError):
            cause = self._one_line(str(error.__cause__ or error))
            return f"{url} cannot be reached, tried {tries} ({cause}); start the server or mend judge.base_url"
        assert isinstance(error, openai.APIStatusError)
        status = error.status_code
        if status in (401, 403):  # what the server says may hold the key, or a part of it
            if self._key:
                return f"{url} refuses the key in environment variable {judge.key_variable} ({status}); set a valid one"
            return f"{url} wants a key ({status}); set environment variable {judge.key_variable}"
        body = error.body
        said = self._one_line(str(body.get("message", body) if isinstance(body, dict) else body or "no message"))
        if status == 404:
            return f"{url} does not know model '{judge.model}' ({said}); mend judge.model or judge.base_url"
        if status == 429:
            return f"{url} takes no more requests, tried {tries} ({said}); lower judge.requests_per_minute or wait"
        return f"{url} refuses a request with status {status} ({said})"

    def _one_line(self, text: str) -> str:
        """Shorten a text from the endpoint, and remove the key if the text contains it."""
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:200]


def judge(cells: Sequence[Answers], scores: Path, cache: Path, output: Path) -> None:
    """Have the judge rate answers; cached verdicts are not asked for again.

    Args:
        cells: the answers.
        scores: `scores.json` of the checkpoint that answered.
        cache: folder of the verdicts so far, by digest of the request.
        output: `judged.json`, in the form of `scores.json`, with the scores of each cell's protocol. The requests and
            verdicts are written to `verdicts/{benchmark}.{language}.jsonl` beside it.

    Raises:
        LensflowError: an endpoint gives no verdicts; the message names the benchmark and the reason. Verdicts that
            arrived are kept.
    """
    evaluated = read_json(scores)
    for cell in cells:
        _ask_missing(cell, cache)
    rows = []
    for cell in cells:
        keys = [digest(request) for request in cell.requests]
        verdicts = [_row(cell, *turn, key, cache) for turn, key in zip(cell.turns, keys, strict=True)]
        write_jsonl(output.parent / "verdicts" / f"{cell.name}.{cell.language}.jsonl", verdicts)
        ratings = [verdict["rating"] for verdict in verdicts]
        rows.append(
            {
                "benchmark": cell.name,
                "language": cell.language,
                "cell": digest(keys),
                "ids": [verdict["id"] for verdict in verdicts],
                "scores": cell.protocol.scores([sample for sample, _ in cell.turns], ratings),
            }
        )
    write_json(output, {**{key: evaluated[key] for key in ("weights", "engine", "dtype")}, "cells": rows})


def _ask_missing(cell: Answers, cache: Path) -> None:
    """Fill the cache. Each thread saves a verdict to disk before it sends its next request."""
    wanted = {digest(request): request for request in cell.requests}
    missing = {key: request for key, request in wanted.items() if read_entry(entry_path(cache, key)) is None}
    where = f"benchmarks.{cell.name}.judge"
    if not missing:
        return
    try:
        endpoint = Endpoint(cell.judge)

        stopped = threading.Event()

        def ask(key: str) -> None:
            if stopped.is_set():
                return
            try:
                verdict = endpoint.ask(missing[key])
                kept = {"request": missing[key], "base_url": cell.judge.base_url, "verdict": verdict}
                write_entry(entry_path(cache, key), kept)
            except LensflowError:
                stopped.set()  # here already, before this thread takes its next request
                raise

        done = len(wanted) - len(missing)
        with (
            tqdm(total=len(wanted), initial=done, desc=f"{cell.name} {cell.language}", unit="verdict") as progress,
            ThreadPoolExecutor(cell.judge.parallel) as pool,
        ):
            asked = [pool.submit(ask, key) for key in missing]
            try:
                for future in as_completed(asked):
                    future.result()
                    progress.update()
            except BaseException:
                stopped.set()  # what has been asked already is waited for, and kept
                raise
    except LensflowError as error:
        kept = sum(entry_path(cache, key).is_file() for key in wanted)
        raise LensflowError(f"{where}: {error}; {kept} of {len(wanted)} verdicts ({cell.language}) are kept") from None


def _row(cell: Answers, sample: Mapping[str, Any], turn: int, key: str, cache: Path) -> dict[str, Any]:
    """One line for readers: question, answer, verdict."""
    verdict = read_entry(entry_path(cache, key))["verdict"]
    return {
        "id": f"{sample['id']}.{turn}",
        "category": sample.get("category"),
        "turn": turn,
        "question": sample["turns"][turn - 1],
        "answer": sample["answers"][turn - 1],
        "verdict": verdict["text"],
        "finish_reason": verdict["finish_reason"],
        "rating": cell.protocol.rating(verdict["text"]),
        "judge": cell.judge.model,
        "model": verdict["model"],
        "request": key,
    }


def run(config: Judging, *, scores: Path, cache: Path, output: Path) -> None:
    """Have a judge rate answers; after a killed run, continue with the missing verdicts."""
    cells = []
    for entry in config.benchmarks:
        benchmark = parse(AnyBenchmark, entry.benchmark, "--config benchmarks")
        for language in entry.languages:
            samples = scores.parent / SAMPLES / f"{entry.name}.{language}.jsonl"
            cells.append(read_answers(entry.name, benchmark.judge, language, samples, benchmark.judged))
    judge(cells, scores, cache, output)
