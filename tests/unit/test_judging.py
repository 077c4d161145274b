"""Verdicts: what is asked, what is read from the answer, what is kept, and what a bad endpoint leads to."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensflow.benchmarks.registry import AnyBenchmark
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.measures import grading
from lensflow.schema.judge import Judge
from lensflow.schema.parsing import parse
from lensflow.stages import collect_scores
from lensflow.stages import judge as judge_module
from lensflow.storage.atomic import write_json, write_jsonl
from lensflow.storage.cache import read_entry
from lensflow.storage.digests import digest
from lensflow.storage.verified import read_json, read_jsonl
from tests.judge_server import Handler, Reply, Server, completion, refusal

KEY = "sk-planted-0123456789"
SAMPLES = [
    {
        "id": "81",
        "category": "writing",
        "turns": ["Write a {answer}.", "Again, {question_1}?"],
        "reference": [],
        "answers": ["An answer {question}.", ""],
    },
    {
        "id": "111",
        "category": "math",
        "turns": ["1 + 1?", "And 2 + 2?"],
        "reference": ["2", "4"],
        "answers": ["two", "five"],
    },
    {"id": "103", "category": "reasoning", "turns": ["Why?", "How?"], "reference": ["So.", ""], "answers": ["a", "b"]},
]
VERDICTS = 6


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an evaluated checkpoint."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    folder = tmp_path / "results" / "tiny" / "none" / "base" / "seed0"
    write_json(folder / "scores.json", {"weights": "w", "engine": "hf", "dtype": "float32", "cells": []})
    write_jsonl(folder / "samples" / "mt-bench.en.jsonl", SAMPLES)
    return folder


def stage_config(url: str, **keys: object) -> str:
    benchmark = {
        "kind": "mt_bench",
        "dataset": {"path": "lmsys/mt_bench", "columns": ["turns"]},
        "languages": {"en": "en"},
        "judge": {"model": "judge", "base_url": url, "retries": 1, "timeout": 60.0} | keys,
    }
    return json.dumps({"benchmarks": [{"name": "mt-bench", "benchmark": benchmark, "languages": ["en"]}]})


def arguments(run: Path, url: str, **keys: object) -> list[str]:
    paths = {"--scores": run / "scores.json", "--cache": run.parents[3] / "verdicts", "--output": run / "judged.json"}
    return ["judge", "--config", stage_config(url, **keys), *(str(x) for pair in paths.items() for x in pair)]


def judge(run: Path, server: Server, **keys: object) -> dict[str, Any]:
    assert main.main(arguments(run, server.url, **keys)) == 0
    return read_json(run / "judged.json")


def kept(run: Path) -> list[dict[str, Any]]:
    return [read_entry(path) for path in (run.parents[3] / "verdicts").glob("*/*.json")]


def good(number: int, _: dict[str, Any]) -> Reply:
    return completion(f"Fine. Rating: [[{number}]]")


# What is asked


def test_the_prompts_are_the_authors():
    """The digest covers the four entries "single..." of their judge_prompts.jsonl."""
    expected = "e1b7f8990803d52f0edacf5de7a36e536c479ea834127387f470fbafb7e16b1a"
    assert digest(grading.prompts()) == expected


def test_the_slots_are_filled_once_and_with_the_right_texts():
    draw = random.Random(0)
    for _ in range(50):
        texts = ["".join(draw.choices(["{answer}", "{question_2}", "{", "}", "é", "\n", "x"], k=6)) for _ in range(6)]
        sample = {"turns": texts[:2], "answers": texts[2:4], "reference": ["r" + text for text in texts[4:]]}
        for referenced in (True, False):
            for turn in (1, 2):
                name = ("single-math-v1" if referenced else "single-v1") + ("-multi-turn" if turn == 2 else "")
                slots = {"question": texts[0], "answer": texts[2]}
                for number in (1, 2):
                    slots[f"question_{number}"] = texts[number - 1]
                    slots[f"answer_{number}"] = texts[number + 1]
                    slots[f"ref_answer_{number}"] = "r" + texts[number + 3]
                # Piece by piece: what stands between braces in the prompt itself is a slot.
                pieces = grading.prompts()[name]["user"].replace("}", "{").split("{")
                expected = "".join(slots[piece] if place % 2 else piece for place, piece in enumerate(pieces))
                system, user = grading.messages(sample if referenced else sample | {"reference": []}, turn)
                assert system == {"role": "system", "content": grading.prompts()[name]["system"]}
                assert user == {"role": "user", "content": expected}


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ([], (False, False)),
        (["", " \n"], (False, False)),
        (["2", "4"], (True, True)),
        (["2"], (True, False)),
        (["2", ""], (True, False)),
        (["", "4"], (False, True)),
    ],
)
def test_a_turn_is_judged_by_its_reference_exactly_if_it_has_one(reference, shown):
    sample = SAMPLES[1] | {"reference": reference}
    for turn, expected in enumerate(shown, start=1):
        assert ("eference" in grading.messages(sample, turn)[1]["content"]) == expected


# What is read


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("[[8.5]] and [[2]]", 8.5),
        ("[3] at first, then [[4]]", 4.0),
        ("Rating: [6]", 6.0),
        ("[[1]]", 1.0),
        ("[[10]]", 10.0),
        ("[[05.]]", 5.0),
        ("[[0]]", None),
        ("[[0.9]]", None),
        ("[[11]] but also [[5]]", None),
        ("[[rating]]", None),
        ("[[-3]]", None),
        ("[[7/10]]", None),
        ("Rating: 7", None),
        ("", None),
    ],
)
def test_a_rating_is_read_and_never_guessed(verdict, expected):
    assert grading.rating(verdict) == expected


def test_every_number_from_1_to_10_is_read_and_no_other():
    for tenth in range(0, 1200):
        value = tenth / 10
        assert grading.rating(f"x [[{value}]] y") == (value if 1 <= value <= 10 else None)


# What is written


def test_what_a_judged_checkpoint_holds(serve, run):
    texts = {"1 + 1?": "Rating: [[2]]", "So.": "[[11]]", "four": "", "2 + 2?": None}

    def behaviour(_: int, body: dict[str, Any]) -> Reply:
        content = body["messages"][1]["content"]
        return completion(next((text for part, text in texts.items() if part in content), "Well. [[8]]"))

    server = serve(behaviour)
    judged = judge(run, server)
    assert {key: judged[key] for key in ("weights", "engine", "dtype")} == {
        "weights": "w",
        "engine": "hf",
        "dtype": "float32",
    }
    (cell,) = judged["cells"]
    assert (cell["benchmark"], cell["language"]) == ("mt-bench", "en")
    assert cell["ids"] == ["81.1", "81.2", "111.1", "111.2", "103.1", "103.2"]
    rating, unparsed = cell["scores"]
    assert rating["metric"] == "rating"
    assert rating["items"] == [8, 8, 2, 2, None, 8]
    assert rating["n"] == 5
    assert rating["value"] == pytest.approx(28 / 5)
    assert rating["low"] < rating["value"] < rating["high"]
    assert unparsed["items"] == [0, 0, 0, 0, 1, 0]
    assert (unparsed["metric"], unparsed["n"], unparsed["value"]) == ("unparsed", 6, pytest.approx(1 / 6))

    rows = read_jsonl(run / "verdicts" / "mt-bench.en.jsonl")
    assert [row["id"] for row in rows] == cell["ids"]
    assert rows[2] == {
        "id": "111.1",
        "category": "math",
        "turn": 1,
        "question": "1 + 1?",
        "answer": "two",
        "verdict": "Rating: [[2]]",
        "finish_reason": "stop",
        "rating": 2,
        "judge": "judge",
        "model": "judge-v1",
        "request": digest({"model": "judge", "temperature": 0.0, "max_tokens": 2048, **asked(SAMPLES[1], 1)}),
    }
    sent = [{key: body[key] for key in ("model", "temperature", "max_tokens", "messages")} for body in server.requests]
    assert sorted(map(digest, sent)) == sorted(row["request"] for row in rows)
    assert all(body == sent[place] for place, body in enumerate(server.requests))  # and nothing else


def asked(sample: dict[str, Any], turn: int) -> dict[str, Any]:
    return {"messages": grading.messages(sample, turn)}


def test_a_verdict_that_says_nothing_is_counted(serve, run):
    server = serve(lambda number, _: completion(None if number % 2 else "no rating", usage={"total_tokens": 3}))
    rating, unparsed = judge(run, server, parallel=1)["cells"][0]["scores"]
    assert (rating["n"], rating["value"], rating["low"]) == (0, None, None)
    assert (unparsed["n"], unparsed["value"]) == (6, 1.0)
    assert sorted(file["verdict"]["text"] for file in kept(run)) == [""] * 3 + ["no rating"] * 3


def test_the_table_of_scores_takes_the_ratings_in(serve, run, tmp_path):
    judge(run, serve(good))
    config = {"blocks": [], "settings": {}, "sweeps": [], "swept": [], "retention_margins": {}, "versus": None}
    collect_scores.collect(config, [run / "scores.json", run / "judged.json"], tmp_path / "scores.csv")
    frame = pd.read_csv(tmp_path / "scores.csv")
    assert frame["metric"].tolist() == ["rating", "unparsed"]
    assert set(frame["backbone"]) == {"tiny"}


# What is asked again


def test_nothing_is_asked_twice(serve, run):
    server = serve(good)
    first = judge(run, server)
    verdicts = (run / "verdicts" / "mt-bench.en.jsonl").read_bytes()
    assert len(server.requests) == VERDICTS
    server.shutdown()
    server.server_close()
    (run / "judged.json").unlink()
    assert judge(run, server) == first
    # Another address, key or limit is no other judge.
    elsewhere = serve(good)
    assert judge(run, elsewhere, parallel=1, timeout=1.0, key_variable="OTHER", requests_per_minute=1) == first
    assert elsewhere.requests == []
    assert (run / "verdicts" / "mt-bench.en.jsonl").read_bytes() == verdicts


@pytest.mark.parametrize(
    "keys", [{"model": "another"}, {"temperature": 0.5}, {"max_tokens": 7}, {"extra": {"top_p": 0.8}}]
)
def test_another_judge_is_asked_for_everything(serve, run, keys):
    server = serve(good)
    cell = judge(run, server)["cells"][0]["cell"]
    assert judge(run, server, **keys)["cells"][0]["cell"] != cell
    assert len(server.requests) == 2 * VERDICTS


def test_another_answer_costs_what_depends_on_it(serve, run):
    server = serve(good)
    cell = judge(run, server)["cells"][0]["cell"]
    changed = [SAMPLES[0] | {"answers": ["An answer {question}.", "another"]}, *SAMPLES[1:]]
    write_jsonl(run / "samples" / "mt-bench.en.jsonl", changed)
    assert judge(run, server)["cells"][0]["cell"] != cell
    assert len(server.requests) == VERDICTS + 1


def test_the_same_question_is_asked_once(serve, run):
    write_jsonl(run / "samples" / "mt-bench.en.jsonl", [*SAMPLES, SAMPLES[0] | {"id": "82"}])
    server = serve(good)
    (cell,) = judge(run, server)["cells"]
    items = dict(zip(cell["ids"], cell["scores"][0]["items"], strict=True))
    assert len(server.requests) == VERDICTS
    assert (items["81.1"], items["81.2"]) == (items["82.1"], items["82.2"])


def test_a_damaged_verdict_is_named_and_asked_for_again(serve, run, caplog):
    server = serve(lambda *_: completion("Fine. Rating: [[3]]"))
    first = judge(run, server)
    flipped, cut, whole, *_ = sorted((run.parents[3] / "verdicts").glob("*/*.json"))
    flipped.write_text(flipped.read_text().replace("[[3]]", "[[9]]"))
    cut.write_bytes(cut.read_bytes()[:-20])
    assert judge(run, server) == first
    assert len(server.requests) == VERDICTS + 2
    for path in (flipped, cut):
        assert f"{path}: damaged (truncated or changed); it was set aside and is made again" in caplog.text
    assert whole.name not in caplog.text


def test_a_killed_stage_goes_on(serve, run):
    """SIGKILL in the middle of requests: every finished verdict is kept, and only the others are asked for."""
    blocked, free = threading.Event(), threading.Event()

    def behaviour(number: int, _: dict[str, Any]) -> Reply:
        if number > 3:
            blocked.set()
            free.wait(60)
        return good(number, {})

    server = serve(behaviour)
    command = [sys.executable, "-m", "lensflow.cli", *arguments(run, server.url, parallel=1)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert blocked.wait(60)
        if sys.platform == "linux":
            assert KEY.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        output = b"".join(process.communicate(timeout=60))
        free.set()
    assert process.returncode == -signal.SIGKILL
    assert KEY.encode() not in output
    assert not (run / "judged.json").exists()
    before = {file["verdict"]["text"] for file in kept(run)}
    assert before == {f"Fine. Rating: [[{number}]]" for number in (1, 2, 3)}

    again = serve(lambda *_: completion("[[9]]"))
    items = judge(run, again)["cells"][0]["scores"][0]["items"]
    assert len(again.requests) == VERDICTS - 3
    assert sorted(items) == [1, 2, 3, 9, 9, 9]


# The endpoint's limits


def test_at_most_so_many_requests_at_a_time(serve, run):
    together, most, now = threading.Barrier(3), [], []

    def behaviour(number: int, _: dict[str, Any]) -> Reply:
        now.append(number)
        most.append(len(now))
        together.wait(10)  # or there are fewer at a time than asked for
        now.remove(number)
        return good(number, {})

    judge(run, serve(behaviour), parallel=3)
    assert max(most) == 3


def test_requests_are_spread_over_the_minute_retries_included(serve, run):
    server = serve(lambda number, _: refusal(500) if number <= 4 else good(1, {}))
    judge(run, server, requests_per_minute=300.0)
    assert len(server.times) == VERDICTS + 4
    # Nine gaps of 0.2 s, but for the threads' jitter; five, were retries not counted.
    assert server.times[-1] - server.times[0] > 1.6


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_passes_is_tried_again(serve, run, status):
    server = serve(lambda number, _: refusal(status) if number == 3 else good(1, {}))
    assert judge(run, server)["cells"][0]["scores"][0]["n"] == VERDICTS
    assert len(server.requests) == VERDICTS + 1


# The key


def authorizations(server: Server) -> set[str | None]:
    return {headers.get("Authorization") for headers in server.headers}


def test_the_key_is_sent(serve, run, monkeypatch):
    monkeypatch.setenv("MY_KEY", f"{KEY}-mine\n")
    server = serve(good)
    judge(run, server, key_variable="MY_KEY")
    assert authorizations(server) == {f"Bearer {KEY}-mine"}


def test_without_a_key_none_is_sent(serve, run):
    """Not even OPENAI_API_KEY, which the client would send to any endpoint."""
    server = serve(good)
    judge(run, server, key_variable="MY_KEY")
    assert authorizations(server) == {None}


def test_a_key_that_cannot_be_sent(serve, run, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    server = serve(good)
    assert "environment variable OPENAI_API_KEY is not a valid key" in refused(run, server.url, capsys)
    assert server.requests == []


# Endpoints that misbehave: one line, and what has been finished is kept.


def refused(run: Path, url: str, capsys: pytest.CaptureFixture, **keys: object) -> str:
    assert main.main(arguments(run, url, **keys)) == 2
    output, said = capsys.readouterr()
    assert output == ""
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert said.endswith(f"{lines[-1]}\n")
    assert len(lines) == 1
    assert "Traceback" not in said
    assert KEY not in said
    assert not (run / "judged.json").exists()
    assert not any(KEY in path.read_text() for path in run.parents[3].rglob("*") if path.is_file())
    return lines[0]


HTML = "<html><body>Please log in</body></html>"


@pytest.mark.parametrize(
    ("reply", "message", "requests"),
    [
        (refusal(401, f"wrong key {KEY}"), "refuses the key in environment variable OPENAI_API_KEY (401)", 1),
        (refusal(403, f"wrong key {KEY}"), "refuses the key in environment variable OPENAI_API_KEY (403)", 1),
        (refusal(404, "no such model"), "does not know model 'judge' (no such model); mend judge.model or", 1),
        ((404, "text/html", HTML), f"does not know model 'judge' ({HTML}); mend judge.model or judge.base_url", 1),
        (refusal(429, f"quota of {KEY}\nis spent"), "takes no more requests, tried 2 times (quota of *** is spent)", 2),
        (refusal(400, "8000 tokens are too many"), "with status 400 (8000 tokens are too many)", 1),
        (refusal(500, "out of memory"), "with status 500 (out of memory)", 2),
        ((502, "text/html", HTML), f"with status 502 ({HTML})", 2),
        ((500, "application/json", ""), "with status 500 (no message)", 2),
        ((200, "text/html", HTML), f"does not answer with a chat completion ({HTML}); correct judge.base_url", 1),
        ((200, "application/json", '{"choices": [{"mess'), 'a chat completion ({"choices": [{"mess)', 1),
        ((200, "application/json", ""), "does not answer with a chat completion (nothing)", 1),
        ((200, "application/json", f'["{KEY}"]'), 'does not answer with a chat completion (["***"])', 1),
        (completion("x", choices=[]), "does not answer with a chat completion", 1),
        (completion("x", choices=None), "does not answer with a chat completion", 1),
        (completion("x", choices=[{"message": {"content": 3}}]), "does not answer with a chat completion", 1),
    ],
)
def test_an_endpoint_that_answers_nonsense(serve, run, capsys, reply, message, requests):
    server = serve(lambda number, body: good(number, body) if number <= 2 else reply)
    line = refused(run, server.url, capsys, parallel=1)
    assert line.startswith(f"error: benchmarks.mt-bench.judge: {server.url} ")
    assert message in line
    assert line.endswith("; 2 of 6 verdicts (en) are kept")
    assert len(server.requests) == 2 + requests
    mended = serve(good)
    judge(run, mended)
    assert len(mended.requests) == VERDICTS - 2


def test_an_endpoint_that_wants_a_key(serve, run, capsys):
    line = refused(run, serve(lambda *_: refusal(401)).url, capsys, key_variable="MY_KEY")
    assert "wants a key (401); set environment variable MY_KEY; 0 of 6 verdicts (en) are kept" in line


def test_nobody_listens(serve, run, capsys):
    server = serve(good)
    server.shutdown()
    server.server_close()
    line = refused(run, server.url, capsys)
    assert f"{server.url} cannot be reached, tried 2 times ([Errno" in line
    assert "Connection refused); start the server or mend judge.base_url; 0 of 6" in line


def test_an_address_that_is_none(run, capsys):
    line = refused(run, "localhost:8000/v1", capsys, retries=0)
    assert "judge.base_url: must be http://... or https://..., and hold no user, key or query" in line


def test_an_endpoint_that_hangs_up(serve, run, capsys):
    hangs_up = type("HangsUp", (Handler,), {"do_POST": lambda self: self.connection.close()})

    server = serve(good)
    server.RequestHandlerClass = hangs_up
    assert "cannot be reached, tried 2 times (" in refused(run, server.url, capsys)


def test_an_endpoint_that_is_slow(serve, run, capsys):
    free = threading.Event()

    def behaviour(number: int, body: dict[str, Any]) -> Reply:
        if number > 2:
            free.wait(30)
        return good(number, body)

    server = serve(behaviour)
    line = refused(run, server.url, capsys, timeout=1.5, parallel=1)
    free.set()
    assert "gave no answer in 1.5 s, tried 2 times; raise judge.timeout or lower judge.parallel; 2 of 6" in line


def test_what_others_were_asked_meanwhile_is_kept(serve, run, capsys):
    """One request fails while three are under way: their verdicts were paid for."""
    together = threading.Barrier(4)

    def behaviour(number: int, _: dict[str, Any]) -> Reply:
        together.wait(10)
        if number == 1:
            return refusal(400)
        time.sleep(0.5)
        return good(number, {})

    server = serve(behaviour)
    line = refused(run, server.url, capsys, parallel=4)
    assert len(server.requests) == 4  # no other one was started
    assert line.endswith("; 3 of 6 verdicts (en) are kept")
    assert sorted(file["verdict"]["text"][-6:] for file in kept(run)) == [" [[2]]", " [[3]]", " [[4]]"]


# Samples that cannot be judged


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"turns": []}, "question '81': 0 turns; a judge is asked about one or two"),
        ({"turns": ["a", "b", "c"]}, "question '81': 3 turns; a judge is asked about one or two"),
        ({"turns": "ab"}, "question '81': turns must be a list of texts; correct the data set"),
        ({"reference": "ab"}, "question '81': reference must be a list of texts; correct the data set"),
        ({"reference": [None, "x"]}, "question '81': reference must be a list of texts; correct the data set"),
        ({"answers": ["a"]}, "question '81': not one answer per turn; delete"),
    ],
)
def test_samples_that_cannot_be_judged(tmp_path, keys, message):
    path = tmp_path / "mt-bench.en.jsonl"
    write_jsonl(path, [SAMPLES[0] | keys])
    with pytest.raises(LensflowError) as error:
        judge_module.read_answers("mt-bench", Judge(model="m"), "en", path)
    assert str(error.value).startswith(f"benchmarks.mt-bench (en), {message}")
    assert "\n" not in str(error.value)


def test_a_question_of_one_turn_gets_one_verdict():
    sample = {"id": "1", "turns": ["a"], "answers": ["b"], "reference": []}
    answers = judge_module.Answers("mt-bench", Judge(model="m"), "en", [sample])
    assert [turn for _, turn in answers.turns] == [1]


def test_a_checkpoint_that_was_not_evaluated(run, capsys):
    (run / "samples" / "mt-bench.en.jsonl").unlink()
    said = refused(run, "http://127.0.0.1:1/v1", capsys)
    assert said.endswith("samples/mt-bench.en.jsonl: no such file; check the path")


def test_columns_that_questions_are_made_of_must_be_named():
    benchmark = json.loads(stage_config("https://judge.example/v1"))["benchmarks"][0]["benchmark"]
    with pytest.raises(LensflowError, match=r"^dataset\.columns: a benchmark of kind mt_bench needs 'category', too"):
        parse(AnyBenchmark, benchmark).check("en", [])
    benchmark["dataset"]["columns"] = ["turns", "category"]
    parse(AnyBenchmark, benchmark).check("en", [])
