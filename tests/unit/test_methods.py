"""Methods by their kind: those of the package and one's own, and what a training is written down to have taken."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensflow.artifacts.texts import read_texts
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.measures import catalogue
from lensflow.methods.base import Run, StateFiles
from lensflow.methods.registry import METHODS, AnyMethod, method_digest, method_modules
from lensflow.provenance.code import code_digest
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.extraction import Extraction
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.stages import train
from lensflow.stages.collect_scores import SWEPT
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_json, read_jsonl
from tests import tiny

METHOD = """
from typing import Literal
from lensflow.methods.base import Method, Trained
from lensflow.schema.types import Positive

class Config(Method):
    kind: Literal["{package}.{name}"]
    scale: Positive = 1.0

def train(run):
    from lensflow.artifacts import deltas
    deltas.write({{}}, run.backbone.parent, run.output)
    return Trained(tokens=3, parameters=4, earlier_seconds=100.0)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a module of the user's in a package of its own; return its kind."""
    package = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / package).mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, content: str = METHOD) -> str:
        path = tmp_path / package / f"{name}.py"
        path.write_text(content.format(package=package, name=name))
        return f"{package}.{name}"

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


def refused(entry: dict) -> str:
    with pytest.raises(LensflowError) as error:
        parse(dict[str, AnyMethod], {"mine": entry}, "config: methods")
    return str(error.value)


# --- By kind ----------------------------------------------------------------------------------------------------------


def test_every_method_of_the_package_is_one_file():
    folder = METHODS.folder
    files = {path.stem for path in folder.glob("[a-z]*.py")} | {path.parent.name for path in folder.glob("*/kind.py")}
    assert METHODS.builtin() == sorted(files - METHODS.shared)
    for kind in METHODS.builtin():
        needed = {"directions": "owner/name"} if kind == "shared" else {}
        assert parse(AnyMethod, {"kind": kind} | needed).kind == kind
        assert METHODS.config_of(kind).__doc__
        assert hasattr(METHODS.module_of(kind), "train") == (kind != "base")


def test_reading_the_methods_imports_nothing_slow():
    """The workflow does so whenever it starts."""
    program = (
        "import sys; from lensflow.methods.registry import METHODS, method_digest\n"
        "import lensflow.workflow.plan\n"
        "for kind in METHODS.builtin(): METHODS.config_of(kind); method_digest(kind)\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_method_of_ones_own(own):
    kind = own("mine")
    method = parse(AnyMethod, {"kind": kind, "scale": 0.5})
    assert method.canonical() == {"kind": kind, "scale": 0.5}
    assert parse(AnyMethod, method.canonical()) == method
    assert refused({"kind": kind, "scal": 2.0}).startswith(
        "config: methods: mine: unknown key 'scal'; did you mean 'scale'?"
    )
    assert refused({"kind": kind, "scale": "1e-2"}).startswith(
        "config: methods: mine.scale: must be a number, '1e-2' is text (YAML reads"
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "mine.kind: is missing; add it"),
        ({"kind": 3}, "mine.kind: must be text"),
        (3, "mine: must be a mapping, not 3"),
        ({"kind": "sfft"}, "mine: no kind 'sfft'; did you mean 'sft'?"),
        (
            {"kind": "no_such.thing"},
            "mine.kind: module 'no_such.thing' cannot be imported (ModuleNotFoundError: No module named 'no_such'); "
            "correct it, or install it or add its folder to PYTHONPATH",
        ),
        ({"kind": ".lens"}, "mine.kind: module '.lens' cannot be imported (TypeError"),
        (
            {"kind": "os.path"},
            "mine.kind: module 'os.path' has no class Config, a subclass of lensflow.methods.base.Method",
        ),
        ({"kind": "sft", "lora": {"rnk": 3}}, "mine.lora: unknown key 'rnk'; did you mean 'rank'?"),
        ({"kind": "sft", "lora": {"rank": 0}}, "mine.lora.rank: must be greater than or equal to 1, not 0"),
        ({"kind": "cpt", "languages": "some"}, "mine.languages: must be 'targets' or 'all', not 'some'"),
        ({"kind": "qalign", "languages": "all"}, "mine: unknown key 'languages'; "),
        (
            {"kind": "lens", "direction": "up"},
            "mine.direction: must be 'own', 'random', 'permuted', 'negative', 'common', 'rotated', ",
        ),
    ],
)
def test_a_refused_method(entry, message):
    assert refused(entry).startswith(f"config: methods: {message}")


def test_a_module_that_is_not_a_method(own):
    assert "cannot be imported (SyntaxError: " in refused({"kind": own("broken", "def train(:")})
    kind = own("halved", METHOD.split("def train")[0])
    assert refused({"kind": kind}) == f"config: methods: mine.kind: module '{kind}' has no function train(run); add one"


