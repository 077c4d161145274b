"""Stages `answer` and `score` on tiny models: what is shared, what is kept, and what comes from outside the package."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lensflow.artifacts import interventions, layout
from lensflow.artifacts.interventions import Intervention
from lensflow.artifacts.weights import WeightFiles
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.measures import catalogue
from lensflow.models.engines import hf
from lensflow.provenance import code
from lensflow.schema.backbone import Resources
from lensflow.schema.stages import Answering
from lensflow.stages.answer import Answerer, Session
from lensflow.storage.atomic import write_json, write_jsonl
from lensflow.storage.cache import read_entry
from lensflow.storage.digests import file_digest
from lensflow.storage.integrity import RECORD
from lensflow.storage.verified import read_json, read_jsonl
from tests import tiny

PLAIN = {"format": "plain", "template": "Q: {prompt}\nA:"}
GENERATION = {"kind": "generation", "max_new_tokens": 4}
LIKELIHOOD = {"kind": "likelihood"}
CAPITALS = """
task: capitals
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}]
"""
TASK = {
    "kind": "lm_eval",
    "task": "tasks/capitals",
    "dataset": {"path": "x/y", "columns": ["question"], "fewshot_split": "train"},
    "languages": {"en": "en", "zh": "zh"},
    "overrides": {"num_fewshot": 2},
}
KIND = """
from typing import ClassVar, Literal
from lensflow.benchmarks.base import FromCorpus

class Config(FromCorpus):
    kind: Literal["{name}"]

    def ask(self, asker, items, fewshot, language, roots):
        pairs = [(asker.tokenizer.encode(item["prompt"]), [70, 71]) for item in items.values()]
        return [{{"prompt": "", "nll": -logp, "tokens": 2}} for logp, _ in asker.loglikelihoods(pairs)]
"""
ENGINE = """
from contextlib import nullcontext
from lensflow.models.engines.protocol import Answer

READS = True
SWAPS = []

class Parrot:
    def generate(self, prompts, decoding):
        return [Answer("said", (5,), cut=False) for _ in prompts]
    def loglikelihoods(self, requests):
        return [(-1.0, True) for _ in requests]
    def read(self, sequences, counted, masks):
        return [{"nll": 3.0, "tokens": 2} for _ in sequences]
    def swap(self, tensors):
        SWAPS.append(sorted(tensors))
    def edited(self, edit):
        return nullcontext()
    def close(self):
        pass

def start(checkpoint, tokenizer, evaluation, resources):
    return Parrot()
