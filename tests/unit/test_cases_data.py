"""Data as it comes: files of several kinds, lists and dictionaries in columns, gaps, duplicates, leaks of answers."""

import gzip
import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensflow.artifacts.hub import load_split, local_copy, local_files
from lensflow.artifacts.items import folded, id_at, identity, is_blank, read_items, text_at
from lensflow.artifacts.tables import read_rows
from lensflow.artifacts.texts import Text, check_aligned, read_corpus
from lensflow.benchmarks.dataset_generation import DatasetGeneration
from lensflow.errors import LensflowError
from lensflow.schema.corpus import CorpusDataset
from lensflow.schema.dataset import Dataset, LanguageEntry
from lensflow.schema.parsing import parse
from lensflow.stages import pair_data
from lensflow.stages.fetch_items import fetch, fetched
from lensflow.stages.pair_data import joined, pair_dataset, paired
from lensflow.storage.verified import read_json, read_jsonl

ROWS = [{"n": str(number), "text": f"Was ist „{number}“,\nbitte?"} for number in range(4)]


def rows(path: Path, items: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return path


def hub_set(root: Path, name: str, split: str = "train", **configurations: list[dict[str, Any]]) -> None:
    card = "---\nconfigs:\n"
    for config, items in configurations.items():
        rows(root / name / config / f"{split}.jsonl", items)
        card += f"- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {config}/{split}.jsonl\n"
    (root / name / "README.md").write_text(card + "---\n")


# --- Files ------------------------------------------------------------------------------------------------------------


def as_csv(path: Path, delimiter: str = ",") -> None:
    lines = [delimiter.join(("n", "text")), *(f'{row["n"]}{delimiter}"{row["text"]}"' for row in ROWS)]
    path.write_bytes("\ufeff".encode() + ("\r\n".join(lines) + "\r\n").encode())


WRITERS = {
    "table.csv": as_csv,
    "table.tsv": lambda path: as_csv(path, "\t"),
    "table.json": lambda path: path.write_text(json.dumps(ROWS)),
    "table.jsonl": lambda path: rows(path, ROWS),
    "table.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_any_kind_has_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert list(read_rows(tmp_path / name, None, None, "here")) == ROWS


@pytest.mark.parametrize("name", ["table.csv", "table.tsv", "TABLE.CSV"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_cells_may_stand_between_other_marks(tmp_path, name, delimiter):
    """Spreadsheets write what is usual in the user's country, whatever the file is called."""
    as_csv(tmp_path / name, delimiter)
    assert list(read_rows(tmp_path / name, None, None, "here")) == ROWS


def test_spaces_around_the_names_of_columns_are_no_part_of_them(tmp_path):
    (tmp_path / "t.csv").write_text("n , text\n1,a\n")
    assert list(read_rows(tmp_path / "t.csv")) == [{"n": "1", "text": "a"}]


def test_a_map_of_parquet_is_a_dictionary(tmp_path):
    schema = pa.schema([("t", pa.map_(pa.string(), pa.string()))])
    pq.write_table(pa.Table.from_pylist([{"t": [("en", "Hi?"), ("sw", "Je?")]}], schema=schema), tmp_path / "t.parquet")
    assert list(read_rows(tmp_path / "t.parquet")) == [{"t": {"en": "Hi?", "sw": "Je?"}}]


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_inside_of_an_archive(tmp_path, name):
    WRITERS[name](tmp_path / name)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / name, f"sets/{name}")
        archive.writestr("README.md", "about")
        archive.writestr(f"sets/._{name}", b"\x00what macOS writes beside a file")
    assert list(read_rows(tmp_path / "all.zip", f"sets/{name}", None, "here")) == ROWS
    assert list(read_rows(tmp_path / "all.zip", None, None, "here")) == ROWS  # it is the only table
    with pytest.raises(
        LensflowError, match=rf"^here: .*all\.zip: no file other\.csv in it; it has sets/{name}; set file$"
    ):
        list(read_rows(tmp_path / "all.zip", "other.csv", None, "here"))


def test_a_packed_file_inside_of_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("t.csv.gz", gzip.compress(b"n,text\n1,a\n"))
    assert list(read_rows(tmp_path / "all.zip")) == [{"n": "1", "text": "a"}]


def test_lines_of_a_text_file(tmp_path):
    (tmp_path / "en.txt").write_bytes("\ufeffWhy does it rain?\r\n\n  How is bread made? \n".encode())
    expected = [{"text": "Why does it rain?"}, {"text": "How is bread made?"}]
    assert list(read_rows(tmp_path / "en.txt", None, None, "here")) == expected
    as_csv(tmp_path / "t.csv")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "en.txt", "data/en.txt")
        archive.write(tmp_path / "t.csv", "t.csv")
    assert list(read_rows(tmp_path / "all.zip", "data/en.txt", None, "here")) == expected
    assert list(read_rows(tmp_path / "all.zip", None, None, "here")) == ROWS  # a text is no table, unless it is named


def test_rows_below_a_field(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"about": "x", "Instances": ROWS}))
    assert list(read_rows(path, None, "Instances", "here")) == ROWS
    for field in (None, "Rows"):
        with pytest.raises(LensflowError, match=r"^here: .*table\.json: .*; set field to one of Instances$"):
            list(read_rows(path, None, field, "here"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a,b\n1,2,3\n", r"t\.csv, line 2: more or fewer cells than columns; correct the line$"),
        ("t.csv", "a,b\n1\n", r"t\.csv, line 2: more or fewer cells than columns; correct the line$"),
        ("t.csv", "a,b,a\n1,2,3\n", r"t\.csv: column 'a' occurs twice; rename one$"),
        ("t.csv", 'a,b\n1,"2" 3\n', r"t\.csv, line \d: cannot be read \(.*\); correct the line$"),
        ("t.json", '{"a": 1}\n3\n', r"t\.json, line 2: must be a mapping of columns to values; correct it$"),
        ("t.json", '{"a": \n', r"t\.json: cannot be read \(.*\); correct the file$"),
        ("t.jsonl", '{"a": 1}\n3\n', r"t\.jsonl, line 2: must be a mapping of columns to values; correct it$"),
        ("t.jsonl", '[{"a": 1}]\n', r"t\.jsonl, line 1: a list, not a row; write one row per line, or name .* \.json$"),
        ("t.jsonl", '{"a": \n', r"t\.jsonl, line 1: not valid JSON \(.*\); correct the line$"),
        ("t.json", "{}", r"t\.json: is not a list of rows; set field to the key that holds the rows$"),
        ("t.parquet", "PAR", r"t\.parquet: cannot be read \(.*\); correct the file$"),
        ("t.zip", "PK", r"t\.zip: cannot be read \(.*\); correct the file$"),
        ("t.xlsx", "PK", r"t\.xlsx: is none of \.csv, \.tsv, .*; save it as one of these$"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(LensflowError, match=rf"^here: .*{message}") as caught:
        list(read_rows(tmp_path / name, None, None, "here"))
    assert "\n" not in str(caught.value)


def test_a_packed_file_that_is_damaged_or_locked(tmp_path):
    packed = gzip.compress(b"".join(b"%d,%d\n" % (number, number**5) for number in range(2000)))
    (tmp_path / "t.csv.gz").write_bytes(packed[:200] + bytes(50) + packed[250:])
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("t.csv", "a,b\n1,2\n")
    locked = bytearray((tmp_path / "t.zip").read_bytes())
    locked[6] |= 1  # the flag of an encrypted member, in its own header and in the archive's
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "t.zip").write_bytes(locked)
    for name in ("t.csv.gz", "t.zip"):
        with pytest.raises(LensflowError, match=rf"{name}: cannot be read \(.*\); correct the file$"):
            list(read_rows(tmp_path / name))


def test_lines_in_a_file_called_json(tmp_path):
    """As many data sets of the hub have it."""
    rows(tmp_path / "table.json", ROWS)
    assert list(read_rows(tmp_path / "table.json", None, None, "here")) == ROWS


@pytest.mark.parametrize("path", ["data/table.xlsx", "table.doc", "me/table"])
def test_a_local_file_of_another_kind_is_named(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_bytes(b"PK")
    assert local_copy(path, None) == Path(path)
    with pytest.raises(LensflowError, match=rf"{path}: is none of \.csv, \.tsv, .*; save it as one of these$"):
        fetched("mine", Dataset(path=path, columns=("text",)), "de", "de", None)


@pytest.mark.parametrize("id_", ["", "  ", None, float("nan")])
def test_an_item_without_an_id_is_refused(tmp_path, id_):
    rows(tmp_path / "me/set.jsonl", [{"n": "1", "de": "Eins"}, {"n": id_, "de": "Zwei"}])
    source = CorpusDataset(path="me/set.jsonl", layout="columns", languages={"de": "de"}, train=2, id="n")
    with pytest.raises(LensflowError, match=r"item 2: no id in column 'n'; fill it, or set id to another column$"):
        paired(source, "de", tmp_path)


def test_what_data_frames_write_for_nothing_is_no_text(tmp_path):
    rows(tmp_path / "me/set.jsonl", [{"text": "Eins"}, {"text": float("nan")}])
    corpus = CorpusDataset(path="me/set.jsonl", layout="columns", languages={"de": "text"}, train=2)
    with pytest.raises(LensflowError, match=r"item 2: the prompt is empty"):
        paired(corpus, "de", tmp_path)
    with pytest.raises(LensflowError, match=r"item 2: column 'text' is empty"):
        fetched("mine", Dataset(path="me/set.jsonl", columns=("text",)), "de", "de", tmp_path)


def test_text_in_another_encoding(tmp_path):
    (tmp_path / "t.csv").write_bytes("a\nStraße\n".encode("latin-1"))
    with pytest.raises(LensflowError, match=r"t\.csv: not UTF-8 text; save it as UTF-8$"):
        list(read_rows(tmp_path / "t.csv", None, None, "here"))


def test_a_benchmark_and_a_corpus_may_be_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "data/mine", tmp_path / "root/me"):
        folder.mkdir(parents=True)
        as_csv(folder / "table.csv")
    for path, root in (("data/mine/table.csv", None), ("me/table.csv", tmp_path / "root")):
        assert local_files(path, root) == [local_copy(path, root)]
        source = Dataset(path=path, columns=("text",), id="n")
        assert list(fetched("mine", source, "de", "de", root).items) == ["0", "1", "2", "3"]
        corpus = CorpusDataset(path=path, layout="columns", languages={"de": "text"}, train=3, id="n")
        assert [row["prompt"] for row in paired(corpus, "de", root).rows] == [row["text"] for row in ROWS[:3]]


def test_a_file_of_a_data_set_for_each_language_and_split(tmp_path):
    for name in ("de.test", "de.train"):
        rows(tmp_path / f"me/set/{name}.jsonl", [{"text": f"{name} {n}"} for n in range(2)])
    keys = {"path": "me/set", "columns": ["text"], "file": "{config}.{split}.jsonl", "fewshot_split": "train"}
    found = fetched("mine", parse(Dataset, keys), "de", "de", tmp_path)
    assert [row["text"] for row in found.items.values()] == ["de.test 0", "de.test 1"]
    assert [row["text"] for row in found.fewshot.values()] == ["de.train 0", "de.train 1"]
    with pytest.raises(LensflowError, match=r"me/set has no file fr\.test\.jsonl; correct file, or put the data set"):
        fetched("mine", parse(Dataset, keys), "fr", "fr", tmp_path)
    with pytest.raises(LensflowError, match="name each split's by"):
        parse(Dataset, keys | {"file": "{config}.jsonl"})


def test_a_file_on_the_hub_is_asked_for_by_its_revision(tmp_path, monkeypatch):
    asked = []

    def download(*args: Any, **kwargs: Any) -> str:
        asked.append((args, kwargs))
        return str(tmp_path / "all.zip")

    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("de.csv", "text\nHallo\n")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found, revision = load_split("me/set", "de", "test", None, "a" * 40, "here", "all.zip/{config}.csv")
    assert (list(found), revision) == ([{"text": "Hallo"}], "a" * 40)
    assert asked == [(("me/set", "all.zip"), {"repo_type": "dataset", "revision": "a" * 40})]


@pytest.mark.parametrize("path", ["../x.csv", "/etc/x.csv", "a/../x.csv", "a/b/c", "a/b/c.txt", ".x.csv"])
def test_a_path_cannot_leave_its_folder(path):
    with pytest.raises(LensflowError):
        parse(Dataset, {"path": path, "columns": ["text"]})


# --- The published files ----------------------------------------------------------------------------------------------

PUBLISHED = Path(__file__).parents[2] / "../shared/published"


def test_the_catalog_reads_files_of_the_published_form(tmp_path):
    """Of the form only: a few invented rows where the authors' repositories have theirs."""
    from lensflow.workflow.experiment import read

    config = read([], Path(__file__).parents[2])
    codes = ("en", "zh", "ja", "ko", "ar", "bn", "sw")
    instances = [{"output": ""} | {f"input_{code}": f"{code} {n}\n" for code in codes} for n in range(200)]
    texts = [{code: f"{code} text {n}" for code in codes} for n in range(300)]
    manipulation, probing = (config.corpora[f"lens-{name}"].dataset for name in ("manipulation", "probing"))
    folder = tmp_path / "lens-official"
    for source in (manipulation, probing):
        (folder / source.file).parent.mkdir(parents=True)
    (folder / manipulation.file).write_text(json.dumps({"Definition": [""], "Instances": instances}))
    rows(folder / probing.file, texts)
    assert [row["prompt"] for row in paired(manipulation, "sw", tmp_path).rows] == [f"sw {n}\n" for n in range(200)]
    assert [row["prompt"] for row in paired(probing, "bn", tmp_path).rows] == [f"bn text {n}" for n in range(300)]
    (tmp_path / "language-confusion").mkdir()
    with zipfile.ZipFile(tmp_path / "language-confusion/test_sets.zip", "w") as archive:
        archive.writestr("test_sets/monolingual/aya/ar.csv", 'prompt,source,language\n"مرحبا, ""أهلا""",aya,ar\n')
    benchmark = config.benchmarks["lcb-aya"]
    found = fetched("lcb-aya", benchmark.dataset, "ar", benchmark.languages["ar"].config, tmp_path)
    assert [item["prompt"] for item in found.items.values()] == ['مرحبا, "أهلا"']


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not here")
def test_every_set_of_the_published_archive_is_in_the_catalog(tmp_path):
    from lensflow.workflow.experiment import read

    (tmp_path / "language-confusion").symlink_to(PUBLISHED / "language-confusion")
    config = read([], Path(__file__).parents[2])
    found = {}
    for name in ("native", "aya", "dolly", "okapi"):
        benchmark = config.benchmarks[f"lcb-{name}"]
        for language, entry in benchmark.languages.items():
            found[name, language] = len(fetched(name, benchmark.dataset, language, entry.config, tmp_path).items)
    with zipfile.ZipFile(PUBLISHED / "language-confusion/test_sets.zip") as archive:
        names = [Path(name) for name in archive.namelist() if "/monolingual/" in name and name.endswith(".csv")]
    assert found.keys() == {(path.parent.name, path.stem) for path in names}
    assert set(found.values()) == {100}


# --- Columns that hold more than text ---------------------------------------------------------------------------------

NESTED = {"turns": [{"text": "Hi?"}, {"text": "Yes."}], "translation": {"en": "Hi?", "sw": None}, "a.b": "flat", "n": 3}
NESTED |= {"raw": b"Hi?", "yes": True}


@pytest.mark.parametrize(
    ("column", "text"),
    [("turns.0.text", "Hi?"), ("translation.en", "Hi?"), ("translation.sw", ""), ("a.b", "flat"), ("n", "3")],
)
def test_a_path_into_a_column(column, text):
    assert text_at(NESTED, column, "here") == text


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("turns", r"^here: column 'turns' holds a list of 2, not text; name a part of it, such as 'turns\.0'$"),
        (
            "turns.0",
            r"^here: column 'turns\.0' holds a dictionary of text, not text; .* 'turns\.0\.text'",
        ),
        ("translation", r"holds a dictionary of en, sw, not text; name a part of it, such as 'translation\.en'$"),
        (
            "translation.fr",
            r"^here: no 'fr' of 'translation\.fr' in column 'translation'; it holds a dictionary",
        ),
        ("turns.5.text", r"no '5' of 'turns\.5\.text' in column 'turns'; it holds a list of 2$"),
        ("n.x", r"no 'x' of 'n\.x' in column 'n'; it holds no list or dictionary"),
        ("other", r"^here: no column 'other'; it has turns, translation, a\.b, n, raw, yes; correct the row or"),
        ("raw", r"^here: column 'raw' holds b'Hi\?', not text; choose or convert another$"),
        ("yes", r"^here: column 'yes' holds True, not text; choose or convert another$"),
    ],
)
def test_what_is_no_text_is_refused_by_name(column, message):
    with pytest.raises(LensflowError, match=message):
        text_at(NESTED, column, "here")


