"""CLaS-Bench: language forcing and judged relevance, and their harmonic mean with its interval and tests."""

import json
import random
from pathlib import Path
from statistics import harmonic_mean

import numpy as np
import pytest

from lensflow.artifacts import layout
from lensflow.artifacts.interventions import Intervention
from lensflow.benchmarks.clas_bench import ClasBench
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.mathematics.statistics import harmonic_items
from lensflow.measures import grading
from lensflow.schema.judge import Judge
from lensflow.schema.parsing import parse
from lensflow.stages.fetch_items import fetch
from lensflow.storage.cache import write_entry
from lensflow.storage.verified import read_json, read_jsonl
from lensflow.workflow.experiment import read
from tests.judge_server import completion
from tests.unit.test_answer import Here

ROOT = Path(__file__).parents[2]
CLAS = read([], ROOT).benchmarks["clas-bench"]
ANSWERS = ["山上的空气上升得快，变冷后就成了雨。", "With flour, and with water and salt and time.", "42"]
QUESTIONS = ["Why does it rain?", "How is bread made?", "What does a bridge carry?"]

# --- The mean and its interval ------------------------------------------------------------------------------------


def draw(seed: int, n: int, a: float = 0.7, b: float = 0.6) -> tuple[list[float], list[float]]:
    numbers = random.Random(seed)
    forced = [float(numbers.random() < a) for _ in range(n)]
    return forced, [numbers.choice([0.0, 0.5, 1.0]) if numbers.random() < 0.8 else b for _ in range(n)]


def test_the_mean_of_the_items_is_the_harmonic_mean():
    for seed in range(20):
        forced, relevance = draw(seed, 30)
        known = [None if index % 7 == seed % 7 else value for index, value in enumerate(relevance)]
        for second in (relevance, known):
            expected = harmonic_mean([np.mean(forced), np.mean([value for value in second if value is not None])])
            assert np.mean(harmonic_items(forced, second)) == pytest.approx(expected, rel=1e-12)


def test_the_items_spread_like_the_harmonic_mean_of_resamples():
    forced, relevance = map(np.array, draw(3, 400))
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 400, (4000, 400))
    a, b = forced[rows].mean(axis=1), relevance[rows].mean(axis=1)
    items = np.array(harmonic_items(forced.tolist(), relevance.tolist()))
    assert items.std(ddof=1) / 20 == pytest.approx((2 * a * b / (a + b)).std(), rel=0.05)


@pytest.mark.parametrize(
    ("forced", "relevance", "expected"),
    [
        ([0.0, 0.0], [1.0, 0.5], [0.0, 0.0]),
        ([1.0, 0.0], [0.0, 0.0], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, None], [0.0, 0.0]),
        ([1.0, 1.0], [1.0, 1.0], [1.0, 1.0]),
        ([1.0, 0.0], [None, None], [None, None]),
    ],
)
def test_at_the_ends(forced, relevance, expected):
    assert harmonic_items(forced, relevance) == pytest.approx(expected)


# --- What is asked and read -----------------------------------------------------------------------------------------


def test_the_judge_reads_the_question_and_the_answer_alone():
    sample = {"turns": ["Why {answer}?"], "answers": ["Because {question}."], "faithful": True}
    (message,) = grading.relevance_messages(sample, 1)
    assert message["role"] == "user"
    assert "[Question]\nWhy {answer}?\n[End" in message["content"]
    assert "[Answer]\nBecause {question}.\n[End" in message["content"]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [("[[2]]", 2), ("[[0]]", 0), ("Fine: [[1]].", 1), ("[[3]]", None), ("[[1.5]]", None), ("2", None), ("", None)],
)
def test_a_rating_is_read_and_never_guessed(verdict, expected):
    assert grading.relevance_rating(verdict) == expected


def scored(faithful: list, ratings: list) -> dict[str, dict]:
    samples = [{"faithful": value} if value != "unknown" else {} for value in faithful]
    return {score["metric"]: score for score in grading.steering(samples, ratings)}


