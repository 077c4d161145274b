"""Published tables against those of a run: tables made by hand, and sources from real plans."""

import copy
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.provenance.code import closure, code_digest, module_digest
from lensflow.provenance.records import recording
from lensflow.storage.atomic import write_json, write_text
from lensflow.storage.digests import file_digest
from lensflow.storage.environment import machine, versions
from lensflow.storage.verified import read_json
from lensflow.workflow import published
from lensflow.workflow.experiment import read
from lensflow.workflow.plan import Plan

ROOT = Path(__file__).parents[2]
SMALLEST = ROOT / "config" / "smallest.yaml"
CELL = {"backbone": "smollm2", "setting": "en-zh", "method": "lens", "benchmark": "generation", "metric": "fidelity"}
COMPARED = {"difference": 0.1, "difference_low": -0.1, "difference_high": 0.3, "p": 0.25, "mark": "better"}
SPREAD = {"value": 0.97, "low": 0.93, "high": 0.99}


def write(folder: Path, place: str = "", **changes: object) -> Path:
    """A results folder, or with `place` published tables, of one cell in two languages; `changes` are of the second."""
    rows = [CELL | {"language": code, "seeds": 0, "n": 100} | SPREAD | COMPARED for code in ("en", "zh")]
    rows[1] |= changes
    sheet = {"backbone": "smollm2", "setting": "en-zh", "panel": "fidelity", "method": "lens", "column": "zh"}
    for name in published.TABLES:
        frame = pd.DataFrame(rows if "column" not in published.TABLES[name] else [sheet | SPREAD | {"rank": 1}])
        path = folder / (Path(name).name if place else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(path, index=False)
    return folder


def ran(results: Path, config: Path) -> Path:
    """Leave the records of a run's trainings and evaluations."""
    plan = Plan(read([config], ROOT), ROOT, ROOT)
    for checkpoint in plan.checkpoints:
        run = results / checkpoint.folder
        stages = [("score", plan.scoring_code(checkpoint), "scores.json", plan.score(checkpoint))]
        if not checkpoint.is_base:
            code = plan.training_code(checkpoint.method)
            stages.append(("train", code, "delta.safetensors", plan.train(checkpoint)))
        for stage, code, name, stage_config in stages:
            with recording(stage, code, stage_config, {"output": run / name}):
                write_text(run / name, json.dumps({"cells": [{"made_with": versions(), "made_on": machine()}]}))
    code = code_digest("lensflow.stages.collect_scores")
    with recording("collect_scores", code, plan.collect_scores(), {"output": results / "scores.csv"}):
        write_text(results / "scores.csv", "")
    return results


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write(tmp_path / "published", "flat")


def file_of(module: str) -> Path:
    path = ROOT / "src" / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def lines(old: Path, new: Path) -> list[str]:
    return [str(difference) for difference in published.compare(old, new)[0]]


def test_the_same_tables(old, tmp_path):
    # Two languages with a value and a difference in two tables, and a value in each of the three others.
    assert published.compare(old, write(tmp_path / "results")) == ([], 11)


def test_a_value_outside_of_its_interval(old, tmp_path, capsys):
    results = write(tmp_path / "results", value=0.91)
    shown = "smollm2 en-zh lens generation fidelity zh: value 0.97 → 0.91, outside [0.93, 0.99]"
    assert lines(old, results) == [f"main: {shown}", f"comparisons: {shown}"]
    assert main.main(["compare-tables", str(old), str(results)]) == 2
    printed, error = capsys.readouterr()
    assert printed == f"main: {shown}\ncomparisons: {shown}\n"
    assert error.startswith(f"error: {results}: 2 differences from {old}; find out why, or publish them")


def test_a_count_that_depends_on_the_answers(tmp_path, capsys):
    old = write(tmp_path / "published", "flat", metric="word_pass_rate")
    results = write(tmp_path / "results", metric="word_pass_rate", n=99)
    assert main.main(["compare-tables", str(old), str(results)]) == 0
    assert "main: smollm2 en-zh lens generation word_pass_rate zh: n 100 → 99" in capsys.readouterr().out


@pytest.mark.parametrize("value", [0.93, 0.95, 0.99])
def test_a_value_inside_of_its_interval(old, tmp_path, capsys, value):
    results = write(tmp_path / "results", value=value, p=0.5)
    found, _ = published.compare(old, results)
    assert [difference.allowed for difference in found] == [True, True]  # p follows the value
    assert main.main(["compare-tables", str(old), str(results)]) == 0
    assert "ok: 11 values, 9 the same, 2 inside of their published intervals" in capsys.readouterr().out


def test_on_the_same_platform_nothing_may_differ(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    results, folder = ran(write(tmp_path / "results"), SMALLEST), tmp_path / "published"
    assert main.main(["accept-tables", str(results), str(folder), "--configfile", str(SMALLEST)]) == 0
    compare = ["compare-tables", str(folder), str(results)]
    assert main.main(compare) == 0
    assert "ok: 11 values, all the same, as they must be on this platform" in capsys.readouterr().out
    write(results, value=0.96)
    assert main.main(compare) == 2
    assert "zh: value 0.97 → 0.96, inside [0.93, 0.99], but on the same platform\n" in capsys.readouterr().out
    # As of a cell that another machine left in the cache.
    (scores, *_) = results.rglob("scores.json")
    record, content = scores.with_name("scores.json.record.json"), scores.read_text()
    before = record.read_text()
    scores.write_text(content.replace('"cpu_digest": "', '"cpu_digest": "0'))
    write_json(record, read_json(record) | {"outputs": {"scores.json": file_digest(scores)}})
    assert main.main(compare) == 0
    scores.write_text(content)
    record.write_text(before)
    # As of a folder of older code.
    scores.write_text(content.replace('"made_on"', '"made_then"'))
    write_json(record, read_json(record) | {"outputs": {"scores.json": file_digest(scores)}})
    assert main.main(compare) == 0
    scores.unlink()
    assert main.main(compare) == 2  # the other evaluations were made here
    scores.write_text(content)
    record.write_text(before)
    capsys.readouterr()
    source = read_json(folder / "source.json")
    for other in (
        {"packages": source["packages"] | {"torch": "2.0"}},
        {"machines": [source["machines"][0] | {"cpu_digest": "0"}]},
        {"machines": [source["machines"][0] | {"threads": 64}]},
    ):
        write_json(folder / "source.json", source | other)
        assert main.main(compare) == 0
        assert "9 the same, 2 inside of their published intervals" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"n": 99}, "n 100 → 99"),
        ({"seeds": 1}, "seeds 0 → 1"),
        ({"difference": 0.4}, "difference 0.1 → 0.4, outside [-0.1, 0.3]"),
        ({"value": None}, "value 0.97 → none, outside [0.93, 0.99]"),
        ({"value": "nan"}, "value 0.97 → nan, outside [0.93, 0.99]"),
        # Where every number is the same the platform is, and all that is computed from the items must be.
        ({"p": 0.5}, "p 0.25 → 0.5, though no value changed"),
        ({"low": 0.9}, "low 0.93 → 0.9, though no value changed"),
        ({"mark": None}, "mark better → none, though no value changed"),
    ],
)
def test_what_else_differs(old, tmp_path, changes, shown):
    found, _ = published.compare(old, write(tmp_path / "results", **changes))
    assert {difference.what for difference in found} == {shown}
    assert not any(difference.allowed for difference in found)


