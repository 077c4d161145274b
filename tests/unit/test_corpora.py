"""Corpora: one language of them, its digest, and the texts that the stages read. Refusals: tests/workflow."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets.exceptions import DatasetNotFoundError

from lensflow.artifacts.texts import (
    SPLITS,
    Text,
    check_aligned,
    folder,
    in_language,
    language_digests,
    read_corpus,
    read_texts,
)
from lensflow.errors import LensflowError
from lensflow.schema.corpus import CorpusDataset
from lensflow.stages.pair_data import pair_data, pair_dataset
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_json, read_jsonl
from lensflow.workflow.experiment import read
from tests.hub import opening


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
        Text("train-0", "train", "train-0 in zh", 1),
        Text("train-1", "train", "train-1 in zh", 2),
        Text("dev-0", "dev", "dev-0 in zh", 3),
        Text("dev-1", "dev", "dev-1 in zh", 4),
    ]
    assert [text.id for text in read_texts(output, ["test"])] == ["test-0", "test-1"]
    origin = {"path": "corpus", "config": None, "split": None, "local": True, "revision": None}
    assert read_json(output.with_suffix(".source.json")) == origin


def test_a_language_that_is_not_there(tmp_path):
    with pytest.raises(LensflowError, match="no language 'sw'; it has en, zh"):
        pair_data(write(tmp_path / "corpus"), "sw", tmp_path / "sw.jsonl")
    assert not (tmp_path / "sw.jsonl").exists()


def test_a_digest_changes_with_its_language_alone(tmp_path):
    before = language_digests(read_corpus(write(tmp_path / "before")))
    assert list(before) == ["en", "zh"]

    more = {split: rows(split, 2, ("en", "zh", "sw")) for split in SPLITS}
    assert language_digests(read_corpus(write(tmp_path / "more", **more))).items() > before.items()

    changed = rows("test", 2)
    changed[1]["prompt"]["zh"] += "!"
    after = language_digests(read_corpus(write(tmp_path / "changed", test=changed)))
    assert after["en"] == before["en"]
    assert after["zh"] != before["zh"]


def test_a_digest_knows_the_split(tmp_path):
    """The same texts, the other way round: train and dev are not used for the same."""
    swapped = language_digests(read_corpus(write(tmp_path / "b", train=rows("dev", 2), dev=rows("train", 2))))
    assert swapped["zh"] != language_digests(read_corpus(write(tmp_path / "a")))["zh"]


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
    texts = [Text(name, "train", name, line) for line, name in enumerate("abc", start=1)]
    translated = [Text(name, "train", name.upper(), line) for line, name in enumerate("abc", start=1)]
    check_aligned({"en": texts, "zh": translated})
    with pytest.raises(LensflowError, match="en and sw do not hold the same items"):
        check_aligned({"en": texts, "zh": translated, "sw": translated[::-1]})
    with pytest.raises(LensflowError, match="en and sw do not hold the same items"):
        check_aligned({"en": texts, "sw": translated[:2]})


def test_a_corpus_lies_in_the_package_or_below_the_root(tmp_path):
    assert (folder("embedded", tmp_path) / "train.jsonl").is_file()
    assert folder("mine", tmp_path) == tmp_path / "mine"


# --- Data sets as corpora ---------------------------------------------------------------------------------------------


def write_dataset(root: Path, configs: dict[str, list[dict]]) -> None:
    card = "---\nconfigs:\n"
    for name, items in configs.items():
        write_jsonl(root / "my/set" / name / "train.jsonl", items)
        card += f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train.jsonl\n"
    (root / "my/set/README.md").write_text(card + "---\n")


def paired(root: Path, of: str, **changes: object) -> list[dict]:
    source = CorpusDataset.model_validate({"path": "my/set", "train": 2, "dev": 1} | changes)
    output = root / "out" / f"{of}.jsonl"
    pair_dataset(source, of, root, output)
    origin = read_json(output.with_suffix(".source.json"))
    assert (origin["path"], origin["local"], origin["revision"]) == ("my/set", True, None)
    return read_jsonl(output)


COLUMNS = [{"key": f"k{n}", "en": f"hello {n}", "zh": f"你好 {n} "} for n in range(4)]


def test_a_column_a_language(tmp_path):
    write_dataset(tmp_path, {"all": COLUMNS})
    languages = {"en": "en", "zh": "zh"}
    assert paired(tmp_path, "zh", layout="columns", config="all", languages=languages, id="key") == [
        {"id": "k0", "split": "train", "prompt": "你好 0"},
        {"id": "k1", "split": "train", "prompt": "你好 1"},
        {"id": "k2", "split": "dev", "prompt": "你好 2"},
    ]


def test_a_configuration_a_language(tmp_path):
    items = [{"instruction": f"Say {n}", "input": "" if n else "now", "output": f"said {n}"} for n in range(3)]
    write_dataset(tmp_path, {"swa": items})
    rows = paired(
        tmp_path,
        "sw",
        layout="configs",
        languages={"sw": "swa"},
        prompt="{instruction}\n{input}",
        answer="{output}",
    )
    assert [row["prompt"] for row in rows] == ["Say 0\nnow", "Say 1", "Say 2"]
    assert [(row["id"], row["answer"]) for row in rows] == [("0", "said 0"), ("1", "said 1"), ("2", "said 2")]


def test_a_column_that_says_each_rows_language(tmp_path):
    items = [{"inputs": f"{code} {n}", "code": code} for n in range(3) for code in ("eng", "zho")]
    write_dataset(tmp_path, {"all": items})
    rows = paired(
        tmp_path,
        "zh",
        layout="rows",
        config="all",
        language="code",
        languages={"zh": "zho"},
        prompt="{inputs}",
        aligned=False,
    )
    assert [row["prompt"] for row in rows] == ["zho 0", "zho 1", "zho 2"]


@pytest.mark.parametrize(
    ("items", "changes", "message"),
    [
        (COLUMNS, {"train": 9}, r": 4 items, 10 are asked for; lower train, dev or test$"),
        (COLUMNS, {"languages": {"zh": "chi"}}, r", item 1: no column 'chi'; it has en, key, zh; correct the row or"),
        (COLUMNS, {"id": "name"}, r", item 1: no column 'name'; it has "),
        (
            [*COLUMNS[:1], {"key": "x", "zh": " "}, *COLUMNS],
            {},
            r", item 2: the prompt is empty; fill it in, remove its row",
        ),
        (
            [*COLUMNS[:1], *COLUMNS],
            {"id": "key"},
            r", item 2: id 'k0' \(key\) is also the id of item 1; choose another column",
        ),
        (COLUMNS, {"config": "other"}, r": no configuration 'other'; it has 'all'$"),
        (COLUMNS, {"split": "test"}, r": no split 'test'; it has 'train'$"),
    ],
)
def test_mistakes_in_a_data_set(tmp_path, items, changes, message):
    write_dataset(tmp_path, {"all": items})
    with pytest.raises(LensflowError, match=rf"^corpus my/set \(.+\), language 'zh'{message}"):
        paired(tmp_path, "zh", **{"layout": "columns", "config": "all", "languages": {"zh": "zh"}} | changes)
    assert not (tmp_path / "out").exists()


# --- The catalog's data sets, as the hub has them ---------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
NEWEST = "c" * 40
CODES = ("en", "zh", "ja", "ko", "ar", "bn", "sw")
AYA = {"en": "eng", "zh": "zho", "ja": "jpn", "ko": "kor", "ar": "arb", "bn": "ben", "sw": "swh", "es": "spa"}
AYA |= {"fr": "fra", "de": "deu"}
# Corpus -> the name that the hub is asked for and, of 400 rows, what it answers.
ON_THE_HUB = {
    "bactrian-x": (
        "MBZUAI/Bactrian-X",
        lambda n: {"instruction": f"Say {n}.", "input": "", "id": f"alpaca-{n}", "output": f"{n}."},
    ),
    "aya": (
        "CohereForAI/aya_dataset",
        lambda n: {
            "inputs": f"prompt {n}",
            "targets": f"answer {n}",
            "language": "in words",
            "language_code": list(AYA.values())[n % len(AYA)],
            "annotation_type": "original-annotations",
            "user_id": "x",
        },
    ),
}


@pytest.fixture
def catalog() -> dict[str, CorpusDataset]:
    return {name: entry.dataset for name, entry in read([], ROOT).corpora.items() if entry.dataset is not None}


def test_every_data_set_of_the_catalog_is_tried_below(catalog):
    elsewhere = {"lens-probing", "lens-manipulation", "flores"}  # test_published_choices, test_translation
    assert catalog.keys() == ON_THE_HUB.keys() | elsewhere
    assert catalog["aya"].revision == "f9ea04583f02a8f86404ff6c58bf75fe637df8a2"
    assert catalog["aya"].languages == AYA


@pytest.mark.parametrize("corpus", ON_THE_HUB)
def test_the_hub_is_asked_for_name_configuration_split_and_revision(tmp_path, monkeypatch, catalog, corpus):
    source, (name, row) = catalog[corpus], ON_THE_HUB[corpus]
    asked = []

    def load(*args: object, **kwargs: object) -> list[dict]:
        asked.append((args, kwargs))
        return [row(n) for n in range(4000)]

    monkeypatch.setattr("datasets.load_dataset_builder", opening(load))
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, name: SimpleNamespace(sha=NEWEST))
    for language in source.languages:
        output = tmp_path / f"{language}.jsonl"
        alone = source.model_copy(update={"languages": {language: source.languages[language]}})
        pair_dataset(alone, language, None, output)
        config = {"aya": "default", "bactrian-x": language}[corpus]
        revision = source.revision or NEWEST
        assert asked.pop() == ((name, config), {"split": "train", "revision": revision})
        written = read_jsonl(output)
        assert [item["split"] for item in written].count("train") == {"aya": 300}.get(corpus, 200)
        assert all(item["prompt"] for item in written)
        assert all(("answer" in item) == (source.answer is not None) for item in written)
        assert read_json(output.with_suffix(".source.json"))["revision"] == revision


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (
            DatasetNotFoundError("Dataset 'CohereForAI/aya_dataset' is a gated dataset on the Hub."),
            "the hub wants its terms accepted; do that on its page and set HF_TOKEN",
        ),
        (
            DatasetNotFoundError(
                f"Revision '{NEWEST}' doesn't exist for dataset 'CohereForAI/aya_dataset' on the Hub."
            ),
            "the hub has no such revision; set it to another commit, or to null for the newest",
        ),
        (
            DatasetNotFoundError("Dataset 'CohereForAI/aya_dataset' doesn't exist on the Hub or cannot be accessed."),
            "the hub has no such data set, or it is private; check its name, or set HF_TOKEN",
        ),
        (
            ConnectionError("no route\nto host"),
            r"cannot be fetched from the hub \(no route to host\); check name, revision and network, or set LENSFLOW_",
        ),
    ],
)
def test_what_the_hub_refuses(tmp_path, monkeypatch, catalog, refusal, message):
    def load(*args: object, **kwargs: object) -> list[dict]:
        raise refusal

    monkeypatch.setattr("datasets.load_dataset_builder", opening(load))
    where = r"^corpus CohereForAI/aya_dataset \(default, train\), language 'zh': "
    with pytest.raises(LensflowError, match=where + message) as error:
        pair_dataset(catalog["aya"], "zh", None, tmp_path / "zh.jsonl")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