def nested_corpus(**changes: Any) -> CorpusDataset:
    keys = {
        "path": "me/nested",
        "config": "all",
        "layout": "columns",
        "languages": {"en": "t.en", "sw": "t.sw"},
        "train": 2,
    }
    return parse(CorpusDataset, keys | changes)


def test_a_corpus_takes_paths_and_refuses_the_rest(tmp_path):
    items = [{"t": {"en": f"What is {n}?", "sw": f"Nini {n}?"}, "turns": [f"{n}"]} for n in range(2)]
    hub_set(tmp_path, "me/nested", all=items)
    assert [row["prompt"] for row in paired(nested_corpus(), "sw", tmp_path).rows] == ["Nini 0?", "Nini 1?"]
    with pytest.raises(LensflowError, match=r"language 'en', item 1: column 't' holds a dictionary of en, sw"):
        paired(nested_corpus(languages={"en": "t"}), "en", tmp_path)
    by_template = {"layout": "configs", "config": None, "languages": {"en": "all"}}
    assert paired(nested_corpus(**by_template, prompt="{turns.0}!"), "en", tmp_path).rows[1]["prompt"] == "1!"
    with pytest.raises(LensflowError, match=r"column 'turns' holds a list of 1, not text; name a part of it"):
        paired(nested_corpus(**by_template, prompt="{turns}"), "en", tmp_path)


