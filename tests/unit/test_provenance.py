"""Records of a made-up run: where a number comes from, what is wrong with a folder, and the run as an RO-Crate."""

import contextlib
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from rocrate.rocrate import ROCrate

from lensflow.cli import main
from lensflow.provenance import trace
from lensflow.provenance.records import recording
from lensflow.storage.atomic import write_text
from lensflow.storage.cache import write_entry
from lensflow.storage.digests import digest, file_digest
from lensflow.storage.environment import machine, versions
from lensflow.storage.integrity import RECORD
from lensflow.storage.journal import used
from lensflow.workflow import published

PLACES = [(method, language) for method in ("base", "lens") for language in ("en", "zh", "sw")]
# Packages and processor that made a cell of that language, and not the run that has it.
OTHERS = {"zh": {"torch": "1.0"}}
ELSEWHERE = {"zh": {"cpu": "Z80"}}
COMPARED = "backbone,setting,method,seeds,benchmark,metric,language,value\n"


def stage(
    name: str, output: str, *inputs: str, files: dict[str, str], config: dict | None = None, lines: dict | None = None
) -> None:
    """Do what a stage does: read, write, leave a record, maybe with the lines that it used."""
    given = {"output": Path(output), "inputs": [Path(path) for path in inputs]}
    with recording(name, "digest", config or {}, given):
        for path, numbers in (lines or {}).items():
            used(Path(path), numbers)
        for path, text in files.items():
            write_text(Path(path), text)


@pytest.fixture
def results(made, tmp_path, monkeypatch) -> Path:
    """A results folder of base and one trained method, in three languages; the working folder is around it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("results")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder around the results, which each test gets a copy of."""
    folder = tmp_path_factory.mktemp("made")
    with contextlib.chdir(folder):
        make_results()
    return folder