"""


class Here:
    """A results folder with a tiny backbone, texts and items, and checkpoints that were trained on it."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder = folder
        self.backbone = tiny.backbone(checkpoint, folder / "tiny" / "backbone" / "manifest.json")
        (folder / "tasks").mkdir()
        (folder / "tasks" / "capitals.yaml").write_text(CAPITALS)
        for language in ("en", "zh"):
            rows = [{"id": str(n), "split": "test", "prompt": f"{language} {n}?"} for n in range(3)]
            write_jsonl(folder / "data" / "embedded" / f"{language}.jsonl", rows)
            items = [{"split": "items", "id": str(n), "item": _item("Italy", n)} for n in range(3)]
            items += [{"split": "fewshot", "id": str(n), "item": _item("Land", n)} for n in range(9)]
            write_jsonl(folder / "benchmarks" / "capitals" / f"{language}.jsonl", items)

    def checkpoint(self, method: str, seed: int = 1, intervention: Intervention | None = None) -> Path:
        """Write a delta that moves the last layer, or with `seed` 0 nothing; return the folder of the run."""
        run = self.run(method)
        run.mkdir(parents=True, exist_ok=True)
        files, generator = WeightFiles(self.backbone.parent), torch.Generator().manual_seed(seed)
        last = [name for name in files.location if f".layers.{tiny.LAYERS - 1}." in name] if seed else []
        moved = {name: files.read(name).float() for name in last}
        delta = {name: tensor + torch.randn(tensor.shape, generator=generator) / 3 for name, tensor in moved.items()}
        save_file(delta, run / layout.DELTA)
        interventions.write(intervention or Intervention(), run / layout.DELTA)
        return run

    def run(self, method: str) -> Path:
        setting = layout.NO_SETTING if method == layout.BASE else "en-zh"
        return self.folder / "tiny" / setting / method / "seed0"

    def answer(self, *methods: str, benchmarks: Any = None, prompt: Any = PLAIN, **evaluation: Any) -> int:
        stage = {"prompt": prompt, "evaluation": {"engine": "hf"} | evaluation, "cells": self.cells(benchmarks)}
        numbers = list(range(len(stage["cells"])))
        stage["checkpoints"] = {layout.folder_of(self.run(method)): numbers for method in methods}
        for method in methods:
            self.run(method).mkdir(parents=True, exist_ok=True)
        runs = [str(self.run(method)) for method in methods]
        return self.stage("answer", stage, "--backbone", str(self.backbone), "--runs", *runs)

    def score(self, method: str, benchmarks: Any = None) -> int:
        given = ("--answers", str(self.run(method) / layout.ANSWERS))
        output = ("--output", str(self.run(method) / layout.SCORES))
        return self.stage("score", {"cells": self.cells(benchmarks)}, *given, *output)

    def stage(self, name: str, config: Any, *more: str) -> int:
        folders = {"corpora": "data", "items": "benchmarks", "cache": "cells"}
        given = [part for key, folder in folders.items() for part in (f"--{key}", str(self.folder / folder))]
        return main.main([name, "--config", json.dumps(config), *given, "--tasks", str(self.folder), *more])

    @staticmethod
    def cells(benchmarks: Any) -> list[dict[str, Any]]:
        chosen = benchmarks or {"generation": GENERATION, "likelihood": LIKELIHOOD}
        return [{"name": name, "benchmark": entry, "languages": ["en", "zh"]} for name, entry in chosen.items()]

    def keys(self, method: str) -> dict[tuple[str, str], str]:
        content = read_json(self.run(method) / layout.ANSWERS)
        return {(cell["benchmark"], cell["language"]): cell["cell"] for cell in content["cells"]}

    def rows(self, method: str, benchmark: str, language: str = "en") -> list[dict[str, Any]]:
        return self.entry(self.keys(method)[benchmark, language])["answers"]

    def entry(self, key: str) -> dict[str, Any]:
        return read_entry(layout.entry(self.folder / "cells", key))

    @property
    def answered(self) -> int:
        return len(list((self.folder / "cells").rglob("*.json")))


def _item(country: str, number: int) -> dict[str, Any]:
    return {"question": f"{country} {number}?", "choices": ["Rome", "Oslo"], "answer": number % 2}


@pytest.fixture
def here(checkpoint, tmp_path) -> Here:
    return Here(tmp_path, checkpoint("llama"))