def test_a_benchmarks_prompt_is_text(tmp_path):
    hub_set(tmp_path, "me/turns", "test", en=[{"prompt": ["Name birds.", "Which swim?"]}])
    keys = {
        "kind": "dataset_generation",
        "dataset": {"path": "me/turns", "columns": ["prompt"]},
        "languages": {"en": "en"},
    }
    wrong, right = parse(DatasetGeneration, keys), parse(DatasetGeneration, keys | {"prompt": "prompt.0"})
    with pytest.raises(LensflowError, match=r"item 1: column 'prompt' holds a list of 2, not text"):
        fetched("turns", wrong.dataset, "en", "en", tmp_path, wrong.texts())
    assert fetched("turns", right.dataset, "en", "en", tmp_path, right.texts()).items


# --- Gaps and duplicates ----------------------------------------------------------------------------------------------


def gapped(root: Path, **changes: Any) -> CorpusDataset:
    names = {"en": range(1, 9), "sw": (1, 2, 4, 5, 6, 7, 8, 9), "fr": (2, 1, 3, 4, 6, 5, 7, 8)}
    configurations = {code: [{"id": n, "text": f"{code} {n}"} for n in numbers] for code, numbers in names.items()}
    hub_set(root, "me/gaps", **configurations)
    keys = {
        "path": "me/gaps",
        "layout": "configs",
        "languages": {"en": "en", "sw": "sw"},
        "prompt": "{text}",
        "id": "id",
    }
    return parse(CorpusDataset, keys | {"train": 5, "dev": 1, "test": 1} | changes)


