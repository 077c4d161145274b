import json
import random
from importlib.resources import files
from itertools import combinations

import pytest
import torch

from lensflow.errors import LensflowError
from lensflow.measures.answers import (
    COPY_THRESHOLD,
    copies_prompt,
    is_empty,
    is_faithful,
    is_repetitive,
    repetition,
    target_script_share,
)

QUESTION = "What are raisins made from?"


@pytest.fixture(scope="module")
def reference() -> list[tuple[str, str, str]]:
    """(language, prompt, answer) of every embedded reference answer."""
    lines = (files("lensflow.data") / "corpus" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [(language, row["prompt"][language], answer) for row in rows for language, answer in row["answer"].items()]


@pytest.mark.parametrize(
    ("answer", "language", "faithful"),
    [
        ("葡萄干是晒干的葡萄。", "zh", True),
        ("葡萄干是晒干的葡萄。", "zh-Hant", True),
        ("葡萄干是晒干的葡萄。", "ja", False),
        ("ぶどうを干して作ります。", "ja", True),
        ("Raisins are dried grapes.", "zh", False),
        ("使用Python的pandas库读取数据。", "zh", True),
        ("Zabibu kavu ni zabibu zilizokaushwa juani.", "sw", True),
        ("Raisins are dried grapes, left in the sun.", "sw", False),
        ("", "en", False),
        ("42", "en", False),
        ("😀", "en", False),
    ],
)
def test_is_faithful(answer, language, faithful):
    assert is_faithful(answer, language) is faithful


@pytest.mark.parametrize("language", ["as", "sr-Latn", "swahili"])
def test_is_faithful_refuses_what_cannot_be_told(language):
    with pytest.raises(LensflowError, match=repr(language)):
        is_faithful("any text", language)


@pytest.mark.parametrize(
    ("answer", "empty"),
    [
        ("", True),
        ("\n \n", True),
        ("42!", True),
        ("١٢", True),
        ("😀…", True),
        ("a", False),
        ("4個", False),
        ("か", False),
    ],
)
def test_is_empty(answer, empty):
    assert is_empty(answer) is empty


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("", 0),
        ("Paris", 0),
        ("妈妈", 0),
        ("Bye bye!", 0),  # (bye, bye), (bye, !)
        ("no no no", 1 / 2),  # pairs: 2, 1 unique
        ("\n \n \n", 1 / 2),
        ("- - - - -", 3 / 4),
        ("x = 1; y = 2; z = 3;", 0),
        ("one two three four five six seven eight", 0),
        ("a b c d e a b c d e", 2 / 7),  # 4-grams: 7, 5 unique
        ("A b C d e a B c D e", 2 / 7),  # whatever the case
        ("aब c d e aब c d e", 1 / 5),  # 5, 4 unique
        ("হ্যাঁ হ্যাঁ হ্যাঁ হ্যাঁ", 2 / 3),  # words, though they hold marks: 3 pairs, 1 unique
        ("三原色是三色，三原色是三色，三原色", 7 / 14),  # characters: 17 with commas, period 7
        ("สวัสดีครับสวัสดีครับ", None),
    ],
)
def test_repetition_by_hand(answer, share):
    if share is None:
        assert repetition(answer) > 0  # no spaces in Thai: characters
    else:
        assert repetition(answer) == pytest.approx(share)


def test_repetition_against_counting():
    rng = random.Random(0)
    for _ in range(300):
        words = rng.choices("abcd", k=rng.randint(8, 40))
        ngrams = [words[start : start + 4] for start in range(len(words) - 3)]
        duplicates = sum(ngram in ngrams[:position] for position, ngram in enumerate(ngrams))
        assert repetition(" ".join(words)) == pytest.approx(duplicates / len(ngrams))


