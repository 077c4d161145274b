"""Records of every stage, and what is said and made again when a file is not what a stage wrote."""

import copy
import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lensflow.cli import main
from lensflow.provenance import preparation
from lensflow.storage.digests import file_digest
from lensflow.storage.integrity import CORRUPT, RECORD
from lensflow.storage.verified import read_json
from tests.chain import RUN, Chain

BASE = "tiny/none/base/seed0"
STATES = "tiny/hidden_states/mine"
FIGURES = "figures/tiny.en-zh"


@pytest.fixture(scope="session")
def finished(checkpoint, tmp_path_factory) -> Chain:
    """A whole run."""
    with pytest.MonkeyPatch.context() as patch:
        chain = Chain(tmp_path_factory.mktemp("chain"), checkpoint("llama"))
        patch.chdir(chain.root)
        assert chain.make() == 0
    return chain


@pytest.fixture
def chain(finished, tmp_path, monkeypatch) -> Chain:
    """A copy of it, from within its folder."""
    copied = copy.copy(finished)
    copied.root = tmp_path / "copy"
    shutil.copytree(finished.root, copied.root, symlinks=True)
    for path in (copied.results / "tiny/backbone").iterdir():
        if path.is_symlink():
            path.unlink()
            path.symlink_to(copied.root / "model" / path.name)
    monkeypatch.chdir(copied.root)
    return copied


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # what links to it is left alone, what it links to, too
    path.write_bytes(content)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def test_the_table_of_costs_says_what_a_training_needed_before(chain):
    made = [f"{STATES}/en.safetensors", f"{STATES}/zh.safetensors", "tiny/en-zh/subspaces.safetensors"]
    seconds = sum(read_json(chain.results / f"{name}{RECORD}")["seconds"] for name in made)
    cost = chain.results / RUN / "cost.json"
    assert seconds > 0 and preparation.prepared_seconds(cost) == pytest.approx(seconds)
    rows = csv.DictReader((chain.results / "tables/cost.csv").open())
    assert [float(row["value"]) for row in rows if row["column"] == "before (s)"] == [pytest.approx(seconds)]
    (chain.results / f"{made[0]}{RECORD}").unlink()
    assert preparation.prepared_seconds(cost) is None


def test_a_record_names_what_a_file_was_made_of(chain):
    record = read_json(chain.results / f"{RUN}/delta.safetensors{RECORD}")
    assert record["stage"] == "train"
    assert (record["config"]["method"]["lr"], record["seed"]) == (1e-2, 0)
    folder = chain.results / RUN
    written = {"delta.safetensors", "config.json", "history.jsonl", "dev_states.safetensors"}
    assert set(record["outputs"]) == written | {"intervention.safetensors", "cost.json"}
    read = {f"../../../hidden_states/mine/{code}.safetensors" for code in ("en", "zh")}
    read |= {f"../../../../data/mine/{code}.jsonl" for code in ("en", "zh")}
    assert set(record["inputs"]) == read | {"../../../backbone/manifest.json", "../../subspaces.safetensors"}
    for name, sha256 in (record["inputs"] | record["outputs"]).items():
        assert file_digest(folder / name) == sha256, name
    assert record["versions"].keys() >= {"python", "lensflow", "torch", "transformers", "numpy", "datasets"}
    assert record["machine"]["cores"] == os.cpu_count()
    assert re.fullmatch(r"20\d\d-.*\+00:00", record["started"])
    assert record["code"]["commit"] is None or re.match(r"[0-9a-f]{40}", record["code"]["commit"])


def test_every_file_has_a_record_that_names_no_place(chain):
    named = set()
    for path in chain.results.rglob(f"*{RECORD}"):
        text = path.read_text()
        assert str(chain.root) not in text and os.uname().nodename not in text
        named |= {path} | {path.parent / name for name in json.loads(text)["outputs"]}
    left = {path for path in chain.results.rglob("*") if path.is_file()} - named
    of_checkpoints = {path for path in left if path.with_name("manifest.json").is_file()}
    assert all(path.is_relative_to(chain.results / "cells") for path in left - of_checkpoints)