def test_translations_are_joined_on_their_ids(tmp_path, caplog):
    source = gapped(tmp_path)
    joined = {language: paired(source, language, tmp_path) for language in ("en", "sw")}
    for language, found in joined.items():
        assert [row["id"] for row in found.rows] == ["1", "2", "4", "5", "6", "7", "8"]
        assert [row["prompt"] for row in found.rows] == [f"{language} {row['id']}" for row in found.rows]
        assert [row["split"] for row in found.rows] == ["train"] * 5 + ["dev", "test"]
        assert found.left_out == 1
    assert "'sw' lacks item '3'" in caplog.text


def test_translations_in_another_order_are_joined_too(tmp_path):
    source = gapped(tmp_path, languages={"en": "en", "fr": "fr"}, train=6)
    joined = {language: paired(source, language, tmp_path).rows for language in ("en", "fr")}
    assert [row["id"] for row in joined["en"]] == [row["id"] for row in joined["fr"]]
    assert {row["id"] for row in joined["fr"]} == set("12345678")
    assert all(row["prompt"] == f"fr {row['id']}" for row in joined["fr"])


def test_too_few_translations_name_the_gaps(tmp_path):
    with pytest.raises(
        LensflowError,
        match=r"language 'en': 7 items, 8 are asked for; 'sw' lacks item '3'; 'en' lacks item '9'; lower train, dev",
    ):
        paired(gapped(tmp_path, train=6), "sw", tmp_path)


