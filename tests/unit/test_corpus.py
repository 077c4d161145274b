"""The embedded corpus: sizes, alignment, languages, and that no split holds a paraphrase of another's items."""

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from lensflow.artifacts.texts import SPLITS, Split, read_corpus
from lensflow.languages import identify, scripts, scripts_in

LANGUAGES = ["en", "zh", "ja", "ko", "ar", "bn", "sw"]
SIZES = {"train": 120, "dev": 20, "test": 100}
# Items that ask for different things reach 0.33 in the corpus, where they share a phrase in many languages ("What are
# the main differences between …"). The one paraphrase that was in it, the first of PARAPHRASES, gave 0.43.
NEAR_DUPLICATE = 0.38

Corpus = dict[Split, list[dict]]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus(Path(str(files("lensflow.data"))) / "corpus")


@pytest.fixture(scope="module")
def items(corpus: Corpus) -> list[tuple[str, dict]]:
    return [(split, row) for split in SPLITS for row in corpus[split]]


def texts(items: list[tuple[str, dict]]) -> list[tuple[str, str, str]]:
    """(name, language, text) of every prompt and answer."""
    return [
        (f"{row['id']} {part}", language, text)
        for _, row in items
        for part in ("prompt", "answer")
        for language, text in row.get(part, {}).items()
    ]


def test_sizes(corpus):
    assert {split: len(rows) for split, rows in corpus.items()} == SIZES


def test_ids_count_the_items_of_a_split(corpus):
    for split, rows in corpus.items():
        assert [row["id"] for row in rows] == [f"{split}-{number:03}" for number in range(1, SIZES[split] + 1)]


def test_every_prompt_is_there_in_seven_languages_and_every_answer_to_train(items):
    for split, row in items:
        assert list(row["prompt"]) == LANGUAGES, row["id"]
        assert list(row.get("answer", {})) == (LANGUAGES if split == "train" else []), row["id"]


def test_texts_are_single_trimmed_lines(items):
    for name, language, text in texts(items):
        assert text == " ".join(text.split()), (name, language)


def test_every_letter_is_of_the_languages_script(items):
    for name, language, text in texts(items):
        letters = scripts_in(text)
        assert letters, (name, language)
        assert set(letters) <= scripts(language), (name, language, letters)


def test_languages_are_told(items):
    """Few are not, and none of these is a fault: names ("Who was Ibn Battuta …") and three words of Swahili."""
    wrong = [name for name, language, text in texts(items) if identify(text) != language]
    assert len(wrong) <= 5, wrong


def test_translations_are_of_similar_length(items):
    """A text that was cut, or stands beside the wrong item, is far from the usual ratio to its English one."""
    ratios = {language: [] for language in LANGUAGES}
    for _, row in items:
        for part in ("prompt", "answer"):
            for language, text in row.get(part, {}).items():
                ratios[language].append((len(text) / len(row[part]["en"]), row["id"], part))
    for language, values in ratios.items():
        usual = float(np.median([value for value, _, _ in values]))
        odd = [(row, part) for value, row, part in values if not usual / 2.2 < value < usual * 2.2]
        assert not odd, (language, odd)


def similarities(items: list[tuple[str, dict]]) -> NDArray[np.float64]:
    """(N, N) cosine of the prompts' character n-grams weighted by rarity, mean over the languages.

    Rarity takes away what questions share by being questions, and the mean over languages what two prompts share by
    chance in one of them.
    """
    total = np.zeros((len(items), len(items)))
    for language in LANGUAGES:
        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), sublinear_tf=True)
        vectors = vectorizer.fit_transform([row["prompt"][language] for _, row in items])
        total += (vectors @ vectors.T).toarray()
    return total / len(LANGUAGES)


def near_duplicates(items: list[tuple[str, dict]]) -> list[tuple[str, str]]:
    close = similarities(items) > NEAR_DUPLICATE
    return [
        (items[i][1]["id"], items[j][1]["id"])
        for i, j in np.argwhere(np.triu(close, 1)).tolist()
        if items[i][0] != items[j][0]
    ]


def test_no_near_duplicates_across_splits(items):
    assert near_duplicates(items) == []


PARAPHRASES = [
    (
        "train-054",  # How can I usually tell a butterfly from a moth?
        {
            "en": "How do butterflies differ from moths?",
            "zh": "蝴蝶和飞蛾有什么区别？",
            "ja": "チョウとガはどう違うのですか？",
            "ko": "나비와 나방은 어떻게 다른가요?",
            "ar": "ما الفرق بين الفراشة والعثة؟",
            "bn": "প্রজাপতি আর মথের মধ্যে পার্থক্য কী?",
            "sw": "Vipepeo hutofautianaje na nondo?",
        },
    ),
    (
        "train-058",  # Why does soap wash away grease?
        {
            "en": "Why can soap remove grease?",
            "zh": "为什么肥皂可以去掉油污？",
            "ja": "石けんで油汚れが落とせるのはどうしてですか。",
            "ko": "비누로 기름때를 없앨 수 있는 까닭은 무엇인가요?",
            "ar": "كيف يزيل الصابون الدهون؟",
            "bn": "সাবান দিয়ে তেলচিটে ময়লা দূর হয় কেন?",
            "sw": "Sabuni huondoaje mafuta?",
        },
    ),
]


@pytest.mark.parametrize(("original", "prompt"), PARAPHRASES, ids=[original for original, _ in PARAPHRASES])
def test_a_planted_paraphrase_is_found(items, original, prompt):
    planted = [*items, ("test", {"id": "planted", "prompt": prompt})]
    assert near_duplicates(planted) == [(original, "planted")]


def test_kinds_are_spread_over_the_splits(corpus):
    shares = {split: Counter(row["kind"] for row in rows) for split, rows in corpus.items()}
    for split, counts in shares.items():
        assert set(counts) == set(shares["train"]), split
        assert max(counts.values()) <= 0.25 * SIZES[split], (split, counts)


def test_lines_are_plain_json():
    """Readable in an editor and in a diff: text as it is written, not as escapes."""
    for split in SPLITS:
        path = Path(str(files("lensflow.data"))) / "corpus" / f"{split}.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines():
            assert line == json.dumps(json.loads(line), ensure_ascii=False)