def not_finished(chain, output: str) -> None:
    """Remove hidden states, which are else not computed again."""
    if output.startswith(STATES):
        (chain.results / output).unlink(missing_ok=True)


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize(
    ("damaged", "stage", "reader"),
    [
        ("tiny/backbone/manifest.json", "prepare_backbone", f"{STATES}/en.safetensors"),
        ("tiny/backbone/tokenizer.json", "prepare_backbone", f"{STATES}/en.safetensors"),
        ("tiny/backbone/model-00002-of-00014.safetensors", "prepare_backbone", f"{BASE}/answers.json"),
        ("tiny/backbone/model-00002-of-00014.safetensors", "prepare_backbone", f"{STATES}/en.safetensors"),
        ("tiny/backbone/model-00014-of-00014.safetensors", "prepare_backbone", f"{RUN}/delta.safetensors"),
        ("tiny/backbone/model-00014-of-00014.safetensors", "prepare_backbone", f"{RUN}/answers.json"),
        ("data/mine/zh.jsonl", "pair_data", f"{STATES}/zh.safetensors"),
        ("data/mine/en.jsonl", "pair_data", f"{BASE}/answers.json"),
        ("data/mine/en.jsonl", "pair_data", f"{BASE}/scores.json"),
        (f"{STATES}/zh.safetensors", "extract_hidden_states", "tiny/en-zh/subspaces.safetensors"),
        (f"{STATES}/en.safetensors", "extract_hidden_states", f"{RUN}/delta.safetensors"),
        ("tiny/en-zh/subspaces.safetensors", "fit_subspaces", f"{RUN}/delta.safetensors"),
        (f"{RUN}/delta.safetensors", "train", f"{RUN}/answers.json"),
        (f"{RUN}/history.jsonl", "train", FIGURES),
        (f"{RUN}/dev_states.safetensors", "train", FIGURES),
        (f"{RUN}/intervention.safetensors", "train", f"{RUN}/answers.json"),
        (f"{RUN}/cost.json", "train", "tables/main.md"),
        (f"{RUN}/answers.json", "answer", f"{RUN}/scores.json"),
        (f"{RUN}/scores.json", "score", "scores.csv"),
        (f"{RUN}/samples/generation.zh.jsonl", "score", "report.html"),
        ("comparisons.csv", "collect_scores", "tables/main.md"),
        ("scores.csv", "collect_scores", "report.html"),
        ("sweeps.csv", "collect_scores", FIGURES),
        (f"{FIGURES}/outcomes.svg", "make_figures", "report.html"),
    ],
)
def test_a_damaged_file_is_set_aside_and_made_again(chain, capfd, damaged, stage, reader, damage: Callable):
    path = chain.results / damaged
    before = path.read_bytes()
    damage(path)
    not_finished(chain, reader)
    assert chain.again(reader) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert lines == [
        f"error: results/{damaged}: its checksum differs from what stage {stage} wrote (truncated or changed); it "
        f"was renamed to *.corrupt; run again to make it again"
    ]
    assert not path.exists()
    assert any(name.split(CORRUPT)[0] in damaged for name in chain.set_aside())
    assert chain.make() == 0
    assert chain.again(reader) == 0
    if damaged != f"{RUN}/cost.json":  # it took another time
        assert path.read_bytes() == before


def test_a_lost_file_of_a_checkpoint(chain, capfd):
    (chain.results / "tiny/backbone/model-00003-of-00014.safetensors").unlink()
    not_finished(chain, f"{STATES}/en.safetensors")
    assert chain.again(f"{STATES}/en.safetensors") == 2
    assert (
        "missing, though stage prepare_backbone wrote it; what is left beside it was renamed to *.corrupt; run again"
        in capfd.readouterr().err
    )
    assert chain.make() == 0
    assert chain.again(f"{STATES}/en.safetensors") == 0


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_cell_is_named_and_answered_again(chain, caplog, damage):
    cells = sorted((chain.results / "cells").rglob("*.json"))
    before = [path.read_bytes() for path in cells]
    answers = (chain.results / f"{BASE}/answers.json").read_bytes()
    assert len(cells) == 8  # two benchmarks in two languages, of two checkpoints
    for path in cells:
        damage(path)
    assert chain.again(f"{BASE}/answers.json") == 0
    for path, content in zip(cells, before, strict=True):
        said = (
            f"results/{path.relative_to(chain.results)}: damaged (truncated or changed); it was set aside and is made"
        )
        assert said in caplog.text
        assert path.with_name(f"{path.name}{CORRUPT}").is_file()
        assert path.read_bytes() == content
    assert (chain.results / f"{BASE}/answers.json").read_bytes() == answers


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_scores_of_a_damaged_cell_have_it_answered_again(chain, capfd, damage):
    scores = (chain.results / f"{BASE}/scores.json").read_bytes()
    key = read_json(chain.results / f"{BASE}/answers.json")["cells"][1]["cell"]
    damage(chain.results / f"cells/{key[:2]}/{key}.json")
    assert chain.again(f"{BASE}/scores.json") == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert lines == ["error: generation, zh: its answers are missing; run again to make them"]
    assert not (chain.results / f"{BASE}/answers.json").exists()
    assert chain.make() == 0
    assert chain.again(f"{BASE}/scores.json") == 0
    assert (chain.results / f"{BASE}/scores.json").read_bytes() == scores