@pytest.mark.parametrize(
    ("answer", "repetitive"),
    [
        ("三原色是三色，三原色是三色，三原色", True),
        ("\n \n \n", True),
        ("I do not know. I do not know.", True),
        ("The capital is Paris. The capital is Paris. The", True),
        ("Ninapenda sana kula ninapenda sana kula ninapenda sana kula", True),
        ("1. Rice\n2. Beans\n3. Corn\n4. Wheat\n5. Oats", False),
        ("Rice\n\nBeans\n\nCorn\n\nOats", False),
        ("for i in range(3):\n    print(i)\nfor j in range(4):\n    print(j)", False),
        ("Yes!!!!", False),
        ("Wait... what?", False),
        ('She said "yes", then "no", then "maybe".', False),
        ("", False),
    ],
)
def test_is_repetitive(answer, repetitive):
    assert is_repetitive(answer) is repetitive


@pytest.mark.parametrize(
    ("answer", "copied"),
    [
        (QUESTION, True),
        (QUESTION + " Raisins are dried grapes.", True),
        ("You ask: what are RAISINS\nmade from? I do not know.", True),
        (QUESTION * 5, True),
        ("are raisins made", True),  # the greater part of it
        ("raisins", False),  # contained, but short: it may be meant as an answer
        ("Raisins are made from grapes.", False),
        ("Dried grapes.", False),
        ("", False),
        ("   ", False),
    ],
)
def test_copies_prompt(answer, copied):
    assert copies_prompt(answer, QUESTION) is copied


def test_copies_prompt_in_other_scripts():
    assert copies_prompt("葡萄干是用什么做的？葡萄干是用什么做的？", "葡萄干是用什么做的？")
    assert not copies_prompt("葡萄干是用葡萄做的。", "葡萄干是用什么做的？")
    assert not copies_prompt("The moon.", "Which is bigger, the sun or the moon?")


def test_copies_prompt_against_all_substrings():
    rng = random.Random(0)
    outcomes = set()
    for _ in range(400):
        answer, prompt = ("".join(rng.choices("ab", k=rng.randint(1, 12))) for _ in range(2))
        spans = combinations(range(len(answer) + 1), 2)
        common = max((end - start for start, end in spans if answer[start:end] in prompt), default=0)
        expected = common / min(len(answer), len(prompt)) >= COPY_THRESHOLD and common / len(prompt) >= 0.5
        outcomes.add(expected)
        assert copies_prompt(answer, prompt) is expected
    assert outcomes == {True, False}


def test_no_reference_answer_is_degenerate(reference):
    assert len(reference) == 840
    flagged = [
        (answer, prompt)
        for _, prompt, answer in reference
        if is_repetitive(answer) or is_empty(answer) or copies_prompt(answer, prompt)
    ]
    assert flagged == []
    # The same answers made degenerate are all found.
    assert all(is_repetitive(f"{answer} {answer}") for _, _, answer in reference)
    assert all(copies_prompt(f"{prompt} {answer}", prompt) for _, prompt, answer in reference)


def test_target_script_share_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(5, 50, generator=generator).softmax(dim=-1)
    kind = torch.randint(0, 3, (50,), generator=generator)  # neither, target, Latin
    share = target_script_share(probabilities, kind == 1, kind == 2)
    assert share.shape == (5,) and share.dtype == torch.float32
    for row, value in zip(probabilities.tolist(), share.tolist(), strict=True):
        on_target = sum(p for p, k in zip(row, kind.tolist(), strict=True) if k == 1)
        on_latin = sum(p for p, k in zip(row, kind.tolist(), strict=True) if k == 2)
        assert value == pytest.approx(on_target / (on_target + on_latin), rel=1e-5)


def test_target_script_share_at_its_ends():
    target, latin = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    probabilities = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.25, 0.25, 0.5], [0, 0, 1]], dtype=torch.bfloat16)
    share = target_script_share(probabilities, target, latin)
    assert share[:3].tolist() == [1.0, 0.0, 0.5]
    assert share[3].isnan()