def make_results() -> None:
    settings = {"trio": {"central": "en", "languages": ["en", "zh", "sw"]}}
    config = {"title": "Made up", "command": "snakemake --cores 2", "settings": settings}
    write_text(Path("results/config.json"), json.dumps(config))
    write_text(Path("corpus/train.jsonl"), "{}")
    backbone = "results/tiny/backbone/manifest.json"
    weights = "weights"
    listing = {"model.safetensors": {"size": len(weights), "sha256": digest(weights)}}
    write_text(Path(backbone).with_name("model.safetensors"), weights)
    listing["model.safetensors"]["sha256"] = file_digest(Path(backbone).with_name("model.safetensors"))
    source = {"backbone": {"source": {"kind": "hub", "name": "some/model", "revision": "0" * 40}}}
    stage("prepare_backbone", backbone, files={backbone: json.dumps({"files": listing, "weights": ""})}, config=source)
    texts = [f"results/data/mine/{code}.jsonl" for code in ("en", "zh", "sw")]
    for path in texts:
        rows = [{"id": f"{split}-{n}", "split": split} for split in ("train", "dev", "test") for n in range(3)]
        stage("pair_data", path, "corpus/train.jsonl", files={path: "".join(json.dumps(row) + "\n" for row in rows)})
    items = "results/benchmarks/quiz/zh.jsonl"
    # Ids that texts have, too.
    rows = [{"id": f"test-{n}", "split": split} for n, split in ((7, "items"), (0, "items"), (0, "fewshot"))]
    stage("fetch_items", items, files={items: "".join(json.dumps(row) + "\n" for row in rows)})
    run = "results/tiny/trio/lens/seed0"
    method = {"method": {"kind": "lens", "lr": 0.5}, "seed": 0}
    learnt = {path: [1, 2, 4] for path in texts[1:]}
    delta = f"{run}/delta.safetensors"
    stage("train", delta, backbone, *texts, files={delta: "d"}, config=method, lines=learnt)
    base = "results/tiny/none/base/seed0"
    for folder, weights in ((base, [backbone]), (run, [backbone, delta])):
        samples = {f"{folder}/samples/generation.{code}.jsonl": code for code in ("en", "zh", "sw")}
        asked = {"ids": ["test-0", "test-1"]}
        cells = [
            {
                "benchmark": "generation",
                "language": code,
                "made_with": versions() | OTHERS.get(code, {}),
                "made_on": machine() | ELSEWHERE.get(code, {}),
            }
            | asked
            for code in ("en", "zh", "sw")
        ] + [{"benchmark": "quiz", "language": "zh", "ids": ["test-0"]}]
        scores = {f"{folder}/scores.json": json.dumps({"cells": cells})}
        samples[f"{folder}/samples/quiz.zh.jsonl"] = "q"
        asking = {"benchmark": {"corpus": "mine", "split": "test"}, "languages": ["en", "zh", "sw"]}
        quiz = {"name": "quiz", "benchmark": {"task": "quiz"}, "languages": ["zh"]}
        given = {"cells": [asking | {"name": "generation"}, quiz]}
        answers = f"{folder}/answers.json"
        stage("answer", answers, *weights, *texts, items, files={answers: json.dumps({"cells": cells})}, config=given)
        stage("score", f"{folder}/scores.json", answers, *texts, items, files=samples | scores, config=given)
    judged = {f"{run}/judged.json": "{}", f"{run}/verdicts/quiz.zh.jsonl": "v"}
    judging = {"benchmarks": [{"name": "quiz", "benchmark": {"judge": {"model": "strict"}}, "languages": ["zh"]}]}
    stage("judge", f"{run}/judged.json", f"{run}/scores.json", files=judged, config=judging)
    rows = "backbone,setting,method,seed,benchmark,metric,language,n,value,low,high,weights,cell\n"
    compared = COMPARED
    for method_name, language in PLACES:
        setting = "none" if method_name == "base" else "trio"
        rows += f"tiny,{setting},{method_name},0,generation,fidelity,{language},9,0.5,0.4,0.6,w,c{language}\n"
        compared += f"tiny,trio,{method_name},0,generation,fidelity,{language},0.5\n"
    compared += "tiny,trio,lens,0,generation,fidelity,targets,0.5\n"
    rows += "tiny,trio,lens,0,quiz,rating,zh,1,1,0.2,1,w,q\n"
    decided = (
        "backbone,setting,claim,method,comparator,benchmark,metric,language,seeds,comparator_seeds,difference,verdict\n"
    )
    decided += "tiny,trio,helps,lens,base,generation,fidelity,targets,0,0,0.1,shown\n"
    decided += "tiny,trio,keeps,lens,base,generation,fidelity,central,0,0,0,not shown\n"
    csv = {
        "results/claims.csv": decided,
        "results/scores.csv": rows,
        "results/comparisons.csv": compared,
        "results/sweeps.csv": COMPARED,
    }
    stage("collect_scores", "results/scores.csv", f"{base}/scores.json", f"{run}/scores.json", files=csv)
    tables = {
        "results/tables/main.csv": compared,
        "results/tables/cost.csv": "a\n1\n",
        "results/tables/verdict.csv": decided,
    }
    stage("make_table", "results/tables", "results/config.json", "results/comparisons.csv", files=tables)
    stage("report", "results/report.html", "results/comparisons.csv", files={"results/report.html": "<html>"})
    write_entry(Path("results/cells/ab/abc.json"), {"scores": []})


def test_a_cell_that_other_packages_made_says_which(results, capsys):
    lines = said(capsys, "trace", "results/tables/main.csv:6:value")
    (line,) = [line for line in lines if "generation.zh.jsonl" in line]
    assert line.endswith("cell czh, made with torch 1.0, on Z80")
    lines = said(capsys, "trace", "results/tables/main.csv:5:value")
    (line,) = [line for line in lines if "samples" in line]
    assert line.endswith("cell cen")


