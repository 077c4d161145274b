"""Prompts in one language that ask for answers in another: their items, what a method is told, how answers count."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

from lensflow.artifacts import layout
from lensflow.artifacts.interventions import BlockEdit, Intervention
from lensflow.benchmarks.dataset_generation import DatasetGeneration
from lensflow.measures.outcomes import Outcome
from lensflow.schema.parsing import parse
from lensflow.stages.fetch_items import fetch, fetched
from lensflow.stages.score import measure
from lensflow.storage.atomic import write_jsonl
from lensflow.workflow.experiment import read
from tests import tiny
from tests.unit.test_answer import Here

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "../shared/published"
LCB = read([], ROOT).benchmarks["lcb-crosslingual"]
SOURCES = ("okapi", "sharegpt", "complex_prompts")
CROSS = {
    "kind": "dataset_generation",
    "dataset": {"path": "x/y", "columns": ["prompt"]},
    "languages": {"en": "en", "zh": "zh"},
    "prompt_language": "en",
    "max_new_tokens": 6,
}


# --- The items ----------------------------------------------------------------------------------------------------


def test_one_entry_reads_the_three_sources_of_the_archive(tmp_path):
    archive = tmp_path / "language-confusion" / "test_sets.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for source in SOURCES:
            for code in ("zh", "de"):
                text = f"prompt,source\n{source} in {code}?,{source}\n"
                file.writestr(f"test_sets/crosslingual/{source}/{code}.csv", text)
    for code in ("zh", "de"):
        items = fetched("lcb", LCB.dataset, code, LCB.languages[code].config, tmp_path, LCB.texts()).items
        assert [item["prompt"] for item in items.values()] == [f"{source} in {code}?" for source in SOURCES]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published test sets are not here")
def test_all_languages_of_the_published_archive(tmp_path):
    for code, entry in LCB.languages.items():
        fetch("lcb", LCB.dataset, code, entry, PUBLISHED, tmp_path / f"{code}.jsonl", LCB.texts())
        items = [json.loads(line)["item"] for line in (tmp_path / f"{code}.jsonl").read_text().splitlines()]
        assert [sum(item["source"] == source for item in items) for source in SOURCES] == [100, 100, 99]
        assert {item["language"] for item in items} == {code}
    assert len(LCB.languages) == 14 and "en" not in LCB.languages


# --- What a method is told ------------------------------------------------------------------------------------------


@pytest.fixture
def here(checkpoint, tmp_path) -> Here:
    made = Here(tmp_path, checkpoint("llama"))
    for language in ("en", "zh"):
        items = [{"split": "items", "id": str(n), "item": {"prompt": f"Say {n} in {language}."}} for n in range(3)]
        write_jsonl(tmp_path / "benchmarks" / "cross" / f"{language}.jsonl", items)
    return made


def changed(here: Here, intervention: Intervention) -> set[tuple[str, str]]:
    """The cells whose answers are not the backbone's."""
    benchmarks = {"cross": CROSS, "generation": {"kind": "generation", "max_new_tokens": 6}}
    here.checkpoint("edit", 0, intervention)
    assert here.answer(layout.BASE, "edit", benchmarks=benchmarks) == 0
    base, edited = here.keys(layout.BASE), here.keys("edit")
    for place in base:
        same = here.rows(layout.BASE, *place) == here.rows("edit", *place)
        assert same == (base[place] == edited[place]), place
    return {place for place in base if base[place] != edited[place]}


PUSH = [BlockEdit(1, "add", 50 * torch.ones(tiny.WIDTH))]
SHOTS = [["One?", "Two."]]


@pytest.mark.parametrize(
    ("intervention", "expected"),
    [
        (Intervention(blocks={("en", "zh"): PUSH}), {("cross", "zh")}),
        (Intervention(blocks={("zh", "zh"): PUSH}), {("generation", "zh")}),
        (Intervention(blocks={("en", "en"): PUSH}), {("cross", "en"), ("generation", "en")}),
        # What has no pair is keyed by the wanted language.
        (Intervention(shifts={"zh": 50 * torch.ones(tiny.WIDTH)}), {("cross", "zh"), ("generation", "zh")}),
        (Intervention(instructions={"zh": "用中文。"}), {("cross", "zh"), ("generation", "zh")}),
        (Intervention(frames={"zh": "问：{prompt}\n答："}), {("cross", "zh"), ("generation", "zh")}),
        (Intervention(shots={"zh": SHOTS}), {("cross", "zh"), ("generation", "zh")}),
    ],
    ids=["blocks en-zh", "blocks zh-zh", "blocks en-en", "shifts", "instructions", "frames", "shots"],
)
def test_the_prompts_and_the_wanted_language_reach_a_method(here, intervention, expected):
    assert changed(here, intervention) == expected


# --- How it counts --------------------------------------------------------------------------------------------------

PROMPT = "Reply in Chinese. Why does it rain more often in the mountains than on the plains?"
ANSWERS = {
    "山上的空气上升得快，水汽变冷后就变成了雨，所以山区的雨比平原多。": Outcome.USABLE,
    "The air rises quickly over the mountains, so the water in it turns into rain.": Outcome.WRONG_LANGUAGE,
    PROMPT: Outcome.COPY,
    f"{PROMPT}\n山上的空气上升得快，水汽变冷后就变成了雨，所以山区的雨比平原多。": Outcome.USABLE,
    "": Outcome.EMPTY,
}


def scored(language: str, **keys: str) -> dict[str, dict]:
    samples = [{"id": str(n), "prompt": PROMPT, "answer": answer, "cut": False} for n, answer in enumerate(ANSWERS)]
    benchmark = parse(DatasetGeneration, CROSS | {"prompt_language": None} | keys)
    _, scores = measure(samples, benchmark, language)
    return {score["metric"]: score for score in scores} | {"outcomes": [sample.get("outcome") for sample in samples]}


def test_answers_are_judged_in_the_wanted_language():
    found = scored("zh", prompt_language="en")
    assert found["outcomes"] == list(ANSWERS.values())
    assert found["usable"]["value"] == 2 / 5
    # The lines are the authors': they read the English prompt as a part of the answer.
    assert found["line_pass_rate"]["items"] == [True, False, False, False, None]
    assert "detector_ceiling" not in found  # English prompts do not say how well Chinese is detected


def test_prompts_in_the_wanted_language_still_measure_the_detector():
    """English prompts that are said to be Chinese: the detector accepts none, so that no answer is judged."""
    assert scored("zh")["detector_ceiling"]["value"] == 0
    assert scored("zh")["outcomes"] == [None] * len(ANSWERS)