def test_what_another_hand_wrote_needs_no_record(chain):
    (chain.results / f"data/mine/zh.jsonl{RECORD}").unlink()
    with (chain.results / "data/mine/zh.jsonl").open("a") as file:
        file.write(json.dumps({"id": "new", "split": "dev", "prompt": "新"}) + "\n")
    assert chain.again(f"{STATES}/zh.safetensors") == 0
    record = read_json(chain.results / f"{STATES}/zh.safetensors{RECORD}")
    assert record["inputs"]["../../../data/mine/zh.jsonl"] == file_digest(chain.results / "data/mine/zh.jsonl")


def test_a_damaged_record(chain, capfd):
    (chain.results / f"data/mine/zh.jsonl{RECORD}").write_text("{")
    not_finished(chain, f"{STATES}/zh.safetensors")
    assert chain.again(f"{STATES}/zh.safetensors") == 2
    said = rf"error: \S+/results/data/mine/zh.jsonl{RECORD}: a damaged record \(.*\); delete it and run again"
    assert re.search(said, capfd.readouterr().err)


def test_a_stage_that_fails_leaves_the_record_as_it_was(chain):
    path = chain.results / f"{RUN}/delta.safetensors{RECORD}"
    before = path.read_bytes()
    command = next(list(s.command) for s in chain.steps if s.command[0] == "train")
    stage = json.loads(command[2])
    stage["setting"]["central"] = "sw"
    assert main.main(["train", "--config", json.dumps(stage), *command[3:]]) == 2
    assert path.read_bytes() == before


def test_records_name_the_lines_that_went_into_a_result(chain):
    def lines(output: str) -> dict[str, str]:
        found = read_json(chain.results / f"{output}{RECORD}")["lines"]
        return {Path(name).name: numbers for name, numbers in found.items()}

    assert lines(f"{STATES}/zh.safetensors") == {"zh.jsonl": "1-8"}  # train and dev
    assert lines("tiny/en-zh/subspaces.safetensors") == {"en.jsonl": "1-6", "zh.jsonl": "1-6"}
    assert lines(f"{RUN}/delta.safetensors") == {"en.jsonl": "1-8", "zh.jsonl": "1-8"}


def test_a_real_number_is_traced_and_the_folder_verified(chain, capsys):
    capsys.readouterr()
    assert main.main(["verify"]) == 0
    assert capsys.readouterr().out == "ok: results is as its records say\n"
    assert main.main(["trace", "results/tables/main.csv:2:value"]) == 0
    tree = capsys.readouterr().out
    for name in ("results/comparisons.csv", f"results/{BASE}/scores.json", "results/tiny/backbone/manifest.json"):
        assert name in tree
    scored, answered = re.findall(r"results/data/mine/(\w\w)\.jsonl .*, (lines 9-11.*)", tree)
    assert tree.count("results/data/mine/") == 2  # no other language, though one job answers in all
    assert (scored[0], scored[1]) == (answered[0], "lines 9-11")  # of 6 for training, 2 for dev, 3 for test
    assert answered[1] == "lines 9-11, see above"
    assert main.main(["crate", "--output", "crate"]) == 0
    assert (chain.root / "crate/results/report.html").read_bytes() == (chain.results / "report.html").read_bytes()
    page = (chain.results / "report.html").read_text()
    assert f"results/{RUN}/delta.safetensors" in page and ", lines 9-11" in page
    assert "<summary>tiny, en-zh, lens, seed 0</summary>" in page
    record = read_json(chain.results / f"{BASE}/scores.json{RECORD}")
    assert record["started"] in page and record["machine"]["platform"] in page
