"""The embedded corpus: sizes, alignment, languages, sources, and that no item paraphrases another one."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from lensflow.artifacts.texts import SPLITS, Split, folder, language_digests, read_corpus
from lensflow.languages import identify, scripts, scripts_in
from lensflow.measures.copies import is_copy
from lensflow.storage.digests import digest

LANGUAGES = ["en", "zh", "ja", "ko", "ar", "bn", "sw"]
SIZES = {"embedded": {"train": 120, "dev": 60, "test": 200}, "embedded-1": {"train": 120, "dev": 20, "test": 100}}
# Items that ask for different things reach 0.36 in the corpus, where they share words in many languages: "Should
# children help with the housework?", "should parents pay their children for doing housework?". Both paraphrases of
# PARAPHRASES, of which the first one was in version 1, give more.
NEAR_DUPLICATE = 0.38
# Few are not told, and none of these is a fault: names ("Who was Ibn Battuta …") and a few words of English or Swahili.
NOT_TOLD = {("train-090 prompt", "sw"), ("test-055 prompt", "en"), ("test-086 prompt", "en"), ("test-136 prompt", "en")}

Corpus = dict[Split, list[dict]]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus(folder("embedded", Path()))


@pytest.fixture(scope="module")
def version_1() -> Corpus:
    return read_corpus(folder("embedded-1", Path()))


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


@pytest.mark.parametrize("version", SIZES)
def test_sizes_and_ids(version):
    corpus = read_corpus(folder(version, Path()))
    for split, size in SIZES[version].items():
        assert [row["id"] for row in corpus[split]] == [f"{split}-{number:03}" for number in range(1, size + 1)]


@pytest.mark.parametrize("version", SIZES)
def test_a_version_never_changes(version):
    """If this fails for good reasons, it is a new version: keep the old one, and write the digest down in README.md."""
    datasheet = (folder("embedded", Path()) / "README.md").read_text(encoding="utf-8")
    assert f"| `{version}` | `{digest(language_digests(read_corpus(folder(version, Path()))))}` |" in datasheet


def test_versions_are_told_apart_by_their_digests(corpus, version_1):
    ours, old = language_digests(corpus), language_digests(version_1)
    assert all(ours[language] != old[language] for language in LANGUAGES)


def test_every_item_has_its_prompt_and_its_answer_in_seven_languages(items):
    for _, row in items:
        assert list(row) == ["id", "kind", "source", "prompt", "answer"], row["id"]
        assert list(row["prompt"]) == list(row["answer"]) == LANGUAGES, row["id"]


def test_many_items_were_not_first_written_in_english(corpus):
    sources = {split: Counter(row["source"] for row in rows) for split, rows in corpus.items()}
    assert sources["train"] == {"en": 120}
    assert sources["test"].total() - sources["test"]["en"] >= 50
    assert all(sources["test"][language] >= 8 for language in LANGUAGES)


def test_known_faults_are_mended(corpus, version_1):
    """Of version 1: a wrong verb in Arabic, the wrong game in Chinese, a missing word in Swahili, three twins."""
    now, before = ({row["id"]: row for rows in c.values() for row in rows} for c in (corpus, version_1))
    assert now["train-058"]["answer"]["ar"] != before["train-058"]["answer"]["ar"]
    assert "国际跳棋" in before["test-013"]["prompt"]["zh"] and "国际跳棋" not in now["test-013"]["prompt"]["zh"]
    assert now["test-020"]["prompt"]["sw"] != before["test-020"]["prompt"]["sw"]
    for one in ("test-057", "test-061", "test-078"):  # twins of test-033, test-027, test-050
        assert all(now[one]["prompt"][language] != before[one]["prompt"][language] for language in LANGUAGES)


def test_water_is_one_word_in_bengali(items, version_1):
    """পানি throughout; জল lives on in compounds such as জলাভূমি (wetland)."""

    def said(row: dict) -> bool:
        return bool(
            re.search(r"(?<![\u0980-\u09ff])জল(ে|ের|কে)?(?![\u0980-\u09ff])", f"{row['prompt']} {row.get('answer')}")
        )

    assert [row["id"] for _, row in items if said(row)] == []
    assert sum(said(row) for rows in version_1.values() for row in rows) > 5


def test_an_answer_does_not_give_its_prompt_back(items):
    for _, row in items:
        for language in LANGUAGES:
            assert not is_copy(row["answer"][language], row["prompt"][language]), (row["id"], language)


def test_answers_are_one_or_two_sentences(items):
    for _, row in items:
        assert 60 <= len(row["answer"]["en"]) <= 260, row["id"]


def test_texts_are_single_trimmed_lines(items):
    for name, language, text in texts(items):
        assert text == " ".join(text.split()), (name, language)


def test_every_letter_is_of_the_languages_script(items):
    for name, language, text in texts(items):
        letters = scripts_in(text)
        assert letters, (name, language)
        assert set(letters) <= scripts(language), (name, language, letters)


def test_languages_are_told(items):
    assert {(name, language) for name, language, text in texts(items) if identify(text) != language} <= NOT_TOLD


def test_no_text_stands_there_twice(items):
    counts = Counter((language, text) for _, language, text in texts(items))
    assert [place for place, count in counts.items() if count > 1] == []


def test_translations_are_of_similar_length(items):
    assert odd_lengths(items) == []


def test_a_text_that_was_cut_has_an_odd_length(items):
    for language in LANGUAGES[1:]:
        row = items[5][1]
        cut = row | {"answer": row["answer"] | {language: row["answer"][language][: len(row["answer"][language]) // 3]}}
        assert odd_lengths([*items, ("test", cut)]) == [(row["id"], "answer", language)]


def odd_lengths(items: list[tuple[str, dict]]) -> list[tuple[str, str, str]]:
    """(id, part, language) of texts whose length, as a share of the English one's, is far from their language's usual.

    Such a text was cut, or stands beside the wrong item.
    """
    odd = []
    for language in LANGUAGES:
        ratios = {
            (row["id"], part, language): len(row[part][language]) / len(row[part]["en"])
            for _, row in items
            for part in ("prompt", "answer")
        }
        usual = float(np.median(list(ratios.values())))
        odd += [place for place, ratio in ratios.items() if not usual / 2.2 < ratio < usual * 2.2]
    return odd


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
    return [(items[i][1]["id"], items[j][1]["id"]) for i, j in np.argwhere(np.triu(close, 1)).tolist()]


def test_no_near_duplicates_within_or_across_splits(items):
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
        assert max(counts.values()) <= 0.25 * counts.total(), (split, counts)


def test_lines_are_plain_json():
    """Readable in an editor and in a diff: text as it is written, not as escapes."""
    for split in SPLITS:
        path = folder("embedded", Path()) / f"{split}.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines():
            assert line == json.dumps(json.loads(line), ensure_ascii=False)


def test_texts_from_outside_the_project():
    corpus = read_corpus(folder("embedded-udhr", Path()))
    rows = [row for split in SPLITS for row in corpus[split]]
    assert [row["id"] for row in rows] == [f"article-{number:02}" for number in range(1, 31)]
    assert rows[2]["prompt"]["en"] == "Everyone has the right to life, liberty and the security of person."
    for row in rows:
        assert list(row["prompt"]) == LANGUAGES
        for language, text in row["prompt"].items():
            assert identify(text) == language and set(scripts_in(text)) <= scripts(language), (row["id"], language)