@pytest.mark.parametrize("form", [str, float, lambda n: f" {n} ", lambda n: f"{n}.0"])
def test_ids_are_the_same_as_numbers_and_as_text(tmp_path, form):
    configurations = {"en": range(4), "sw": map(form, range(4))}
    hub_set(
        tmp_path, "me/ids", **{c: [{"id": i, "text": f"{c} {i}"} for i in ids] for c, ids in configurations.items()}
    )
    keys = {"path": "me/ids", "layout": "configs", "languages": {"en": "en", "sw": "sw"}, "prompt": "{text}"}
    source = parse(CorpusDataset, keys | {"id": "id", "train": 4})
    assert [row["id"] for row in paired(source, "sw", tmp_path).rows] == list("0123")


def test_without_ids_languages_have_the_same_number_of_rows(tmp_path):
    """With a gap at the beginning every pair would be of two different items."""
    source = gapped(tmp_path, id=None)
    assert len(paired(source, "sw", tmp_path).rows) == 7
    hub_set(
        tmp_path, "me/gaps", en=[{"text": f"en {n}"} for n in range(9)], sw=[{"text": f"sw {n}"} for n in range(1, 9)]
    )
    with pytest.raises(LensflowError, match=r"9 rows, and 'sw' has 8; without ids, rows with the same number count"):
        paired(source, "sw", tmp_path)
    assert len(paired(gapped(tmp_path, id=None, aligned=False), "sw", tmp_path).rows) == 7


def test_a_language_that_no_row_has_is_named(tmp_path):
    hub_set(tmp_path, "me/rows", all=[{"lang": "EN", "text": "One?"}, {"lang": "SW", "text": "Moja?"}])
    keys = {"path": "me/rows", "layout": "rows", "language": "lang", "languages": {"en": "EN", "sw": "sw"}, "train": 1}
    with pytest.raises(LensflowError, match=r"column 'lang' never holds 'sw'; it holds EN, SW; correct languages$"):
        paired(parse(CorpusDataset, keys | {"prompt": "{text}"}), "en", tmp_path)


def test_texts_that_are_not_translated_are_refused(tmp_path):
    items = [
        {"en": f"What is {n}?", "sw": f"what is {n}?" if n else "Nini 0?", "en_GB": f"What is {n}?"} for n in range(4)
    ]
    hub_set(tmp_path, "me/same", all=items)
    keys = {"path": "me/same", "config": "all", "layout": "columns", "train": 4}
    with pytest.raises(LensflowError, match=r"3 of 4 texts are the same in 'en' and 'sw'; translate them, or give"):
        paired(parse(CorpusDataset, keys | {"languages": {"en": "en", "sw": "sw"}}), "en", tmp_path)
    paired(
        parse(CorpusDataset, keys | {"languages": {"en": "en", "en-GB": "en_GB"}}), "en", tmp_path
    )  # may be the same
    for split in ("train", "dev", "test"):
        rows(
            tmp_path / f"folder/{split}.jsonl", [{"id": split, "prompt": {"en": f"In {split}?", "sw": f"In {split}?"}}]
        )
    with pytest.raises(LensflowError, match=r"3 of 3 texts are the same in 'en' and 'sw'"):
        read_corpus(tmp_path / "folder")


@pytest.mark.parametrize("text", ["", " \u3000", "\u200b\u200f", "\ufeff", "nan", "NaN", "None", "null", "<NA>", "NA"])
def test_a_prompt_of_which_nothing_can_be_read_is_refused(tmp_path, text):
    hub_set(tmp_path, "me/table", all=[{"en": "One?"}, {"en": text}])
    keys = {"path": "me/table", "config": "all", "layout": "columns", "languages": {"en": "en"}, "train": 2}
    with pytest.raises(LensflowError, match=r"item 2: the prompt is empty"):
        paired(parse(CorpusDataset, keys), "en", tmp_path)


@pytest.mark.parametrize("text", ["\u3164", "\u2800\u2800", "\a\x1b", "\ufe0f", "\u0301"])
def test_a_text_that_shows_nothing_is_blank(text):
    """Fillers, control characters, marks without a letter."""
    assert is_blank(text)
    assert not any(map(is_blank, (f"{text}a", "…", "?", "7", "🙂", "雨")))