def test_the_code_behind_a_method(own):
    digests = {kind: method_digest(kind) for kind in METHODS.builtin()}
    assert len(set(digests.values())) == len(digests)
    assert digests["lens"] == code_digest("lensflow.stages.train", "lensflow.methods.lens.kind")
    assert "lensflow.methods.lens.training" in set(method_modules("lens")) - set(method_modules("sft"))
    content = METHOD.replace('"{package}.{name}"', '"own"')
    first, commented, changed = (
        method_digest(own(name, text))
        for name, text in (
            ("first", content),
            ("commented", content.replace("def train", "# A comment.\ndef train")),
            ("changed", content.replace("= 1.0", "= 2.0")),
        )
    )
    assert first == commented != changed


# --- What a training took ---------------------------------------------------------------------------------------------


@pytest.fixture
def run(checkpoint, tmp_path):
    def build(method: dict, **more) -> Run:
        manifest = tmp_path / "backbone" / "manifest.json"
        tiny.backbone(checkpoint("llama"), manifest)
        setting = Setting.model_validate({"central": "en", "languages": list(tiny.LANGUAGES)})
        texts = {language: tmp_path / f"{language}.jsonl" for language in tiny.LANGUAGES}
        for path in texts.values():
            write_jsonl(path, [{"id": str(i), "split": "train", "prompt": "a b c", "answer": "d"} for i in range(5)])
        output = tmp_path / "run" / "seed0" / "delta.safetensors"
        prompt = PlainPrompt(format="plain")
        fields = {"method": parse(AnyMethod, method), "setting": setting, "seed": 0, "prompt": prompt}
        return Run(**fields | {"backbone": manifest, "texts": texts, "output": output} | more)

    return build


def test_all_methods_have_the_same_files(run, own):
    this = run({"kind": own("mine")})
    for name in ("history.jsonl", "dev_states.safetensors", "intervention.safetensors"):  # of another method
        this.output.parent.mkdir(parents=True, exist_ok=True)
        this.output.with_name(name).write_text("old")
    train.train_measured(this)
    assert read_jsonl(this.output.with_name("history.jsonl")) == []
    assert load_file(this.output.with_name("dev_states.safetensors")) == {}
    assert load_file(this.output.with_name("intervention.safetensors")) == {}
    took = read_json(this.output.with_name("cost.json"))
    assert (took["tokens"], took["trained_parameters"], took["device"]) == (3, 4, "cpu")
    assert 100 < took["seconds"] < 110
    assert took["peak_memory"] > 2e7  # bytes, of a process that has imported torch


def test_the_cost_of_fine_tuning(run):
    this, started = run({"kind": "sft", "epochs": 2}), time.monotonic()
    train.train_measured(this)
    took = read_json(this.output.with_name("cost.json"))
    assert 0 < took["seconds"] <= time.monotonic() - started
    assert took["tokens"] == 2 * 10 * len("<Question: a b c\nAnswer: d>")  # of one byte each, with BOS and EOS
    assert read_jsonl(this.output.with_name("history.jsonl"))


@pytest.mark.parametrize("batch_of", ["pairs", "texts"])
def test_the_cost_of_lens(stages, tmp_path, batch_of):
    files = stages("llama")
    method = parse(AnyMethod, {"kind": "lens", "epochs": 2, "layers": 1, "batch_of": batch_of})
    hidden = StateFiles(Extraction(trainable_layers=2), files.subspaces["post_norm"], files.states)
    output = tmp_path / "lens" / "seed0" / "delta.safetensors"
    prompt, manifest = PlainPrompt(format="plain"), files.checkpoint / "manifest.json"
    train.train_measured(Run(method, files.setting("post_norm"), 0, prompt, manifest, files.texts, output, hidden))
    took = read_json(output.with_name("cost.json"))
    used = len(read_texts(files.texts["en"], ["train"]))
    length = {code: sum(map(len, ids[:used])) for code, ids in files.sequences.items()}
    central = length["en"] * (2 if batch_of == "pairs" else 1)  # once for every target, or once for both
    assert took["tokens"] == 2 * (central + length["zh"] + length["sw"])
    layer = {name: value for name, value in load_file(output).items() if ".layers.3." in name}
    assert took["trained_parameters"] == sum(value.numel() for value in layer.values())
    assert load_file(output.with_name("dev_states.safetensors"))


