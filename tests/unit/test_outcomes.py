import csv
import gzip
import json
import re
import unicodedata
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from lensflow.errors import LensflowError
from lensflow.measures.copies import copied_share, is_copy, without_copied
from lensflow.measures.fidelity import detector_ceiling, is_faithful
from lensflow.measures.loops import is_loop, once
from lensflow.measures.outcomes import Outcome, judge, outcome

LABELLED = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()
]
PUBLISHED = Path(__file__).parents[2] / "../shared/published/language-confusion/outputs"
LANGUAGES = ["en", "zh", "ja", "ko", "ar", "bn", "sw"]
QUESTION = "What are raisins made from?"


@pytest.fixture(scope="module")
def references() -> list[tuple[str, str, str]]:
    """(language, prompt, answer) of every embedded reference answer."""
    folder = files("lensflow.data") / "corpus"
    rows = [
        json.loads(line)
        for split in ("train", "dev", "test")
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [(language, row["prompt"][language], answer) for row in rows for language, answer in row["answer"].items()]


@pytest.mark.parametrize("row", LABELLED, ids=lambda row: f"{row['language']}: {row['id']}")
def test_an_answer_is_what_a_reader_says(row):
    assert outcome(row["answer"], row["language"], row["prompt"]) == row["expected"]


def test_every_outcome_was_labelled_in_many_languages():
    counts = Counter(row["expected"] for row in LABELLED)
    assert len(LABELLED) >= 120 and set(counts) == set(Outcome) and min(counts.values()) >= 6
    assert len({row["language"] for row in LABELLED}) >= 20
    assert len({row["language"] for row in LABELLED if row["expected"] == "loop"}) >= 14


@pytest.mark.parametrize("row", LABELLED[::3], ids=lambda row: row["id"])
def test_normal_forms_and_white_space_do_not_matter(row):
    for form in ("NFC", "NFD"):
        changed = unicodedata.normalize(form, f" \n{row['answer']}\n ")
        assert outcome(changed, row["language"], row["prompt"]) == row["expected"]


def test_references_are_neither_loops_nor_copies_and_are_once_they_are_made_so(references):
    assert len(references) == 2660
    assert sum(is_loop(answer) for _, _, answer in references) <= 0.01 * len(references)
    assert sum(is_copy(answer, prompt) for _, prompt, answer in references) == 0
    assert all(is_loop(f"{answer} {answer}") for _, _, answer in references)
    assert all(is_copy(prompt, prompt) for _, prompt, _ in references)
    assert not any(is_copy(f"{prompt} {answer}", prompt) for _, prompt, answer in references)


@pytest.mark.parametrize("room", [100, 160])
def test_a_prompt_that_is_given_back_until_there_is_no_room_left_is_a_copy(references, room):
    """The last sentence stops in the middle of a word."""
    cut = [(prompt[:room], prompt) for _, prompt, _ in references if len(prompt) > room + 10]
    assert len(cut) > 100 and [text for text, prompt in cut if not is_copy(text, prompt)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_loop_is_found_where_only_the_end_loops(references, language):
    texts = [answer for code, _, answer in references if code == language]
    for first, second in zip(texts[:120:5], texts[1:120:5], strict=True):
        assert is_loop(first + " " + second[:5] * 20)
        assert is_loop(first + " " + f"{second} " * 3)
        assert not is_loop(f"{first} {second}")


# Said by SmolLM2-135M-Instruct after training.
STUCK = {
    "one mark, for most of the answer": "笛子是一种意想要发出声音的语言" + "；" * 50,
    "the prompt, then marks": "猫头鹰夜里一般吃什么" + "？" * 51,
    "two lines take turns": "在市场买鱼时，怎样判断鱼是不是真的新鲜？\n\n"
    + "这是一个糖糖的语法解释，这是一个语法问题的解法。语法解释是：\n\n"
    + '"在市场买鱼时，怎样判断鱼是不是真的新鲜？"\n\n这是一个语法问题的解法。语法解释是：\n\n' * 2
    + '"在市场买鱼时，怎样判断鱼是不是真的',
}


@pytest.mark.parametrize("answer", STUCK.values(), ids=STUCK)
def test_loops_of_a_real_model(answer):
    assert is_loop(answer)


@pytest.mark.parametrize(
    "answer",
    ["好！！！", "Yes" + "!" * 11, "Name: " + "_" * 30 + "\nI agree to what is written above, and sign."],
)
def test_some_marks_in_a_row_are_no_loop(answer):
    assert not is_loop(answer)


def test_once_says_a_loop_once():
    assert once("no " * 30) == "no "
    assert once("The sun is a star.") == "The sun is a star."


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        (QUESTION, 1.0),
        ("Dried grapes.", 0.0),
        ("", 0.0),
        (f"{QUESTION} Grapes!", 22 / 28),
    ],
)
def test_copied_share_by_hand(answer, share):
    assert copied_share(answer, QUESTION) == pytest.approx(share)