def test_trace_leaves_changed_scores_where_they_are(results, capsys):
    path = results / "tiny/trio/lens/seed0/scores.json"
    path.write_text('{"cells": []}')
    (line,) = said(capsys, "trace", "results/tables/main.csv:6:value", code=2)
    assert "scores.json: changed since stage score wrote it" in line
    assert path.read_text() == '{"cells": []}'


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    capsys.readouterr()
    assert main.main(list(arguments)) == code
    captured = capsys.readouterr()
    return captured.out.splitlines() + [line for line in captured.err.splitlines() if line.startswith("error")]


def test_a_cell_is_followed_to_the_data_and_the_backbone(results, capsys):
    lines = said(capsys, "trace", "results/tables/main.csv:6:value")
    tree = "\n".join(lines)
    shown = [(len(line) - len(line.lstrip())) // 2 for line in lines], [line.split()[0] for line in lines]
    run = "results/tiny/trio/lens/seed0"
    expected = [
        (0, "value"),
        (1, "results/tables/main.csv"),
        (2, "results/comparisons.csv"),
        (3, "results/scores.csv"),
        (4, "results/scores.csv,"),
        (5, f"{run}/samples/generation.zh.jsonl"),
        (5, f"{run}/scores.json"),
        (6, "results/data/mine/zh.jsonl"),  # no other language's texts
        (7, "corpus/train.jsonl"),
        (6, f"{run}/answers.json"),
        (7, "results/data/mine/zh.jsonl"),
        (7, "results/tiny/backbone/manifest.json"),
        (8, "source"),
        (7, f"{run}/delta.safetensors"),
        (8, "method"),
        (8, "results/data/mine/en.jsonl"),
        (9, "corpus/train.jsonl"),
        (8, "results/data/mine/sw.jsonl"),
        (9, "corpus/train.jsonl"),
        (8, "results/data/mine/zh.jsonl"),
        (8, "results/tiny/backbone/manifest.json"),
    ]
    assert list(zip(*shown, strict=True)) == expected, tree
    assert files_in(lines, "data") == [
        "mine/zh.jsonl, lines 7-8",
        "mine/zh.jsonl, lines 7-8, see above",
        "mine/en.jsonl",
        "mine/sw.jsonl, lines 1-2, 4",
        "mine/zh.jsonl, lines 1-2, 4, see above",
    ]
    assert lines[0] == "value = 0.5 (tiny trio lens generation fidelity zh)"
    assert "row 6" in lines[1] and "row 6" in lines[2]
    assert '"name":"some/model"' in tree and '{"kind":"lens","lr":0.5}, seed 0' in tree
    assert file_digest(results / "tiny/trio/lens/seed0/delta.safetensors")[:12] in tree


def files_in(lines: list[str], folder: str) -> list[str]:
    """What a trace says of the files in a folder of the results, without digests and stages."""
    said = [line.strip().removeprefix(f"results/{folder}/") for line in lines if f"results/{folder}/" in line]
    return [re.sub(r" [0-9a-f]{12}( \(.*?\))?", "", line) for line in said]


def test_a_cell_of_a_data_set_names_its_items_and_examples(results, capsys):
    lines = said(capsys, "trace", "results/scores.csv:8:value")
    quiz = "quiz/zh.jsonl, lines 2, examples among lines 3"
    assert files_in(lines, "benchmarks") == [quiz, f"{quiz}, see above"]
    assert files_in(lines, "data")[0] == "mine/en.jsonl"  # of the training
    assert not any("lines 7" in line for line in lines)
    shown = files_in(lines, "tiny/trio")
    assert shown[:3] == [
        f"lens/seed0/{name}" for name in ("samples/quiz.zh.jsonl, cell q", "verdicts/quiz.zh.jsonl", "judged.json")
    ]
    assert '  judge of quiz {"model":"strict"}' in "\n".join(lines)


def test_lines_are_of_the_texts_that_were_read(results, capsys):
    path = "results/data/mine/zh.jsonl"
    stage("pair_data", path, "corpus/train.jsonl", files={path: '{"id": "test-0", "split": "test"}\n'})
    lines = said(capsys, "trace", "results/tables/main.csv:6:value")
    assert files_in(lines, "data")[0] == "mine/zh.jsonl, since then written anew"


def test_a_trace_from_another_folder(results, capsys, monkeypatch):
    there = said(capsys, "trace", "results/tables/main.csv:6:value")
    (results.parent / "notes").mkdir()
    monkeypatch.chdir(results.parent / "notes")
    assert said(capsys, "trace", "../results/tables/main.csv:6:value") == there


def test_scores_that_are_gone(results, capsys):
    (results / "tiny/trio/lens/seed0/scores.json").unlink()
    lines = said(capsys, "trace", "results/tables/main.csv:6:value")
    assert files_in(lines, "data")[:3] == [f"mine/{code}.jsonl" for code in ("en", "sw", "zh")]


@pytest.mark.parametrize(
    ("record", "config"),
    [
        ("tiny/trio/lens/seed0/scores.json", {"cells": [{}]}),
        ("tiny/trio/lens/seed0/scores.json", {"cells": 1}),
        ("tiny/trio/lens/seed0/judged.json", {"benchmarks": None}),
        ("tiny/trio/lens/seed0/delta.safetensors", {}),
        ("tiny/backbone", {"backbone": []}),
    ],
)
def test_records_that_no_run_wrote(results, capsys, record, config):
    path = results / f"{record}{RECORD}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config": config}))
    (line,) = said(capsys, "trace", "results/tables/main.csv:6:value", code=2)
    assert "a record or table in it does not come from a run (" in line