def test_the_scores_by_hand():
    """Right-language gibberish, sense in the wrong language, both right, and an answer that says nothing."""
    found = scored([True, False, True, None], [0.0, 2.0, 2.0, None])
    assert found["language_forcing"]["items"] == [True, False, True, False]
    assert found["relevance"]["items"] == [0, 1, 1, None]
    assert found["relevant_in_language"]["items"] == [False, False, True, False]
    assert found["unparsed"]["value"] == 0.25
    assert found["steering"]["value"] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert found["steering"]["n"] == 4
    assert scored([True], [None])["relevant_in_language"]["items"] == [None]


def test_where_the_detector_does_not_read_the_language():
    assert set(scored(["unknown"], [2.0])) == {"relevance", "unparsed"}


# --- From the questions to judged.json ------------------------------------------------------------------------------


def test_a_checkpoint_is_asked_scored_and_judged(checkpoint, tmp_path, serve):
    here = Here(tmp_path, checkpoint("llama"))
    questions = tmp_path / "hub" / "clas-bench" / "data" / "en.txt"
    questions.parent.mkdir(parents=True)
    questions.write_text("\n".join(QUESTIONS) + "\n", encoding="utf-8")
    entry = CLAS.languages["zh"]
    path = tmp_path / "benchmarks" / "clas" / "zh.jsonl"
    fetch("clas", CLAS.dataset, "zh", entry, tmp_path / "hub", path, CLAS.texts())
    content = CLAS.canonical() | {"max_new_tokens": 4, "languages": {"zh": entry.canonical()}}
    cells = [{"name": "clas", "benchmark": content, "languages": ["zh"]}]
    here.cells = lambda benchmarks=None: cells
    here.checkpoint("told", 0, Intervention(instructions={"zh": "用中文。"}))
    assert here.answer("told") == 0
    key = here.keys("told")["clas", "zh"]
    answered = here.entry(key)
    for row, answer in zip(answered["answers"], ANSWERS, strict=True):
        row["answer"] = answer
    write_entry(layout.entry(tmp_path / "cells", key), answered)
    assert here.score("told") == 0
    run = here.run("told")
    samples = read_jsonl(run / "samples" / "clas.zh.jsonl")
    assert [sample["prompt"] for sample in samples] == QUESTIONS
    assert [sample["faithful"] for sample in samples] == [True, False, None]

    server = serve(lambda number, body: completion("[[1]]" if "bread" in body["messages"][0]["content"] else "[[2]]"))
    judge = content["judge"] | {"base_url": server.url}
    stage = {"benchmarks": [{"name": "clas", "benchmark": content | {"judge": judge}, "languages": ["zh"]}]}
    given = {"--scores": run / layout.SCORES, "--cache": tmp_path / "verdicts", "--output": run / "judged.json"}
    assert main.main(["judge", "--config", json.dumps(stage), *(str(x) for pair in given.items() for x in pair)]) == 0

    # The method's words are not the question's.
    assert all("用中文" not in str(body["messages"]) for body in server.requests)
    assert [body["top_k"] for body in server.requests] == [20] * 3
    assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False}
    (cell,) = read_json(run / "judged.json")["cells"]
    found = {score["metric"]: score["value"] for score in cell["scores"]}
    assert found["language_forcing"] == pytest.approx(1 / 3) and found["relevance"] == pytest.approx(5 / 6)
    assert found["steering"] == pytest.approx(harmonic_mean([1 / 3, 5 / 6]))
    assert found["relevant_in_language"] == pytest.approx(1 / 3)
    rows = read_jsonl(run / "verdicts" / "clas.zh.jsonl")
    assert [(row["question"], row["rating"]) for row in rows] == list(zip(QUESTIONS, (2, 1, 2), strict=True))


def test_answers_do_not_depend_on_the_judge():
    other = CLAS.model_copy(update={"judge": Judge(model="another")})
    assert other.narrowed(["zh"]) == CLAS.narrowed(["zh"]) != CLAS.narrowed(["de"])


def test_what_is_refused():
    with pytest.raises(LensflowError, match=r"judge\.extra: .*messages is not one of the keys that can be added"):
        parse(ClasBench, CLAS.canonical() | {"judge": {"model": "m", "extra": {"messages": []}}})