def test_without_copied():
    assert without_copied(f"{QUESTION}\nDried grapes. what are RAISINS made from?", QUESTION) == "Dried grapes."


@pytest.mark.parametrize(
    ("text", "language", "faithful"),
    [
        ("Voda je veoma važna za naše zdravlje.", "sr-Latn", True),
        ("Вода је веома важна за наше здравље.", "sr-Latn", False),
        ("Вода је веома важна за наше здравље.", "sr", True),
        ("水对我们非常重要。", "zh-TW", False),
        ("水對我們非常重要。", "zh-TW", True),
        ("我是人。", "zh-Hant", True),
        ("水對我們非常重要。", "zh", True),
        ("פריז היא בירת צרפת", "iw", True),
        ("Oslo er hovedstaden i Norge.", "no", True),
        ("पानी हाम्रो स्वास्थ्यको लागि धेरै महत्त्वपूर्ण छ।", "ne", True),
        ("42", "zh", None),
        ("Albert Einstein", "sw", None),
    ],
)
def test_is_faithful_with_tags_and_scripts(text, language, faithful):
    assert is_faithful(text, language) is faithful


@pytest.mark.parametrize("language", LANGUAGES)
def test_detector_ceiling(references, language):
    own = [answer for code, _, answer in references if code == language]
    assert detector_ceiling(own, language) >= 0.97
    assert detector_ceiling(own, "fr") == 0.0


def test_detector_ceiling_needs_texts():
    with pytest.raises(LensflowError, match="language 'sw': no text"):
        detector_ceiling([], "sw")


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("jp", "language 'jp': unknown code; did you mean 'ja' (Japanese)?"),
        ("dz", "language 'dz': no detector can tell it; leave its answers out"),
    ],
)
def test_a_language_that_cannot_be_told(language, message):
    with pytest.raises(LensflowError, match=f"^{re.escape(message)}$"):
        outcome("", language)


def test_what_is_measured_beside_the_outcome():
    found = judge("Rosinen sind getrocknete Trauben, die süß schmecken.", "de", "Was sind Rosinen?")
    assert (found.outcome, found.usable, found.faithful, found.line_pass, found.word_pass) == (
        Outcome.USABLE,
        True,
        True,
        True,
        None,
    )
    found = judge("", "de")
    assert (found.empty, found.faithful, found.copied, found.usable, found.line_pass) == (True, None, None, False, None)
    found = judge(QUESTION, "en", QUESTION)
    assert (found.outcome, found.faithful, found.copied) == (Outcome.COPY, None, True)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published completions are not here")
@pytest.mark.parametrize(
    ("model", "least", "most"),
    [("gpt-4-turbo", 0, 0.005), ("command-r-plus", 0, 0.005), ("command-r-plus-base", 0.2, 1)],
)
def test_loops_in_published_completions(model, least, most):
    csv.field_size_limit(1 << 24)
    with gzip.open(PUBLISHED / f"{model}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        loops = [is_loop(row["completion"]) for row in list(csv.DictReader(file))[::8]]
    assert len(loops) >= 800 and least <= sum(loops) / len(loops) <= most