@pytest.mark.parametrize("form", [json.dumps, str])
def test_lists_that_were_written_as_text_are_refused(tmp_path, form):
    """As data frames write a column of lists into a CSV file."""
    turns = [{"q": form([{"role": "user", "content": f"How high is hill {n}?"}])} for n in range(3)]
    rows(tmp_path / "me/set/test.jsonl", turns)
    said = r"every text is a list or dictionary written as text, such as .*; name a column of plain text$"
    corpus = {"path": "me/set", "layout": "columns", "languages": {"en": "q"}, "split": "test", "train": 3}
    with pytest.raises(LensflowError, match=rf"^corpus me/set \(default, test\), language 'en': {said}"):
        paired(parse(CorpusDataset, corpus), "en", tmp_path)
    source = parse(Dataset, {"path": "me/set", "columns": ["q"]})
    with pytest.raises(LensflowError, match=rf"^benchmarks\.b: data set me/set \(default, test\): column 'q': {said}"):
        fetched("b", source, "en", "default", tmp_path, ["q"])
    rows(tmp_path / "me/set/test.jsonl", [*turns, {"q": "Why?"}])
    assert len(paired(parse(CorpusDataset, corpus | {"train": 4}), "en", tmp_path).rows) == 4


def test_two_languages_with_one_value_are_refused():
    keys = {"path": "me/set", "layout": "rows", "language": "lang", "languages": {"en": "eng", "sw": "eng"}, "train": 1}
    with pytest.raises(LensflowError, match="languages: 'eng' stands for two languages; the rows of one language have"):
        parse(CorpusDataset, keys)


def test_a_table_without_rows_is_named(tmp_path):
    (tmp_path / "me").mkdir()
    (tmp_path / "me/none.csv").write_text("en,sw\n")
    keys = {"path": "me/none.csv", "layout": "columns", "languages": {"en": "en", "sw": "sw"}, "train": 1}
    with pytest.raises(LensflowError, match=r"language 'en': no rows; choose another split, or fill it$"):
        paired(parse(CorpusDataset, keys), "en", tmp_path)


@pytest.mark.parametrize("answer", ["", "  ", None])
def test_an_item_without_an_answer_is_left_out_and_counted(tmp_path, caplog, answer):
    """As Alpaca and its translations have some: a model would learn to say nothing."""
    hub_set(tmp_path, "me/table", all=[{"en": "One?", "a": answer}, {"en": "Two?", "a": "none"}])
    keys = {"path": "me/table", "config": "all", "layout": "columns", "languages": {"en": "en"}, "answer": "{a}"}
    found = paired(parse(CorpusDataset, keys | {"train": 1}), "en", tmp_path)
    assert [(row["id"], row["answer"]) for row in found.rows] == [("1", "none")]
    assert found.left_out == 1
    assert "1 of the items that were read are left out: no answer to item '0'" in caplog.text
    with pytest.raises(LensflowError, match=r"1 items, 2 are asked for; no answer to item '0'; lower train, dev or"):
        paired(parse(CorpusDataset, keys | {"train": 2}), "en", tmp_path)


def test_an_aligned_corpus_is_read_once_for_all_languages(tmp_path, monkeypatch):
    opened: list[str] = []

    def load(name: str, config: str, *rest: Any) -> Any:
        opened.append(config)
        return load_split(name, config, *rest)

    monkeypatch.setattr(pair_data, "load_split", load)
    found = joined(gapped(tmp_path), ["en", "sw"], tmp_path)
    assert opened == ["en", "sw"]
    assert [row["id"] for row in found["en"].rows] == [row["id"] for row in found["sw"].rows]


def test_what_is_not_aligned_is_not_joined(tmp_path):
    source = gapped(tmp_path, aligned=False)
    assert [row["id"] for row in paired(source, "en", tmp_path).rows] == list("1234567")


def test_the_gaps_are_written_down(tmp_path):
    output = tmp_path / "out/sw.jsonl"
    pair_dataset(gapped(tmp_path), "sw", tmp_path, output)
    assert read_json(output.with_suffix(".source.json"))["left_out"] == 1
    assert len(read_jsonl(output)) == 7


def test_languages_out_of_step_name_the_item():
    texts = {
        code: [Text(id_, "train", f"{code} {id_}", 1) for id_ in ids] for code, ids in (("en", "123"), ("sw", "124"))
    }
    with pytest.raises(
        LensflowError, match=r"^en and sw do not hold the same items in the same order: '3' in place of '4'"
    ):
        check_aligned(texts)


@pytest.mark.parametrize(
    "again",
    ["Why does it sink?", "  why DOES it\tsink? ", "\ufeffWhy does it sink?\u200f", "Why do\u00ades it \u200bsink?"],
)
def test_a_text_of_train_in_test_is_refused(tmp_path, again):
    texts = ["Why does it sink?", "Two?", "Three?", again]
    hub_set(tmp_path, "me/table", all=[{"en": text} for text in texts])
    keys = {"path": "me/table", "config": "all", "layout": "columns", "languages": {"en": "en"}, "train": 2, "dev": 1}
    assert len(paired(parse(CorpusDataset, keys), "en", tmp_path).rows) == 3
    with pytest.raises(LensflowError, match=r"language 'en': item '3' of test has the prompt of item '0' of train"):
        paired(parse(CorpusDataset, keys | {"test": 1}), "en", tmp_path)