@pytest.mark.parametrize(("value", "exact", "allowed"), [(0.9701, False, True), (0.9701, True, False)])
def test_a_value_without_an_interval_may_be_rounded_elsewhere(tmp_path, value, exact, allowed):
    old = write(tmp_path / "published", "flat", low=None, high=None)
    other = write(tmp_path / "other", low=None, high=None, value=value)
    found, _ = published.compare(old, other, exact=exact)
    assert found and all(difference.allowed is allowed for difference in found)


def test_a_value_without_an_interval_must_be_the_same(tmp_path):
    old = write(tmp_path / "published", "flat", low=None, high=None)
    same = write(tmp_path / "results", low=None, high=None)
    other = write(tmp_path / "other", low=None, high=None, value=0.971)
    assert lines(old, same) == []
    found, _ = published.compare(old, other)
    assert {difference.what for difference in found} == {"value 0.97 → 0.971, no interval"}
    assert not any(difference.allowed for difference in found)


def test_rows_and_columns_that_come_and_go(old, tmp_path):
    results = write(tmp_path / "results", language="sw")
    path = results / "tables" / "summary.csv"
    pd.read_csv(path).rename(columns={"rank": "place"}).to_csv(path, index=False)
    found, _ = published.compare(old, results)
    assert {str(difference) for difference in found} == {
        "main: smollm2 en-zh lens generation fidelity zh: is gone",
        "main: smollm2 en-zh lens generation fidelity sw: is new",
        "comparisons: smollm2 en-zh lens generation fidelity zh: is gone",
        "comparisons: smollm2 en-zh lens generation fidelity sw: is new",
        "summary: column rank is gone",
        "summary: column place is new",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "main.csv: no such file; check the path, or run the workflow"),
        (b"", "main.csv: not a CSV table (No columns to parse from file); make it again"),
        (b"\xff\xfe", "main.csv: not a CSV table ('utf-8' codec can't decode"),
        (b"backbone,setting\n", "main.csv: no column 'method'; make the table again"),
        (b"twice", "main.csv: smollm2 en-zh lens generation fidelity zh occurs twice"),
    ],
)
def test_tables_that_cannot_be_read(old, tmp_path, text, message):
    results = write(tmp_path / "results")
    path = results / "tables" / "main.csv"
    if text is None:
        path.unlink()
    elif text == b"twice":
        path.write_text(path.read_text() + path.read_text().splitlines()[-1])
    else:
        path.write_bytes(text)
    with pytest.raises(LensflowError) as raised:
        published.compare(old, results)
    assert message in str(raised.value)