def test_texts_that_are_gone_are_named_without_lines(results, capsys):
    (results / "data/mine/zh.jsonl").unlink()
    lines = said(capsys, "trace", "results/tables/main.csv:6:value")
    assert files_in(lines, "data")[0] == "mine/zh.jsonl"


def test_all_that_the_scores_of_a_checkpoint_were_made_of(results):
    lines = trace.tree(results / "tiny/none/base/seed0/scores.json", results).splitlines()
    read = [f"mine/{code}.jsonl, lines 7-8" for code in ("en", "sw", "zh")]
    assert files_in(lines, "data") == [*read, *(f"{line}, see above" for line in read)]  # by answer and by score
    quiz = "quiz/zh.jsonl, lines 2, examples among lines 3"
    assert files_in(lines, "benchmarks") == [quiz, f"{quiz}, see above"]
    assert files_in(lines, "tiny/none")[0] == "base/seed0/scores.json"


def test_a_translation_was_made_of_the_texts_in_both_languages(tmp_path):
    benchmark = {"kind": "translation", "corpus": "flores", "split": "test", "source": "en"}
    record = {"config": {"cells": [{"name": "t", "benchmark": benchmark, "languages": ["sw"]}]}}
    found = trace._items_of(record, tmp_path, {("t", "sw"): {"ids": ["a"]}})
    assert found == {tmp_path / f"data/flores/{code}.jsonl": [("test", {"a"})] for code in ("sw", "en")}


def test_a_mean_over_languages_is_that_of_the_targets(results, capsys):
    tree = "\n".join(said(capsys, "trace", "results/comparisons.csv:8:8"))
    assert "generation.zh.jsonl" in tree and "generation.sw.jsonl" in tree and "generation.en.jsonl" not in tree


def test_base_stands_in_no_setting(results, capsys):
    tree = "\n".join(said(capsys, "trace", "results/scores.csv:2:n"))
    assert "n = 9 (tiny none base generation fidelity en)" in tree
    assert "results/tiny/none/base/seed0/scores.json" in tree and "delta" not in tree


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "results/tables/main.csv:1:value",
            "error: results/tables/main.csv: no row 1; row 1 is the header, the others are 2 to 8",
        ),
        ("results/tables/main.csv:9:value", "no row 9; row 1 is the header, the others are 2 to 8"),
        ("results/tables/main.csv:2:p", "no column 'p'; it has backbone, setting, method"),
        ("results/tables/main.csv:2:99", "no column '99'; it has backbone"),
        ("results/tables/main.csv", "not FILE.csv:ROW:COLUMN, such as results/tables/main.csv:2:value"),
        (
            "results/tables/cost.csv:2:a",
            "versus.csv, claims.csv, sweeps.csv, tables/main.csv, tables/verdict.csv can be traced",
        ),
        ("elsewhere/scores.csv:2:n", "elsewhere/scores.csv: no such file"),
        ("empty/scores.csv:2:n", "empty/scores.csv: not a CSV table (No columns to parse from file); make it again"),
        ("odd/scores.csv:2:n", "odd/scores.csv: no column 'backbone'; make the table again"),
    ],
)
def test_what_cannot_be_traced(results, capsys, place, message):
    write_text(Path("empty/scores.csv"), "")
    write_text(Path("odd/scores.csv"), "n\n1\n")
    (line,) = said(capsys, "trace", place, code=2)
    assert message in line