def test_repeats_within_a_split_are_the_authors_business(tmp_path):
    hub_set(tmp_path, "me/table", all=[{"en": "One?"}, {"en": "One?"}, {"en": "Two?"}])
    keys = {"path": "me/table", "config": "all", "layout": "columns", "languages": {"en": "en"}, "train": 2, "test": 1}
    assert len(paired(parse(CorpusDataset, keys), "en", tmp_path).rows) == 3


def test_a_folder_with_a_text_in_two_splits_is_refused(tmp_path):
    for split, text in (("train", "Caf\u00e9 au lait?"), ("dev", "Two?"), ("test", "cafe\u0301  AU lait?")):
        rows(tmp_path / f"{split}.jsonl", [{"id": split, "prompt": {"fr": text}}])
    with pytest.raises(
        LensflowError, match=r"test\.jsonl, line 1: the fr prompt is the same as in .*train\.jsonl, line 1"
    ):
        read_corpus(tmp_path)
    rows(
        tmp_path / "test.jsonl",
        [{"id": "test", "prompt": {"fr": "Th\u00e9?"}}, {"id": "more", "prompt": {"fr": "TH\u00c9?"}}],
    )
    assert len(read_corpus(tmp_path)["test"]) == 2


def test_texts_are_compared_composed_and_without_case_and_space():
    assert folded(" STRASSE \u00c9\n") == folded("stra\u00dfe e\u0301") != folded("strase e")
    assert identity({"a": "X ", "b": 1, "c": 2}, ("a", "b")) == identity({"a": "x", "b": 1}, ("a", "b"))
    assert identity({"a": "x", "b": 1}, ("a", "b")) != identity({"a": "x", "b": 2}, ("a", "b"))


# --- Examples ---------------------------------------------------------------------------------------------------------


def with_examples(root: Path, examples: list[str]) -> Dataset:
    rows(root / "me/shots/test.jsonl", [{"q": "One?", "a": 1}, {"q": "Two?", "a": 2}])
    rows(root / "me/shots/train.jsonl", [{"q": text, "a": len(text)} for text in examples])
    return Dataset(path="me/shots", file="{split}.jsonl", columns=("q",), fewshot_split="train")


def test_an_example_that_is_an_evaluated_item_is_left_out_and_counted(tmp_path, caplog):
    output = tmp_path / "out/en.jsonl"
    fetch(
        "mine",
        with_examples(tmp_path, ["Three?", " one? ", "Four?"]),
        "en",
        LanguageEntry(config="en"),
        tmp_path,
        output,
    )
    assert [item["q"] for item in read_items(output, "fewshot").values()] == ["Three?", "Four?"]
    assert len(read_items(output)) == 2
    assert read_json(output.with_suffix(".source.json"))["fewshot_left_out"] == 1
    assert "1 examples are left out, which are evaluated items" in caplog.text


def test_a_split_of_evaluated_items_alone_is_refused(tmp_path):
    with pytest.raises(LensflowError, match=r"^benchmarks\.mine\.dataset\.fewshot_split: num_fewshot would show"):
        fetched("mine", with_examples(tmp_path, ["Two?", "One?"]), "en", "en", tmp_path)


def test_the_evaluated_split_has_no_examples():
    keys = {"path": "me/shots", "columns": ["q"], "split": "test", "fewshot_split": "test"}
    with pytest.raises(LensflowError, match="fewshot_split: 'test' is the evaluated split, whose items num_fewshot"):
        parse(Dataset, keys)