@pytest.fixture
def started(monkeypatch) -> list[Path]:
    """The checkpoints that engines are started on."""
    starts, start = [], hf.start
    monkeypatch.setattr(hf, "start", lambda folder, *rest: starts.append(folder) or start(folder, *rest))
    return starts


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Write a module that lies outside of the package; return its import path."""
    package = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / package).mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, content: str) -> str:
        (tmp_path / package / f"{name}.py").write_text(content)
        return f"{package}.{name}"

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


# --- One start, and cells that stay -----------------------------------------------------------------------------------


def test_one_engine_start_for_all_checkpoints(here, started):
    """And each answers as it does alone, base also after the others."""
    for method, seed in (("one", 1), ("two", 2)):
        here.checkpoint(method, seed)
    assert here.answer("one", layout.BASE, "two") == 0
    assert started == [here.backbone.parent]
    together = {m: [here.rows(m, b) for b in ("generation", "likelihood")] for m in ("one", layout.BASE, "two")}
    assert together["one"][1] != together["two"][1] != together[layout.BASE][1] != together["one"][1]
    for method, rows in together.items():
        for file in (here.folder / "cells").rglob("*.json"):
            file.unlink()
        assert here.answer(method) == 0
        assert [here.rows(method, b) for b in ("generation", "likelihood")] == rows, method


def test_no_engine_starts_where_all_is_answered(here, started):
    here.checkpoint("one")
    assert here.answer("one") == here.answer("one") == 0
    assert len(started) == 1


def test_a_new_method_answers_only_its_own_cells(here):
    here.checkpoint("one", 1)
    assert here.answer(layout.BASE, "one") == 0
    before = {file: file.stat().st_mtime_ns for file in (here.folder / "cells").rglob("*.json")}
    here.checkpoint("two", 2)
    assert here.answer(layout.BASE, "one", "two") == 0
    assert here.answered == len(before) + 4
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())


def test_a_killed_job_keeps_its_finished_cells(here, monkeypatch, capsys):
    answer, done = Answerer.answer, []

    def killed(self: Answerer, asked: Any, speaker: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(asked.key)
        return answer(self, asked, speaker)

    here.checkpoint("one")
    with monkeypatch.context() as patch:
        patch.setattr(Answerer, "answer", killed)
        assert here.answer("one") == 130
    assert "interrupted; run again to continue" in capsys.readouterr().err
    assert here.answered == 3 and not (here.run("one") / layout.ANSWERS).exists()
    before = {key: layout.entry(here.folder / "cells", key).stat().st_mtime_ns for key in done}
    assert here.answer("one") == 0
    assert set(done) < set(here.keys("one").values()) and here.answered == 4
    assert all(layout.entry(here.folder / "cells", key).stat().st_mtime_ns == time for key, time in before.items())


def test_instructions_share_the_weights(here, started):
    """A method that only instructs has the backbone's weights; its likelihoods are the backbone's own cells."""
    here.checkpoint("prompt", 0, Intervention(instructions={"zh": "用中文。"}))
    assert here.answer(layout.BASE, "prompt") == 0
    weights = [read_json(here.run(m) / layout.ANSWERS)["weights"] for m in (layout.BASE, "prompt")]
    assert weights[0] == weights[1]
    base, told = here.keys(layout.BASE), here.keys("prompt")
    assert {place for place in base if base[place] != told[place]} == {("generation", "zh")}


# --- What a key is made of --------------------------------------------------------------------------------------------


def test_another_template_on_the_same_weights(here):
    """Case 37."""
    here.answer(layout.BASE)
    first = here.keys(layout.BASE)
    here.answer(layout.BASE, prompt={"format": "plain", "template": "{prompt}\n"})
    second = here.keys(layout.BASE)
    assert not set(first.values()) & set(second.values())
    here.answer(layout.BASE)
    assert here.keys(layout.BASE) == first


def change(here, name: str, **keys: object) -> None:
    """Change keys of a JSON file of the backbone, and its checksum in the manifest."""
    path = here.backbone.with_name(name)
    write_json(path, json.loads(path.read_text()) | keys)
    content = json.loads(here.backbone.read_text())
    content["files"][name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
    write_json(here.backbone, content)


def test_another_token_that_ends_answers(here):
    here.answer(layout.BASE)
    first = here.keys(layout.BASE)
    entry = here.entry(first["generation", "en"])
    assert entry["identity"]["ends"] == [2]
    change(here, "generation_config.json", eos_token_id=[2, 7])
    assert here.answer(layout.BASE) == 0
    second = here.keys(layout.BASE)
    assert here.entry(second["generation", "en"])["identity"]["ends"] == [2, 7]
    assert not set(first.values()) & set(second.values())


def test_the_same_weights_in_another_architecture(here):
    """The base of the positions changes every answer, and is in no weight."""
    here.answer(layout.BASE)
    first = here.keys(layout.BASE)
    config = json.loads(here.backbone.with_name("config.json").read_text())
    change(here, "config.json", rope_parameters=config["rope_parameters"] | {"rope_theta": 5.0})
    assert here.answer(layout.BASE) == 0
    assert not set(first.values()) & set(here.keys(layout.BASE).values())


def test_examples_are_the_same_for_every_checkpoint_and_run(here):
    """Case 38."""
    here.checkpoint("one")
    benchmarks = {"capitals": TASK}

    def prompts(*methods: str) -> list[list[str]]:
        assert here.answer(*methods, benchmarks=benchmarks) == 0
        return [[row["prompt"] for row in here.rows(method, "capitals")] for method in methods]

    base, one = prompts(layout.BASE, "one")
    assert base == one and base[0].count("Land") == 2
    torch.rand(3)
    for file in (here.folder / "cells").rglob("*.json"):
        file.unlink()
    assert prompts("one", layout.BASE) == [one, base]
    keys = here.keys(layout.BASE)
    assert here.answer(layout.BASE, benchmarks={"capitals": TASK | {"fewshot_seed": 5}}) == 0
    assert here.keys(layout.BASE) != keys


# --- Scores -----------------------------------------------------------------------------------------------------------


def test_scores_need_no_torch(here):
    benchmarks = {"generation": GENERATION, "likelihood": LIKELIHOOD}
    assert here.answer(layout.BASE, benchmarks=benchmarks) == 0
    program = (
        "import sys; from lensflow.cli.main import main; code = main(sys.argv[1:])\n"
        "print(code, sorted({'torch', 'transformers', 'vllm', 'safetensors'} & set(sys.modules)))"
    )
    run, config = here.run(layout.BASE), json.dumps({"cells": here.cells(benchmarks)})
    arguments = ["score", "--config", config, "--answers", run / layout.ANSWERS, "--output", run / layout.SCORES]
    arguments += ["--corpora", here.folder / "data", "--items", here.folder / "benchmarks"]
    arguments += ["--cache", here.folder / "cells"]
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0 []\n", done.stderr
    assert {cell["benchmark"] for cell in read_json(run / layout.SCORES)["cells"]} == set(benchmarks)


def test_a_configuration_in_a_file_is_an_input(here):
    assert here.answer(layout.BASE) == 0
    run, config = here.run(layout.BASE), here.folder / "score.json"
    assert here.score(layout.BASE) == 0
    inline = (run / layout.SCORES).read_bytes()
    write_json(config, {"cells": here.cells(None)})
    given = ("--answers", str(run / layout.ANSWERS), "--output", str(run / layout.SCORES))
    folders = ("--corpora", str(here.folder / "data"), "--items", str(here.folder / "benchmarks"))
    folders += ("--cache", str(here.folder / "cells"), "--tasks", str(here.folder))
    assert main.main(["score", "--config", str(config), *folders, *given]) == 0
    assert (run / layout.SCORES).read_bytes() == inline
    record = read_json(run / f"{layout.SCORES}{RECORD}")
    assert {"name": config.name, "sha256": file_digest(config)} in record["sources"]


def test_a_new_metric_is_scored_from_finished_answers(here, monkeypatch, started):
    assert here.answer(layout.BASE) == 0
    started.clear()
    before = here.answered
    made_up = catalogue.Metric(
        "generation", "↑", 1, "characters per answer", lambda sample, language: len(sample["answer"]), needs=("answer",)
    )
    monkeypatch.setattr("lensflow.stages.score.METRICS", catalogue.METRICS | {"length": made_up})
    assert here.score(layout.BASE) == 0
    assert started == [] and here.answered == before
    cells = {(c["benchmark"], c["language"]): c for c in read_json(here.run(layout.BASE) / layout.SCORES)["cells"]}
    found = {place: [s for s in cell["scores"] if s["metric"] == "length"] for place, cell in cells.items()}
    assert found["likelihood", "en"] == []
    (score,) = found["generation", "en"]
    said = [len(row["answer"]) for row in here.rows(layout.BASE, "generation")]
    assert score["items"] == said and score["value"] == pytest.approx(sum(said) / 3)
    samples = read_jsonl(here.run(layout.BASE) / "samples" / "generation.en.jsonl")
    assert [len(sample["answer"]) for sample in samples] == said


def test_lm_evals_tasks_are_scored_from_stored_answers(here, started):
    benchmarks = {"capitals": TASK}
    assert here.answer(layout.BASE, benchmarks=benchmarks) == 0
    started.clear()
    assert here.score(layout.BASE, benchmarks) == 0
    assert started == []
    rows = here.rows(layout.BASE, "capitals")
    (cell, _) = read_json(here.run(layout.BASE) / layout.SCORES)["cells"]
    (score,) = cell["scores"]
    best = [int(rows[2 * n + 1]["logprob"] > rows[2 * n]["logprob"]) for n in range(3)]  # two choices of equal length
    assert score["items"] == [float(choice == n % 2) for n, choice in enumerate(best)]


def test_answers_that_are_gone_are_asked_for_again(here, capsys):
    assert here.answer(layout.BASE) == 0
    layout.entry(here.folder / "cells", here.keys(layout.BASE)["generation", "zh"]).unlink()
    assert here.score(layout.BASE) == 2
    assert "error: generation, zh: its answers are missing; run again to make them" in capsys.readouterr().err
    assert not (here.run(layout.BASE) / layout.ANSWERS).exists()  # so that the workflow runs `answer`
    assert here.answer(layout.BASE) == here.score(layout.BASE) == 0


# --- From outside the package -----------------------------------------------------------------------------------------


def test_a_kind_of_benchmark_from_outside(here, outside):
    kind = outside("chosen", "")
    outside("chosen", KIND.format(name=kind))
    benchmarks = {"mine": {"kind": kind, "corpus": "embedded"}}
    assert here.answer(layout.BASE, benchmarks=benchmarks) == here.score(layout.BASE, benchmarks) == 0
    (cell, _) = read_json(here.run(layout.BASE) / layout.SCORES)["cells"]
    nll = next(score for score in cell["scores"] if score["metric"] == "nll")
    rows = here.rows(layout.BASE, "mine")
    assert nll["items"] == [row["nll"] for row in rows] and min(nll["items"]) > 0
    first = here.keys(layout.BASE)
    outside("chosen", KIND.format(name=kind).replace("[70, 71]", "[70, 72]"))
    assert here.answer(layout.BASE, benchmarks=benchmarks) == 0  # in this process the module is the old one …
    for function in (code._summary, code.code_digest, code.imports_of):
        function.cache_clear()
    assert here.answer(layout.BASE, benchmarks=benchmarks) == 0
    assert not set(first.values()) & set(here.keys(layout.BASE).values())  # … and its code is part of the key


def test_an_engine_from_outside(here, outside):
    name = outside("parrot", ENGINE)
    here.checkpoint("one")
    assert here.answer(layout.BASE, "one", engine=name) == 0
    assert [row["answer"] for row in here.rows("one", "generation")] == ["said"] * 3
    assert [row["nll"] for row in here.rows("one", "likelihood")] == [3.0] * 3
    (swapped,) = sys.modules[name].SWAPS
    assert swapped and all(".layers.3." in tensor for tensor in swapped)
    assert here.entry(here.keys("one")["generation", "en"])["identity"]["engines"] == [name]


def test_an_engine_that_is_not_there(here, capsys):
    assert here.answer(layout.BASE, engine="no_such.engine") == 2
    message = "evaluation.engine: no module no_such.engine; install it or add its folder to PYTHONPATH"
    assert message in capsys.readouterr().err
    assert here.answered == 0


@pytest.mark.parametrize("missing", ["READS", "start"])
def test_an_engine_that_lacks_something(here, outside, capsys, missing):
    name = outside(f"no_{missing.lower()}", ENGINE.replace(missing, "other"))
    assert here.answer(layout.BASE, engine=name) == 2
    assert f"evaluation.engine: module {name} has no '{missing}'; add it" in capsys.readouterr().err


def test_a_delta_of_another_backbone(here):
    run = here.checkpoint("one")
    save_file({"model.layers.77.weight": torch.zeros(2)}, run / layout.DELTA)
    stage = {"prompt": PLAIN, "evaluation": {"engine": "hf"}, "cells": [], "checkpoints": {}}
    session = Session(here.backbone, Answering.model_validate(stage), Resources())
    with pytest.raises(LensflowError, match=r"tensor 'model\.layers\.77\.weight' is not in .*another backbone$"):
        session.engine("hf", run / layout.DELTA)
