"""Items of local data sets, and every way in which they can be wrong."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from lensflow.artifacts.hub import datasets_root, load_split
from lensflow.artifacts.items import read_items
from lensflow.benchmarks.base import FromDataset
from lensflow.data import cldr
from lensflow.errors import LensflowError
from lensflow.schema.dataset import Dataset, LanguageEntry
from lensflow.stages.fetch_items import fetch
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_json
from lensflow.workflow.experiment import read
from tests.hub import opening

ROWS = [{"n": index, "question": f"q{index}?", "label": index % 2} for index in range(4)]


def write_dataset(root: Path, rows: list[dict[str, Any]], name: str = "my/set", config: str = "zz") -> None:
    folder = root / name
    write_jsonl(folder / config / "test.jsonl", rows)
    write_jsonl(folder / config / "train.jsonl", [{"n": 9, "question": "example?", "label": 1}])
    files = "".join(f"  - split: {split}\n    path: {config}/{split}.jsonl\n" for split in ("test", "train"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")


def fetched(root: Path | None, language: str = "sw", config: str = "zz", **changes: Any) -> Path:
    dataset = Dataset.model_validate({"path": "my/set", "columns": ["question"], "id": "n"} | changes)
    output = (root or Path()) / "out" / f"{language}.jsonl"
    fetch("mine", dataset, language, LanguageEntry(config=config), root, output)
    return output


def test_a_local_copy_is_opened_like_the_hubs_data_set(tmp_path):
    write_dataset(tmp_path, ROWS)
    output = fetched(tmp_path)
    assert read_items(output) == {str(row["n"]): row for row in ROWS}
    assert read_json(output.with_suffix(".source.json")) == {
        "path": "my/set",
        "config": "zz",
        "split": "test",
        "fewshot_split": None,
        "local": True,
        "revision": None,
    }


def test_examples_come_from_their_own_split(tmp_path):
    write_dataset(tmp_path, ROWS)
    output = fetched(tmp_path, fewshot_split="train")
    assert [item["question"] for item in read_items(output, "fewshot").values()] == ["example?"]
    assert len(read_items(output)) == 4


def test_changed_files_under_the_same_name_are_read_again(tmp_path):
    write_dataset(tmp_path, ROWS)
    fetched(tmp_path)
    write_dataset(tmp_path, ROWS[:1])
    assert list(read_items(fetched(tmp_path))) == ["0"]


def test_without_an_id_column_the_place_is_the_id(tmp_path):
    write_dataset(tmp_path, ROWS[2:])
    assert list(read_items(fetched(tmp_path, id=None))) == ["0", "1"]


def test_one_language_may_have_another_data_set(tmp_path):
    write_dataset(tmp_path, ROWS, "english/original")
    dataset = Dataset(path="my/set", columns=("question",))
    other = Dataset(path="english/original", columns=("question",), id="n")
    fetch("mine", dataset, "en", LanguageEntry(config="zz", dataset=other), tmp_path, tmp_path / "en.jsonl")
    assert len(read_items(tmp_path / "en.jsonl")) == 4


def test_generated_questions(tmp_path):
    output = fetched(tmp_path, "ja", "ja", path="embedded/cldr", columns=["question", "choices", "answer"], id="id")
    wanted = cldr.questions(["ja"])["ja"]
    assert [item["question"] for item in read_items(output).values()] == [question.question for question in wanted]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (ROWS, {"config": "yy"}, r"\(yy, test\): no configuration 'yy'; it has 'zz'$"),
        (ROWS, {"split": "dev"}, r"\(zz, dev\): no split 'dev'; it has 'test', 'train'$"),
        (ROWS, {"columns": ["answer"]}, r": no column 'answer'; it has label, n, question; correct the row"),
        (ROWS, {"id": "key"}, r": no column 'key'; it has label, n, question; correct the row"),
        ([*ROWS, ROWS[1]], {}, r": id '1' \(n\) occurs at items 2 and 5; rename or remove one$"),
        ([ROWS[0], ROWS[1] | {"question": None}], {}, r", item 2: column 'question' is empty; fill it or remove"),
        (ROWS, {"path": "not/there"}, r": cannot be fetched from the hub \(.+\); check name, .*LENSFLOW_DATASETS_ROOT"),
        (ROWS, {"path": "embedded/xcopa"}, r": the package generates no data set .* it has embedded/cldr$"),
        (ROWS, {"path": "embedded/cldr", "language": "yo"}, r": no language 'yo'; it has en, zh, ja, "),
    ],
)
def test_mistakes(tmp_path, monkeypatch, rows, changes, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_dataset(tmp_path, rows)
    with pytest.raises(LensflowError, match=rf"^benchmarks\.mine: data set .*{message}") as caught:
        fetched(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_empty_split(tmp_path):
    write_dataset(tmp_path, ROWS)
    (tmp_path / "my/set/zz/test.jsonl").write_text("")
    with pytest.raises(LensflowError, match=r"^benchmarks\.mine: data set my/set \(zz, test\): .+"):
        fetched(tmp_path)


def test_damaged_files(tmp_path):
    write_dataset(tmp_path, ROWS)
    (tmp_path / "my/set/zz/test.jsonl").write_text('{"n": 1, "question": ')
    with pytest.raises(LensflowError, match=r": cannot be read \(.+\); mend the files in .*my/set$"):
        fetched(tmp_path)


@pytest.mark.parametrize("path", ["../set", "a/../b", "/etc", "a/b/c", "a/.hidden", ".."])
def test_a_data_sets_name_cannot_leave_its_folder(path):
    with pytest.raises(ValidationError):
        Dataset(path=path, columns=("question",))


def test_the_root_is_the_configured_one_or_the_environments(monkeypatch):
    monkeypatch.setenv("LENSFLOW_DATASETS_ROOT", "/environment")
    assert datasets_root(None) == Path("/environment")
    assert datasets_root("/configured") == Path("/configured")
    monkeypatch.delenv("LENSFLOW_DATASETS_ROOT")
    assert datasets_root(None) is None


def test_a_hub_data_set_is_asked_for_by_name_configuration_split_and_revision(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    asked = []

    def load(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        asked.append((args, kwargs))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset_builder", opening(load))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: SimpleNamespace(sha="c" * 40))
    output = fetched(tmp_path, revision="a" * 40)
    assert asked == [(("my/set", "zz"), {"split": "test", "revision": "a" * 40})]
    assert json.loads(output.with_suffix(".source.json").read_text())["revision"] == "a" * 40
    output = fetched(tmp_path)
    assert asked[-1][1]["revision"] == "c" * 40  # the newest, which is written down
    assert json.loads(output.with_suffix(".source.json").read_text())["revision"] == "c" * 40


CATALOG = {
    name: entry
    for name, entry in read([], Path(__file__).parents[2]).benchmarks.items()
    if isinstance(entry, FromDataset) and not entry.dataset.path.startswith("embedded/") and not entry.dataset.file
}
COPA = {"premise", "choice1", "choice2", "question", "label", "idx"}
CHOICES = {f"mc_answer{number}" for number in range(1, 5)}
OPTIONS = {"question"} | {f"option_{letter}" for letter in "abcd"}
# Data set -> the split that is evaluated, and the columns of a row on the hub.
ON_THE_HUB = {
    "cambridgeltl/xcopa": ("test", COPA | {"changed"}),
    "aps/super_glue": ("validation", COPA),
    "Muennighoff/xwinograd": ("test", {"sentence", "option1", "option2", "answer"}),
    "juletxara/xstory_cloze": (
        "eval",
        {"story_id", "sentence_quiz1", "sentence_quiz2", "answer_right_ending"}
        | {f"input_sentence_{number}" for number in range(1, 5)},
    ),
    "alexandrainst/m_mmlu": ("test", {"id", "instruction", "option_a", "option_b", "option_c", "option_d", "answer"}),
    "HAERAE-HUB/KMMLU": ("test", {"question", "answer", "A", "B", "C", "D", "Category", "Human Accuracy"}),
    "facebook/belebele": (
        "test",
        CHOICES | {"link", "question_number", "flores_passage", "question", "correct_answer_num", "dialect", "ds"},
    ),
    "CohereLabs/include-base-44": ("test", OPTIONS | {"answer", "domain", "subject", "country", "level", "language"}),
    "CohereLabs/Global-MMLU": ("test", OPTIONS | {"answer", "sample_id", "subject", "subject_category"}),
    "CohereLabs/Global-MMLU-Lite": ("test", OPTIONS | {"answer", "sample_id", "subject", "subject_category"}),
    "li-lab/MMLU-ProX": (
        "test",
        {f"option_{number}" for number in range(10)}
        | {"question_id", "question", "answer", "answer_index", "cot_content", "category", "src"},
    ),
    "facebook/xnli": ("validation", {"premise", "hypothesis", "label"}),
    "google/xquad": ("validation", {"id", "context", "question", "answers"}),
    "jumelet/multiblimp": ("train", {"sen", "wrong_sen", "phenomenon"}),
    "juletxara/mgsm": ("test", {"question", "answer", "answer_number", "equation_solution"}),
    "lmsys/mt_bench": ("test", {"question_id", "category", "turns", "reference"}),
}
# What a benchmark's name begins with -> its data set; English XCOPA is COPA.
DATA_SETS = {
    "xcopa": "cambridgeltl/xcopa",
    "xwinograd": "Muennighoff/xwinograd",
    "xstorycloze": "juletxara/xstory_cloze",
    "m-mmlu": "alexandrainst/m_mmlu",
    "kmmlu": "HAERAE-HUB/KMMLU",
    "belebele": "facebook/belebele",
    "include": "CohereLabs/include-base-44",
    "global-mmlu-lite": "CohereLabs/Global-MMLU-Lite",
    "global-mmlu": "CohereLabs/Global-MMLU",
    "mmlu-prox": "li-lab/MMLU-ProX",
    "xnli": "facebook/xnli",
    "xquad": "google/xquad",
    "multiblimp": "jumelet/multiblimp",
    "mgsm": "juletxara/mgsm",
    "mt-bench": "lmsys/mt_bench",
}
# Where the hub's name of a configuration is not the language's code.
NAMED = {
    "xcopa en": "copa",
    "xwinograd ja": "jp",
    "belebele zh": "zho_Hans",
    "belebele sw": "swh_Latn",
    "belebele de": "deu_Latn",
    "include fil": "Tagalog",
    "include mk": "North Macedonian",
    "multiblimp ar": "arb",
    "xquad zh": "xquad.zh",
}
OWN_NAMES = {"belebele", "include", "multiblimp", "xquad"}


@pytest.mark.parametrize("name", CATALOG)
def test_a_benchmark_of_the_catalog_asks_the_hub_for_its_data_set(tmp_path, monkeypatch, name):
    import datasets
    import huggingface_hub

    asked = []
    entry = CATALOG[name]

    def load(path: str, config: str | None, **kwargs: Any) -> list[dict[str, Any]]:
        asked.append((path, config, kwargs))
        rows = [{column: f"{column} {n} {kwargs['split']}" for column in ON_THE_HUB[path][1]} for n in range(3)]
        return [row | entry.dataset.where for row in rows]

    monkeypatch.setattr(datasets, "load_dataset_builder", opening(load))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: SimpleNamespace(sha="c" * 40))
    for language, of_language in entry.languages.items():
        fetch(name, entry.dataset, language, of_language, None, tmp_path / f"{language}.jsonl")
        prefix = next(prefix for prefix in DATA_SETS if name.startswith(prefix))
        path = "aps/super_glue" if (prefix, language) == ("xcopa", "en") else DATA_SETS[prefix]
        subjects, config = entry.dataset.configs, asked[0][1]
        assert [config for _, config, _ in asked] == list(subjects or [config] * len(asked))
        for asked_path, _, kwargs in asked:
            assert (asked_path, kwargs["revision"]) == (path, "c" * 40)
        splits = [ON_THE_HUB[path][0], entry.dataset.fewshot_split]
        assert [kwargs["split"] for _, _, kwargs in asked] == [s for s in splits if s] * (len(subjects) or 1)
        if subjects:
            asked.clear()
            continue
        named = NAMED.get(f"{name} {language}") or NAMED.get(f"{prefix} {language}")
        assert config == (named or config)
        if prefix not in OWN_NAMES:
            assert config == (named or language)
        assert len(read_items(tmp_path / f"{language}.jsonl")) == 3
        asked.clear()


SCRIPT, CONVERSION = "a" * 40, "b" * 40


@pytest.fixture
def script_on_the_hub(monkeypatch):
    """A data set that is a script, and the hub's conversion of it; what the library was asked for."""
    import datasets
    import huggingface_hub

    asked = []

    def load(name: str, config: str | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        asked.append((name, config, kwargs))
        if kwargs["revision"] == SCRIPT:
            raise RuntimeError("Dataset scripts are no longer supported, but found set.py")
        if "data_files" not in kwargs:
            raise ValueError(f"BuilderConfig '{config}' not found. Available: ['default']")
        return ROWS

    def info(self: Any, name: str, revision: str | None = None) -> SimpleNamespace:
        if revision in (CONVERSION, "refs/convert/parquet"):
            files = [SimpleNamespace(rfilename=name) for name in (".gitattributes", "zz/test/0000.parquet")]
            return SimpleNamespace(sha=CONVERSION, siblings=files)
        return SimpleNamespace(sha=SCRIPT, siblings=[SimpleNamespace(rfilename="set.py")])

    monkeypatch.setattr(datasets, "load_dataset_builder", opening(load))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    return asked


@pytest.mark.parametrize("revision", [None, CONVERSION])
def test_of_a_data_set_that_is_a_script_the_hubs_conversion_is_taken(tmp_path, script_on_the_hub, revision):
    output = fetched(tmp_path, revision=revision)
    files = {"data_files": {"test": "zz/test/*.parquet"}, "split": "test", "revision": CONVERSION}
    assert script_on_the_hub[-1] == ("my/set", None, files)
    assert len(read_items(output)) == len(ROWS)
    assert json.loads(output.with_suffix(".source.json").read_text())["revision"] == CONVERSION


def test_a_script_that_is_asked_for_by_revision_is_not_exchanged(tmp_path, script_on_the_hub):
    with pytest.raises(LensflowError, match=r"is a script, which is not run.*set revision to a commit of its branch"):
        fetched(tmp_path, revision=SCRIPT)


@pytest.mark.parametrize(("config", "split"), [("yy", "test"), ("zz", "train")])
def test_what_a_conversion_lacks_is_not_taken_from_elsewhere(script_on_the_hub, config, split):
    with pytest.raises(LensflowError, match=f"no configuration '{config}'"):
        load_split("my/set", config, split, None, CONVERSION, "here")
    with pytest.raises(LensflowError, match=r"is a script.*no conversion of this configuration and split"):
        load_split("my/set", config, split, None, None, "here")
    assert all("data_files" not in asked for *_, asked in script_on_the_hub)


def test_a_data_set_that_names_the_columns_of_its_parquet_files(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "other": [1, 2]}), tmp_path / "train.parquet")
    files = "data_files: [{split: train, path: train.parquet}]"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  columns: [text]\n  {files}\n---\n")
    items, _ = load_split("my/set", None, "train", tmp_path, None, "here")
    assert list(items) == [{"text": "a"}, {"text": "b"}]