@pytest.mark.parametrize(
    ("row", "languages", "first"),
    [
        (2, ("zh", "sw"), "difference = 0.1 (tiny trio lens generation fidelity targets)"),
        (3, ("en",), "difference = 0 "),
    ],
)
def test_a_claim_is_followed_to_the_answers_of_both_sides(results, capsys, row, languages, first):
    lines = said(capsys, "trace", f"results/tables/verdict.csv:{row}:difference")
    assert lines[0].startswith(first)
    assert [line.split()[0] for line in lines[1:4]] == [
        "results/tables/verdict.csv",
        "results/claims.csv",
        "results/scores.csv",
    ]
    assert f"row {row}" in lines[1] and f"row {row}" in lines[2]
    samples = [line.split()[0] for line in lines if "/samples/" in line]
    assert samples == [
        f"results/tiny/{side}/seed0/samples/generation.{language}.jsonl"
        for side in ("trio/lens", "none/base")
        for language in languages
    ]
    collected = said(capsys, "trace", f"results/claims.csv:{row}:difference")
    assert [line for line in collected if "/samples/" in line] == [
        line.removeprefix("  ") for line in lines if "/samples/" in line
    ]


def test_a_missing_record_ends_the_trace(results, capsys):
    (results / f"tiny/trio/lens/seed0/scores.json{RECORD}").unlink()
    (line,) = said(capsys, "trace", "results/tables/main.csv:6:value", code=2)
    assert line.endswith("generation.zh.jsonl: no record of it; run the stage that writes it again")


def test_a_whole_folder_is_ok_also_elsewhere(results, tmp_path, capsys, monkeypatch):
    (results / "timings").mkdir()
    (results / "timings/method.md").write_text("of a benchmark script")
    assert said(capsys, "verify") == ["ok: results is as its records say"]
    shutil.copytree(results, tmp_path / "home" / "downloaded")
    monkeypatch.chdir(tmp_path / "home")
    assert said(capsys, "verify", "downloaded") == ["ok: downloaded is as its records say"]


def test_every_problem_has_a_line(results, capsys):
    (results / "report.html").write_text("another")
    (results / "tiny/none/base/seed0/samples/generation.en.jsonl").unlink()
    (results / "tiny/backbone/model.safetensors").write_text("WEIGHTS")
    (results / "notes.txt").write_text("mine")
    (results / "scores.csv.corrupt").write_text("x")
    (results / "cells/ab/abc.json").write_text("{}")
    (results / "config.json").write_text("{}")
    (results / f"data/mine/sw.jsonl{RECORD}").write_text("{")
    stage("pair_data", "results/data/mine/zh.jsonl", files={"results/data/mine/zh.jsonl": "new"})
    *lines, last = said(capsys, "verify", code=2)
    run, base = "results/tiny/trio/lens/seed0", "results/tiny/none/base/seed0"
    assert sorted(lines) == sorted(
        [
            "results/report.html: changed since its stage wrote it",
            f"{base}/samples/generation.en.jsonl: missing",
            "results/tiny/backbone/model.safetensors: changed since its stage wrote it",
            "results/notes.txt: unknown, no stage that left a record wrote it",
            "results/scores.csv.corrupt: was found damaged and renamed; delete it",
            "results/cells/ab/abc.json: a damaged entry; delete it",
            "results/tables: stale, made from results/config.json as it was before",
            f"results/data/mine/sw.jsonl{RECORD}: a damaged record; run its stage again",
            f"{run}/delta.safetensors: stale, made from results/data/mine/zh.jsonl as it was before",
            f"{run}/answers.json: stale, made from results/data/mine/zh.jsonl as it was before",
            f"{run}/scores.json: stale, made from results/data/mine/zh.jsonl as it was before",
            f"{base}/answers.json: stale, made from results/data/mine/zh.jsonl as it was before",
            f"{base}/scores.json: stale, made from results/data/mine/zh.jsonl as it was before",
        ]
    )
    assert last == "error: results: 13 of its files are not as their records say"