def test_lens_needs_its_inputs(tmp_path, capsys):
    stage = {"method": {"kind": "lens"}, "setting": {"central": "en", "languages": ["en", "zh"]}, "seed": 0}
    stage["prompt"] = {"format": "plain"}
    output = str(tmp_path / "delta.safetensors")
    arguments = ["train", "--config", json.dumps(stage), "--backbone", "b", "--texts", "t", "--output", output]
    assert main.main(arguments) == 2
    assert "\nerror: kind lens needs --subspaces, --states" in capsys.readouterr().err
    assert not (tmp_path / "config.json").exists()


def test_a_method_of_ones_own_that_returns_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(train.METHODS, "module_of", lambda kind: SimpleNamespace(train=lambda run: None))
    run = SimpleNamespace(method=SimpleNamespace(kind="my.method"), output=tmp_path / "delta.safetensors", gpus=0)
    with pytest.raises(LensflowError, match=r"^kind my\.method: its function train returns no Trained; return one$"):
        train.train_measured(run)


@pytest.mark.parametrize(
    ("stage", "config", "message"),
    [
        ("train", {"method": {}}, "--config method: kind: is missing; add it"),
        ("train", {"method": {"kind": "nope"}}, "--config method: no kind 'nope'; known: base, "),
        ("score", {"cells": [{"name": "g", "benchmark": {"kind": "nope"}, "languages": ["en"]}]}, "no kind 'nope'"),
    ],
)
def test_a_kind_that_is_not_there_is_said_in_one_line(tmp_path, capsys, stage, config, message):
    setting = {"central": "en", "languages": ["en", "zh"]}
    content = {"setting": setting, "prompt": {"format": "plain"}, "seed": 0} if stage == "train" else {}
    given = {
        "train": ["--backbone", "b", "--texts", "t"],
        "score": ["--answers", "a", "--corpora", "c", "--items", "i", "--cache", "c"],
    }
    arguments = ["--config", json.dumps(content | config), *given[stage], "--output", str(tmp_path / "output")]
    assert main.main([stage, *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


# --- Figures of runs with and without hidden states -------------------------------------------------------------------


def test_figures_of_methods_without_hidden_states(stages, tmp_path):
    files, setting = stages("llama"), {"central": "en", "languages": list(tiny.LANGUAGES)}
    runs = {name: tmp_path / "tiny" / "trio" / name / "seed0" for name in ("lens", "sft", "quiet")}
    loss = [{"step": step, "epoch": step / 2, "split": "train", "loss": 3.0 - step} for step in (1, 2)]
    states = {f"{when}.{code}": torch.randn(4, tiny.WIDTH) for when in ("before", "after") for code in tiny.LANGUAGES}
    for name, rows, tensors in (("lens", loss, states), ("sft", loss, {}), ("quiet", [], {})):
        write_jsonl(runs[name] / "history.jsonl", rows)
        save_file(tensors, runs[name] / "dev_states.safetensors")
    place = {"benchmark": "cldr", "metric": "accuracy", "language": "en", "n": 4, "value": 0.5, "low": 0.2, "high": 0.8}
    row = {"backbone": "tiny", "setting": "trio", "method": "base", "seeds": "0"} | place
    columns = dict.fromkeys([*catalogue.COLUMNS, *catalogue.COMPARED])
    pd.DataFrame([columns | row]).to_csv(tmp_path / "comparisons.csv", index=False)
    pd.DataFrame([row | {"seed": 0}]).to_csv(tmp_path / "scores.csv", index=False)
    pd.DataFrame(columns=[*SWEPT, *columns]).to_csv(tmp_path / "sweeps.csv", index=False)
    files_of = [
        text for name in ("scores", "comparisons", "sweeps") for text in (f"--{name}", f"{tmp_path}/{name}.csv")
    ]
    config = {"settings": {"trio": setting}, "blocks": [["tiny", "trio"]], "methods": {}, "told_language": []}
    config |= {"title": "t", "backbones": {}, "order": [], "versus": None, "evaluation": {}, "extraction": {}}
    config |= {"command": "snakemake", "results": "results"}

    def drawn(*names: str, subspaces: tuple[str, ...] = ()) -> set[str]:
        folder = tmp_path / "-".join(names)
        histories = [str(runs[name] / "history.jsonl") for name in names]
        arguments = ["make-figures", "--config", json.dumps(config), "--backbone", "tiny", "--setting", "trio"]
        arguments += [*files_of, *subspaces, "--runs", *histories, "--output", str(folder)]
        assert main.main(arguments) == 0
        return {path.name for path in folder.glob("*.svg")}

    fitted = ("--subspaces", str(files.subspaces["post_norm"]))
    assert drawn("lens", "sft", "quiet", subspaces=fitted) == {"training.svg", "states.lens.seed0.svg"}
    assert drawn("sft", "quiet", subspaces=("--subspaces",)) == {"training.svg"}
    assert drawn("quiet") == set()