def test_a_date_is_the_text_that_the_file_has(tmp_path):
    """Readers make a date of it, in a column that nobody may need."""
    (tmp_path / "me/set").mkdir(parents=True)
    rows = [{"q": "Which day?", "day": "2024-07-26", "at": "2024-07-26T12:30:00"}]
    (tmp_path / "me/set/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = fetched("b", parse(Dataset, {"path": "me/set", "columns": ["q"]}), "sw", "default", tmp_path)
    assert list(found.items.values()) == rows


def test_numbers_are_what_they_were_before_a_data_frame(tmp_path):
    """It has 18.0 for 18 where another row of the column is empty, which no answer would equal, and NaN for nothing."""
    nan = float("nan")
    items = [{"q": "How many?", "n": 18.0, "x": 2.0, "y": 2.0}, {"q": "Why?", "n": nan, "x": 1.0, "y": nan}]
    rows(tmp_path / "me/set.jsonl", [*items, {"q": "When?", "n": 7.0, "x": 3.0, "y": 0.5}])
    found = fetched("b", parse(Dataset, {"path": "me/set.jsonl", "columns": ["q"]}), "sw", "default", tmp_path)
    read = [[repr(item[name]) for item in found.items.values()] for name in ("n", "x", "y")]
    assert read == [["18", "None", "7"], ["2.0", "1.0", "3.0"], ["2.0", "None", "0.5"]]  # decimals stay as they are
    assert [text_at({"n": n}, "n", "here") for n in (18.0, 0.5, 7)] == ["18", "0.5", "7"]


def test_lines_with_a_cell_too_many_are_refused(tmp_path):
    """pandas reads the first cell as the name of the row, and shifts the other cells by one column."""
    (tmp_path / "me/set").mkdir(parents=True)
    (tmp_path / "me/set/test.csv").write_text("q,a\nWhat, then?,1\nWhy, then?,2\n")
    with pytest.raises(
        LensflowError, match=r"^benchmarks\.b: .*: the lines of its CSV file have more cells than columns"
    ):
        fetched("b", parse(Dataset, {"path": "me/set", "columns": ["q"]}), "sw", "default", tmp_path)


@pytest.mark.parametrize("value", [[b"x"], {"x": Decimal("1.5")}, [{"x": [b"x"]}]])
def test_what_cannot_be_written_is_refused_inside_of_a_column_too(tmp_path, value):
    (tmp_path / "me").mkdir()
    pq.write_table(pa.Table.from_pylist([{"q": "What?", "x": value}]), tmp_path / "me/set.parquet")
    name = "Decimal" if "Decimal" in str(value) else "bytes"
    with pytest.raises(
        LensflowError, match=rf"item 1: column 'x' holds {name}, not text or numbers; choose a data set"
    ):
        fetched("b", parse(Dataset, {"path": "me/set.parquet", "columns": ["q"]}), "sw", "default", tmp_path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": "me/rows.jsonl", "field": "rows"}, r"rows\.jsonl: has no fields, as a \.json file has; remove field"),
        (
            {"path": "me/rows.jsonl", "file": "other.csv"},
            r"rows\.jsonl: is no archive, which file could name a part of",
        ),
        ({"path": "me/set", "field": "rows"}, "field is a key of a JSON file; name the file by file, or remove field"),
        ({"path": "me/set", "file": "rows.csv", "field": "rows"}, r"rows\.csv: has no fields"),
    ],
)
def test_a_key_that_nothing_would_read_is_refused(tmp_path, keys, message):
    rows(tmp_path / "me/rows.jsonl", [{"q": "What?"}])
    rows(tmp_path / "me/set/test.jsonl", [{"q": "What?"}])
    (tmp_path / "me/set/rows.csv").write_text("q\nWhat?\n")
    with pytest.raises(LensflowError, match=message):
        fetched("b", parse(Dataset, {"columns": ["q"]} | keys), "sw", "default", tmp_path)


def test_a_prompt_beside_columns_of_prompts_is_refused():
    keys = {"path": "me/set", "layout": "columns", "languages": {"en": "en"}, "prompt": "Question: {en}", "train": 1}
    with pytest.raises(LensflowError, match="prompt: with layout columns, languages names the columns of the prompts"):
        parse(CorpusDataset, keys)


def test_a_file_without_rows_is_refused(tmp_path):
    (tmp_path / "me/set").mkdir(parents=True)
    (tmp_path / "me/set/test.jsonl").write_text("")
    with pytest.raises(LensflowError, match=r"the split has an empty file; fill or remove it$"):
        fetched("b", parse(Dataset, {"path": "me/set", "columns": ["q"]}), "sw", "default", tmp_path)


def test_an_empty_split_is_refused(tmp_path):
    (tmp_path / "me").mkdir()
    (tmp_path / "me/none.csv").write_text("text\n")
    with pytest.raises(LensflowError, match=r"^benchmarks\.mine: data set me/none\.csv \(de, test\): the split is"):
        fetched("mine", Dataset(path="me/none.csv", columns=("text",)), "de", "de", tmp_path)


def test_a_split_is_read_no_further_than_is_asked_for(tmp_path):
    """Splits of the hub can have more rows than a disk has room for."""
    folder = tmp_path / "me/big"
    folder.mkdir(parents=True)
    rows = "".join(json.dumps({"text": f"How high is hill {n}?"}) + "\n" for n in range(5))
    (folder / "train-0.jsonl").write_text(rows)
    (folder / "train-1.jsonl").write_text("{broken\n")
    source = {"path": "me/big", "layout": "configs", "languages": {"en": "default"}, "prompt": "{text}"}
    few = parse(CorpusDataset, source | {"train": 4})
    assert [row["id"] for row in paired(few, "en", tmp_path).rows] == ["0", "1", "2", "3"]
    with pytest.raises(LensflowError, match=r"^corpus me/big \(default, train\), .*cannot be read \(.*\); mend the"):
        paired(parse(CorpusDataset, source | {"train": 6}), "en", tmp_path)


def test_full_width_letters_and_digits_are_those_of_plain_width():
    assert folded("ＲＡＩＮ　１") == folded("rain 1")
    assert folded("x²") != folded("x2")
    assert id_at({"id": "１２"}, "id", "here") == "12"


def test_an_open_quote_is_named_by_the_line_that_it_opens_in(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,What?\n2,"Why?\n3,Who?\n')
    with pytest.raises(LensflowError, match=r"a\.csv, line 3: cannot be read \(unexpected end of data\)"):
        list(read_rows(tmp_path / "a.csv"))