@pytest.mark.parametrize(
    "command",
    [
        ["trace", "results/tables/main.csv:6:value"],
        ["compare-tables", "published", "results"],
        ["crate", "--output", "crate"],
    ],
    ids=lambda command: command[0],
)
def test_a_table_that_was_changed_is_not_shown(results, capsys, command):
    table = results / "tables/main.csv"
    changed = table.read_text().replace("0.5", "0.9")
    table.write_text(changed)
    Path("published").mkdir()
    for name, keys in published.TABLES.items():
        if not (results / name).exists():
            (results / name).write_text(",".join(keys) + "\n")
        (Path("published") / Path(name).name).write_text((results / name).read_text())
    (line,) = said(capsys, *command, code=2)
    assert line.endswith("results/tables/main.csv: changed since stage make_table wrote it; run the workflow again")
    assert table.read_text() == changed and not Path("crate").exists()


def test_a_manifest_that_names_what_lies_elsewhere_is_a_problem(results, capsys):
    manifest = results / "tiny/backbone/manifest.json"
    listed = {"../../../mine": {"size": 1, "sha256": "0" * 64}}
    content = json.dumps({"files": listed, "weights": ""})
    stage("prepare_backbone", f"{manifest}", files={f"{manifest}": content}, config={"backbone": {}})
    lines = said(capsys, "verify", code=2)
    assert "results/tiny/backbone/manifest.json: a damaged manifest; run its stage again" in lines
    assert not any("mine:" in line for line in lines)


def test_a_folder_without_records(tmp_path, capsys):
    (line,) = said(capsys, "verify", str(tmp_path), code=2)
    assert line.endswith("no records in it; name the results folder of a run")


@pytest.mark.parametrize("output", ["crate", "crate.zip"])
def test_a_crate_is_read_back(results, tmp_path, capsys, output):
    said(capsys, "crate", "--output", output)
    if output.endswith(".zip"):
        with zipfile.ZipFile(output) as archive:
            archive.extractall("unpacked")
    crate = ROCrate(tmp_path / ("unpacked" if output.endswith(".zip") else output))
    assert crate.mainEntity.id == "Snakefile" and "ComputationalWorkflow" in crate.mainEntity.type
    assert crate.name == "Made up"
    file = crate.get("results/tables/main.csv")
    assert file["sha256"] == file_digest(results / "tables/main.csv")
    assert crate.get("results/tiny/trio/lens/seed0/delta.safetensors") is None
    action = crate.get("#tables")
    assert {one.id for one in action["object"]} == {"results/config.json", "results/comparisons.csv"}
    assert {one.id for one in action["result"]} == {
        f"results/tables/{name}.csv" for name in ("main", "cost", "verdict")
    }
    assert action["instrument"].id == "#make_table" and action["endTime"] >= action["startTime"]
    for entity in crate.data_entities:
        assert (crate.source / entity.id).is_file(), entity.id
    (line,) = said(capsys, "crate", "--output", output, code=2)
    assert line == f"error: {output}: exists already; give a new folder or file"


def test_a_crate_with_what_was_trained(results, capsys):
    said(capsys, "crate", "--output", "crate", "--deltas")
    assert Path("crate/results/tiny/trio/lens/seed0/delta.safetensors").read_text() == "d"