def test_accepting_says_what_moved_the_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    results, folder = ran(write(tmp_path / "results"), SMALLEST), tmp_path / "published"
    arguments = ["accept-tables", str(results), str(folder), "--configfile", "config/smallest.yaml"]
    assert main.main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: published summary.csv, main.csv")
    assert main.main(["compare-tables", str(folder), str(results)]) == 0
    capsys.readouterr()

    # Another limit in the configuration, another module, another package, and other values.
    changed = tmp_path / "more.yaml"
    changed.write_text((ROOT / "config/smallest.yaml").read_text().replace("limit: 10", "limit: 20"))
    source = read_json(folder / "source.json")
    losses = "lensflow.mathematics.losses"
    assert losses in source["stages"]["train"] and losses not in source["stages"]["score"]
    source["code"][losses] = "0"
    source["packages"]["torch"] = "2.0"
    write_json(folder / "source.json", source)
    shutil.rmtree(results)
    ran(write(results, value=0.91), changed)
    assert main.main([*arguments[:-1], str(changed)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("generation fidelity zh: value 0.97 → 0.91, outside [0.93, 0.99]")
    assert printed[2] == "changed by"
    assert "  config of answer smollm2-135m-instruct/0: evaluation.limit 10 → 20" in printed
    assert f"  code: module {losses} (train)" in printed
    assert any(line.startswith("  package torch 2.0 → ") for line in printed)
    assert not any("config of train" in line or "module lensflow.measures" in line for line in printed)
    assert main.main(["compare-tables", str(folder), str(results)]) == 0


def test_tables_that_nothing_moved(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    results, folder = ran(write(tmp_path / "results"), SMALLEST), tmp_path / "published"
    arguments = ["accept-tables", str(results), str(folder), "--configfile", "config/smallest.yaml"]
    assert main.main(arguments) == 0
    write(results, value=0.96)
    assert main.main(arguments) == 0
    assert "no change in configuration, code, packages or machine" in capsys.readouterr().out


def test_a_table_that_is_published_for_the_first_time(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    results, folder = ran(write(tmp_path / "results"), SMALLEST), tmp_path / "published"
    arguments = ["accept-tables", str(results), str(folder), "--configfile", "config/smallest.yaml"]
    assert main.main(arguments) == 0
    (folder / "main.csv").unlink()  # as if an older version had no such table
    assert main.main(["compare-tables", str(folder), str(results)]) == 2
    assert "main: is not published; accept the tables" in capsys.readouterr().out
    assert main.main(arguments) == 0
    assert (folder / "main.csv").is_file() and "main: is not published" in capsys.readouterr().out


def test_nothing_is_published_of_a_run_that_lacks_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    results, folder = ran(write(tmp_path / "results"), SMALLEST), tmp_path / "published"
    (results / "comparisons.csv").unlink()
    arguments = ["accept-tables", str(results), str(folder), "--configfile", "config/smallest.yaml"]
    assert main.main(arguments) == 2
    assert "comparisons.csv: no such file" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("of", ["scores.json", "delta.safetensors", "scores.csv"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "no record of it; run the workflow with this configuration first"),
        ({"config": {}}, "was made with another configuration or code; run the workflow again"),
        ({"code": {"commit": "a", "digest": "b"}}, "was made with another configuration or code; run the workflow"),
        ({"versions": {"torch": "1.0"}}, "was made with other packages; delete"),
    ],
)
def test_tables_that_were_not_made_here_are_not_accepted(tmp_path, capsys, monkeypatch, of, change, message):
    assert message in refused(tmp_path, capsys, monkeypatch, of, change)


def test_tables_of_scores_that_have_changed_are_not_accepted(tmp_path, capsys, monkeypatch):
    said = refused(tmp_path, capsys, monkeypatch, "scores.csv", {"inputs": {"comparisons.csv": "0"}})
    assert "scores.csv: comparisons.csv has changed since it was made" in said


def refused(tmp_path, capsys, monkeypatch, of, change):
    """What is said to a run of which one record is changed, or gone."""
    monkeypatch.chdir(ROOT)
    results, folder = ran(write(tmp_path / "results"), SMALLEST), tmp_path / "published"
    record = next(results.rglob(f"{of}.record.json"))
    write_json(record, read_json(record) | change)
    if not change:
        record.unlink()
    assert main.main(["accept-tables", str(results), str(folder), "--configfile", "config/smallest.yaml"]) == 2
    assert not folder.exists()
    return capsys.readouterr().err


def test_a_cell_of_other_packages_is_not_accepted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    results = ran(write(tmp_path / "results"), SMALLEST)
    path = next(results.rglob("scores.json"))
    record = read_json(path.with_name("scores.json.record.json"))
    with recording("score", record["code"]["digest"], record["config"], {"output": path}):
        write_text(path, json.dumps({"cells": [{"made_with": {"torch": "1.0"}, "made_on": {}}]}))
    assert main.main(["accept-tables", str(results), str(tmp_path / "p"), "--configfile", "config/smallest.yaml"]) == 2
    assert "scores.json: was made with other packages; delete" in capsys.readouterr().err


def test_every_stages_modules_are_digested():
    losses, training = "lensflow.mathematics.losses", "lensflow.methods.lens.training"
    assert {losses, training} <= set(closure("lensflow.methods.lens.kind"))
    answering = [name for name in closure("lensflow.stages.answer") if file_of(name).read_text()]
    assert len({module_digest(name) for name in answering}) == len(answering) > 20
    assert code_digest(losses) != code_digest(training)


def test_a_change_of_one_key_is_one_line():
    old = {"commit": "a", "config": {"train x": {"method": {"lr": 1e-5, "layers": [1, 2]}}}, "code": {}, "packages": {}}
    new = copy.deepcopy(old) | {"stages": {}}
    new["config"]["train x"]["method"] |= {"lr": 1e-4, "layers": [1, 3], "new": True}
    new["commit"] = "b"
    assert list(published._changes(old | {"stages": {}}, new)) == [
        "config of train x: method.lr 1e-05 → 0.0001",
        "config of train x: method.layers[1] 2 → 3",
        "config of train x: method.new none → True",
        "commit a → b",
    ]
