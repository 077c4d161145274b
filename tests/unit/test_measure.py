import csv
import gzip
import json

import pytest

from lensflow.cli.main import main
from lensflow.errors import LensflowError
from lensflow.measures.files import measure

ROWS = [
    {
        "id": "a",
        "language": "sw",
        "prompt": "Maji ni nini?",
        "answer": "Maji ni kimiminika ambacho viumbe vyote hunywa.",
    },
    {"id": "b", "language": "sw", "prompt": "Maji ni nini?", "answer": "Water is a liquid that every animal drinks."},
    {"id": "c", "language": "de", "prompt": "Was ist Wasser?", "answer": ""},
]
KEYS = {"id", "outcome", "faithful", "loop", "copied", "empty", "usable", "line_pass", "word_pass"}


def write_jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path, rows=ROWS):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_same_from_json_lines_csv_and_gzip(tmp_path):
    paths = [write_jsonl(tmp_path / "a.jsonl"), write_csv(tmp_path / "a.csv")]
    for path in list(paths):
        zipped = path.with_name(f"{path.name}.gz")
        zipped.write_bytes(gzip.compress(path.read_bytes()))
        paths.append(zipped)
    results = []
    for path in paths:
        output = tmp_path / "rows.jsonl"
        table = measure(path, language_column="language", prompt_column="prompt", output=output)
        results.append((table, output.read_text(encoding="utf-8")))
    assert len(set(results)) == 1
    rows = [json.loads(line) for line in results[0][1].splitlines()]
    assert [(row["id"], row["outcome"]) for row in rows] == [("a", "usable"), ("b", "wrong_language"), ("c", "empty")]
    assert all(set(row) >= KEYS for row in rows)
    [header, german, swahili] = results[0][0].splitlines()
    assert header.split()[:2] == ["language", "n"] and header.split()[-2:] == ["line_pass", "word_pass"]
    assert "100.0 [20.7, 100.0]" in german and "50.0 [9.5, 90.5]" in swahili


def test_rows_without_an_id_have_their_number(tmp_path, capsys):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "Wasser ist eine Flüssigkeit."}] * 2)
    output = tmp_path / "rows.jsonl"
    arguments = ["measure", str(path), "--language", "de", "--answer-column", "text", "--output", str(output)]
    assert main(arguments) == 0
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [1, 2] and rows[0]["copied"] is None
    assert "de" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: no rows"),
        ("a.csv", b"id,answer\n", "a.csv: no rows"),
        ("a.jsonl", b'{"id": 1}\n', "row 1: no column 'answer'; it has id"),
        ("a.jsonl", b'{"answer": "x"}\n\n{"answer": 3}\n', "row 2: column 'answer' holds int"),
        ("a.jsonl", b"{\n", "line 1: not valid JSON"),
        ("a.jsonl", b"[1]\n", "line 1: a list, not a row; write one row per line, or name a file of one list .json"),
        ("a.jsonl", b'[\n{"answer": "x"}\n]\n', "line 1: a list, not a row; write one row per line"),
        ("a.json", b'[\n{"answer": "x"},\n]\n', r"a.json: cannot be read \(.*: line [23] "),
        ("a.jsonl", b'{"answer": "\xff"}\n', "a.jsonl: not UTF-8"),
        ("a.csv", b"answer\na,b\n", "line 2: more or fewer cells than columns"),
        ("a.csv", b"id,answer\n1,a\n2\n", "line 3: more or fewer cells than columns"),
        ("a.csv.gz", b"answer\n", "cannot be read \\(Not a gzipped file"),
        ("a.xyz", b"x", "is none of .csv"),
    ],
)
def test_a_mistake_says_where_it_is(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LensflowError, match=message) as error:
        measure(path, language="sw")
    assert "\n" not in str(error.value) and name in str(error.value)


def test_a_language_column_may_have_spaces_but_not_be_empty(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [ROWS[0] | {"language": " sw "}])
    assert measure(path, language_column="language").splitlines()[1].startswith("sw ")
    for empty in (None, "", " "):
        write_jsonl(path, [ROWS[0] | {"language": empty}])
        with pytest.raises(LensflowError, match="row 1: column 'language' is empty; write a language, such as 'sw'"):
            measure(path, language_column="language")


def test_an_unknown_language_and_a_missing_file(tmp_path, capsys):
    path = write_jsonl(tmp_path / "a.jsonl", [ROWS[0] | {"language": "jp"}])
    assert main(["measure", str(path), "--language-column", "language"]) == 2
    assert "row 1: language 'jp': unknown code; did you mean 'ja' (Japanese)?" in capsys.readouterr().err
    assert main(["measure", str(tmp_path / "b.csv"), "--language", "sw"]) == 2
    assert "b.csv: no such file" in capsys.readouterr().err


def test_the_answers_are_not_overwritten_and_mistakes_are_said_before_any_row_is_read(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl")
    before = path.read_bytes()
    with pytest.raises(LensflowError, match=r"a.jsonl: holds the answers, which would be lost; name another file"):
        measure(path, language="sw", output=tmp_path / "." / "a.jsonl")
    with pytest.raises(LensflowError, match=f"^{tmp_path}: is a folder; name another file for the output"):
        measure(path, language="sw", output=tmp_path)
    assert path.read_bytes() == before
    for language in ("jp", ""):
        with pytest.raises(LensflowError, match=f"^language '{language}': unknown code; "):
            measure(path, language=language)
    with pytest.raises(LensflowError, match=f"^{tmp_path}: is a folder; name a file"):
        measure(tmp_path, language="sw")
