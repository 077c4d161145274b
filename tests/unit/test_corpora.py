"""Corpora: one language of them, its digest, and the texts that the stages read. Refusals: tests/workflow."""

import json
from pathlib import Path

import pytest

from lensflow.config import Corpus
from lensflow.corpora import (
    SPLITS,
    Text,
    check_aligned,
    folder,
    in_language,
    language_digests,
    pair_data,
    read_corpus,
    read_texts,
)
from lensflow.errors import LensflowError


def rows(split: str, count: int, languages: tuple[str, ...] = ("en", "zh")) -> list[dict]:
    made = []
    for number in range(count):
        name = f"{split}-{number}"
        prompt = {language: f"{name} in {language}" for language in languages}
        answer = {"answer": {"en": f"{name} answered"}} if split == "train" else {}
        made.append({"id": name, "prompt": prompt} | answer)
    return made


def write(path: Path, **splits: list[dict]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = [json.dumps(row, ensure_ascii=False) for row in splits.get(split, rows(split, 2))]
        (path / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_language_holds_its_texts_in_order(tmp_path):
    corpus = read_corpus(write(tmp_path))
    assert in_language(corpus, "zh") == [
        {"id": f"{split}-{number}", "split": split, "prompt": f"{split}-{number} in zh"}
        for split in ("train", "dev", "test")
        for number in range(2)
    ]
    assert in_language(corpus, "en")[1]["answer"] == "train-1 answered"


def test_what_is_written_is_what_is_read(tmp_path):
    output = tmp_path / "out" / "zh.jsonl"
    pair_data(write(tmp_path / "corpus"), "zh", output)
    assert read_texts(output, ["dev", "train"]) == [
        Text("train-0", "train", "train-0 in zh"),
        Text("train-1", "train", "train-1 in zh"),
        Text("dev-0", "dev", "dev-0 in zh"),
        Text("dev-1", "dev", "dev-1 in zh"),
    ]
    assert [text.id for text in read_texts(output, ["test"])] == ["test-0", "test-1"]


def test_a_language_that_is_not_there(tmp_path):
    with pytest.raises(LensflowError, match="no language 'sw'; it has en, zh"):
        pair_data(write(tmp_path / "corpus"), "sw", tmp_path / "sw.jsonl")
    assert not (tmp_path / "sw.jsonl").exists()


def test_a_digest_changes_with_its_language_alone(tmp_path):
    before = language_digests(write(tmp_path / "before"))
    assert list(before) == ["en", "zh"]

    more = {split: rows(split, 2, ("en", "zh", "sw")) for split in SPLITS}
    assert language_digests(write(tmp_path / "more", **more)).items() > before.items()

    changed = rows("test", 2)
    changed[1]["prompt"]["zh"] += "!"
    after = language_digests(write(tmp_path / "changed", test=changed))
    assert after["en"] == before["en"]
    assert after["zh"] != before["zh"]


def test_a_digest_knows_the_split(tmp_path):
    """The same texts, the other way round: train and dev are not used for the same."""
    swapped = language_digests(write(tmp_path / "b", train=rows("dev", 2), dev=rows("train", 2)))
    assert swapped["zh"] != language_digests(write(tmp_path / "a"))["zh"]


def test_one_text_may_stand_in_two_languages(tmp_path):
    same = rows("dev", 2)
    same[0]["prompt"]["zh"] = same[0]["prompt"]["en"]
    assert read_corpus(write(tmp_path, dev=same))["dev"] == same


@pytest.mark.parametrize(
    "row", ["text", ["list"], {"id": 1, "prompt": {"en": "a"}}, {"id": "a"}, {"id": "a", "prompt": {}}]
)
def test_a_row_of_another_shape(tmp_path, row):
    with pytest.raises(
        LensflowError, match=r'dev.jsonl, line 1: must be {"id": text, "prompt": {language: text, ...}}'
    ):
        read_corpus(write(tmp_path, dev=[row]))


def test_aligned_languages_hold_the_same_items_in_one_order():
    texts = [Text(name, "train", name) for name in "abc"]
    translated = [Text(name, "train", name.upper()) for name in "abc"]
    check_aligned({"en": texts, "zh": translated})
    with pytest.raises(LensflowError, match="en and sw do not hold the same items"):
        check_aligned({"en": texts, "zh": translated, "sw": translated[::-1]})
    with pytest.raises(LensflowError, match="en and sw do not hold the same items"):
        check_aligned({"en": texts, "sw": translated[:2]})


def test_a_corpus_lies_in_the_package_or_below_the_root(tmp_path):
    assert (folder(Corpus(path="embedded", license="CC0-1.0"), tmp_path) / "train.jsonl").is_file()
    assert folder(Corpus(path="mine", license="none"), tmp_path) == tmp_path / "mine"
