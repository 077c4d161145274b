"""User mistakes: an exit code that is not 0, one line that says what to do, and nothing computed."""

import errno
import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import save_file

from lensflow.cli import main
from tests.workflow.workspace import REPOSITORY, Workspace, write_checkpoint

Check = Callable[[dict], str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the catalog, a tiny backbone in `model/` and a copy of the embedded corpus in `corpus/`."""
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    shutil.copytree(str(files("lensflow.data") / "corpus"), tmp_path / "corpus")
    write_checkpoint(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def error(project: Path, capsys: pytest.CaptureFixture) -> Check:
    """Run `lensflow check` on a configuration that must be refused; return the one line that it prints."""

    def check(config: dict) -> str:
        (project / "config" / "bad.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
        return refused(["check", "--configfile", "config/bad.yaml"], capsys)

    yield check
    assert not (project / "results").exists()


def refused(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    assert main.main(arguments) == 2
    output, said = capsys.readouterr()
    assert output == ""
    # A stage's log begins with versions and command.
    (message,) = (line for line in said.splitlines() if not line.startswith("# python "))
    assert message.startswith("error: ")
    return message


def test_the_configuration_of_these_tests_is_accepted(project, config, capsys):
    config["extraction"] = config.get("extraction", {}) | {"max_tokens": 1000}  # a token is a byte here
    (project / "config" / "good.yaml").write_text(yaml.safe_dump(config))
    assert main.main(["check", "--configfile", "config/good.yaml"]) == 0
    assert capsys.readouterr().out == "ok: config/good.yaml: 1 backbones, 5 checkpoints, 4 to train\n"


def test_without_a_name_the_file_that_new_writes_is_checked(project, config, capsys):
    config["extraction"] = config.get("extraction", {}) | {"max_tokens": 1000}
    (project / "lensflow.yaml").write_text(yaml.safe_dump(config))
    assert main.main(["check"]) == 0
    assert capsys.readouterr().out == "ok: lensflow.yaml: 1 backbones, 5 checkpoints, 4 to train\n"


def put(config: dict, path: str, value: object) -> None:
    *folders, last = path.split("/")
    for key in folders:
        config = config[int(key)] if isinstance(config, list) else config[key]
    config[int(last) if isinstance(config, list) else last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # unknown or misspelt
        ("titel", "x", "config: unknown key 'titel'; did you mean 'title'?"),
        ("methods/lens-a/lamda", 1.0, "methods.lens-a: unknown key 'lamda'; did you mean 'lambda'?"),
        ("methods/lens-a/weights/pul", 1.0, "methods.lens-a.weights: unknown key 'pul'; did you mean 'pull'?"),
        ("methods/lens-a/kind", "lense", "methods.lens-a: no kind 'lense'; did you mean 'lens'?"),
        ("backbones/tiny/prompt/format", "chatt", "backbones.tiny.prompt: no format 'chatt'; did you mean 'chat'?"),
        ("runs/0/backbones", ["tini"], "runs[0].backbones: no 'tini'; did you mean 'tiny'?"),
        ("runs/0/settings", ["en-zhh"], "runs[0].settings: no 'en-zhh'; did you mean 'en-zh'?"),
        ("runs/0/methods", ["lens-c"], "runs[0].methods: no 'lens-c'; did you mean 'lens-"),
        ("versus", "lens-c", "versus: no run has the method 'lens-c'; did you mean 'lens-"),
        ("runs/0/benchmarks", ["cdlr"], "runs[0].benchmarks: no 'cdlr'; did you mean 'cldr'?"),
        ("settings/en-zh/probing", "embeded", "settings.en-zh.probing: no corpus 'embeded'; did you mean 'embedded'?"),
        ("settings/en-zh/languages/1", "Chinese", "settings.en-zh.languages[1]: must be a BCP 47 tag"),
        ("settings/en-zh/languages/1", "Chinees", "or 'pt-BR', not 'Chinees'; did you mean 'zh' (Chinese)?"),
        ("retention_margins", {"repeats": 0.1}, "retention_margins: no metric 'repeats'; known: "),
        ("evaluation", {"engine": "vlm"}, "evaluation.engine: no 'vlm'; did you mean 'vllm'? (known: auto, hf, vllm)"),
        ("limit", 5, "config: unknown key 'limit'; it belongs in a section: evaluation.limit"),
        ("seeds", [0], "config: unknown key 'seeds'; it belongs in a section: runs[0].seeds"),
        # out of range or of the wrong type
        ("methods/lens-a/lr", "1e-5", "methods.lens-a.lr: must be a number, '1e-5' is text (YAML reads 1e-5 as text"),
        ("methods/lens-a/lr", -1.0, "methods.lens-a.lr: must be greater than 0, not -1.0"),
        ("methods/lens-a/lr", float("nan"), "methods.lens-a.lr: must be a finite number, not nan"),
        ("methods/lens-a/layers", 1.5, "methods.lens-a.layers: must be a valid integer, not 1.5"),
        ("methods/lens-a/layers", True, "methods.lens-a.layers: must be a valid integer, not True"),
        ("methods/lens-a/layers", 3, "methods.lens-a.layers: 3 is more than extraction.trainable_layers (2)"),
        ("methods/lens-a/warmup", 1.0, "methods.lens-a.warmup: must be less than 1, not 1.0"),
        ("methods/lens-a/lambda", {"zh": "1e-1"}, "methods.lens-a.lambda.zh: must be a number, '1e-1' is text"),
        ("methods/lens-a/lambda", {"zh": 0.1}, "methods.lens-a.lambda: no value for sw of setting en-sw"),
        ("settings/en-zh/rank", 2, "settings.en-zh: rank: 2 is more than the number of languages less one; lower it"),
        ("runs/0/seeds", 0, "runs[0].seeds: must be a list, not 0; write [0]"),
        ("runs/0/seeds", [0, 1, 0], "runs[0].seeds: '0' occurs twice; remove one"),
        ("runs/0/methods", ["base", "base"], "runs[0].methods: 'base' occurs twice; remove one"),
        ("runs/0/methods", "base, lens-a", "runs[0].methods: must be a list, not 'base, lens-a'; write [base, lens-a]"),
        ("runs/0/benchmarks", "cldr", "runs[0].benchmarks: must be a list, not 'cldr'; write [cldr]"),
        ("runs", {"methods": ["base"]}, "config: runs: must be a list; begin every entry with '- '"),
        ("runs/0/methods", [], "runs[0].methods: must not be empty"),
        ("backbones/tiny/source", {"kind": "folder"}, "backbones.tiny.source.path: is missing; add it"),
        ("backbones/data", None, "backbones.data: must be a mapping, not None"),
        # languages
        ("settings/en-zh/languages", ["en"], "settings.en-zh: languages: at least two are needed"),
        ("settings/en-zh/languages", ["en", "zh", "zh"], "settings.en-zh: languages: a language occurs twice"),
        (
            "settings/en-zh/languages",
            ["en", "zh", "zh-Hans"],
            "languages: 'zh' and 'zh-Hans' are one language",
        ),
        ("settings/en-zh/languages", ["zh", "ja"], "settings.en-zh: central language 'en' is missing from languages"),
        ("settings/en-zh/languages", ["en", False], "settings.en-zh.languages[1]: must be text (YAML reads no"),
        ("settings/en-zh/languages/1", "fr", "corpus 'embedded' has no language 'fr'; it has en, zh, ja, ko, ar, bn"),
    ],
)
def test_configuration(config, error, path, value, message):
    put(config, path, value)
    assert message in error(config)


def test_a_backbone_must_not_be_called_like_a_folder_of_the_workflow(config, error):
    config["backbones"]["data"] = config["backbones"]["tiny"]
    config["runs"][0]["backbones"] = ["data"]
    assert "backbones.data: the workflow has a folder of this name; choose another" in error(config)


def test_an_unknown_configuration_file(project, capsys):
    assert "config/none.yaml: no such file" in refused(["check", "--configfile", "config/none.yaml"], capsys)


def test_a_configuration_file_that_is_not_yaml(project, capsys):
    (project / "config" / "bad.yaml").write_text("runs: [")
    assert "config/bad.yaml, line 2: not valid YAML (" in refused(["check", "--configfile", "config/bad.yaml"], capsys)


# The corpus


def own_corpus(config: dict) -> None:
    config["corpora"] = {"own": {"path": "corpus", "license": "none"}}
    for setting in config["settings"].values():
        setting["probing"] = "own"


def damage(line: str, how: str) -> str:
    row = json.loads(line)
    if how == "empty line":
        return ""
    if how == "not JSON":
        return line[:-1]
    if how == "no language":
        del row["prompt"]["sw"]
    elif how == "odd language":
        row["prompt"]["fr"] = "Bonjour"
    elif how == "empty prompt":
        row["prompt"]["zh"] = " "
    elif how == "not text":
        row["prompt"]["zh"] = 1
    elif how == "no prompt":
        del row["prompt"]
    elif how == "answer":
        row["answer"] = "yes"
    return json.dumps(row, ensure_ascii=False)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty line", "dev.jsonl, line 2: empty line; remove it"),
        ("not JSON", "dev.jsonl, line 2: not valid JSON"),
        ("no language", "dev.jsonl, line 2: lacks language 'sw'"),
        ("odd language", "dev.jsonl, line 2: has, unlike the lines before it, language 'fr'"),
        ("empty prompt", "dev.jsonl, line 2: the zh prompt is empty"),
        ("not text", "dev.jsonl, line 2: the zh prompt is not text; correct the line"),
        ("no prompt", 'dev.jsonl, line 2: must be {"id": text, "prompt": {language: text, ...}}'),
        ("answer", "dev.jsonl, line 2: answer must be {language: text, ...}"),
    ],
)
def test_a_bad_line_of_a_corpus(project, config, error, how, message):
    own_corpus(config)
    path = project / "corpus" / "dev.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[1] = damage(lines[1], how)
    path.write_text("\n".join(lines), encoding="utf-8")
    assert message in error(config)


def test_a_repeated_line_of_a_corpus(project, config, error):
    own_corpus(config)
    path = project / "corpus" / "test.jsonl"
    first = json.loads((project / "corpus" / "train.jsonl").read_text(encoding="utf-8").split("\n")[0])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(first) + "\n")
    assert "test.jsonl, line 201: id 'train-001' occurs already in" in error(config)


def test_a_repeated_text_of_a_corpus(project, config, error):
    own_corpus(config)
    path = project / "corpus" / "test.jsonl"
    first = json.loads((project / "corpus" / "train.jsonl").read_text(encoding="utf-8").split("\n")[0])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(first | {"id": "another"}) + "\n")
    message = error(config)
    assert "test.jsonl, line 201: the en prompt is the same as in" in message
    assert "train.jsonl, line 1; rewrite or remove one" in message


def test_a_corpus_without_a_split(project, config, error):
    own_corpus(config)
    (project / "corpus" / "dev.jsonl").unlink()
    assert "corpus/dev.jsonl: no such file" in error(config)


def test_a_corpus_with_an_empty_split(project, config, error):
    own_corpus(config)
    (project / "corpus" / "dev.jsonl").write_text("")
    assert "corpus/dev.jsonl: no items; write at least one" in error(config)


def test_a_corpus_without_a_folder(project, config, error):
    own_corpus(config)
    shutil.rmtree(project / "corpus")
    assert "corpus: no such folder; it must hold train.jsonl, dev.jsonl and test.jsonl" in error(config)


# Methods


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "no_such.thing"}, "config: methods.own.kind: module 'no_such.thing' cannot be imported (ModuleNotF"),
        ({"kind": "os.path"}, "config: methods.own.kind: module 'os.path' has no class Config, a subclass of"),
        ({"lr": 1.0}, "config: methods.own.kind: is missing; add it"),
        ({"kind": "lens", "direction": "permuted"}, "methods.own.direction: permuted needs at least two target lang"),
        ({"kind": "sft", "lora": {"rank": 0}}, "config: methods.own.lora.rank: must be greater than or equal to 1"),
        ({"kind": "sft", "examples": 121}, "methods.own.examples: 121 is more than the 120 items to train on in corp"),
        ({"kind": "logit_bias", "lambda": {"zh": 0.1}}, "methods.own.lambda: no value for sw of setting en-sw"),
        ({"kind": "logit_bias", "lambda": "1e-1"}, "methods.own.lambda: must be a number, '1e-1' is text"),
        (
            {"kind": "prompt", "instruction": {"zh": "x"}},
            "methods.own.instruction: no text for sw of setting en-sw; ad",
        ),
        ({"kind": "prompt", "instruction": "Hi"}, "methods.own.instruction: must contain {language_name}, or be a map"),
        ({"kind": "qalign", "examples": 121}, "methods.own.examples: 121 is more than the 120 items to train on in"),
    ],
)
def test_a_method(config, error, entry, message):
    config["methods"]["own"] = entry
    config["runs"][0]["methods"] = ["own"]
    assert message in error(config)


@pytest.mark.parametrize("kind", ["logit_bias", "lsar"])
def test_directions_of_states_before_the_norm(config, error, kind):
    config["methods"]["own"] = {"kind": kind}
    config["runs"][0]["methods"] = ["own"]
    config["settings"]["en-sw"]["space"] = "pre_norm"
    message = f"methods.own.kind: {kind} changes states after the final norm, setting en-sw has space: pre_norm; set it"
    assert message in error(config)


def test_fine_tuning_without_answers(project, config, error):
    own_corpus(config)
    for setting in config["settings"].values():
        setting["training"] = "own"
    path = project / "corpus" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        del row["answer"]["sw"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config["methods"]["sft"] = {"kind": "sft"}
    config["runs"][0]["methods"] = ["sft"]
    message = "methods.sft.kind: sft trains on answers, and corpus 'own' has none in 'sw'; add them to its train.jsonl"
    assert message in error(config)


# Benchmarks


def rename_language(project: Path, old: str, new: str) -> None:
    for path in (project / "corpus").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            for texts in (row["prompt"], row.get("answer", {})):
                if old in texts:
                    texts[new] = texts.pop(old)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_benchmark_without_a_language(project, config, error):
    own_corpus(config)
    rename_language(project, "zh", "fr")
    config["settings"]["en-zh"] = {"central": "en", "languages": ["en", "fr"], "probing": "own", "training": "own"}
    message = error(config)
    assert "benchmarks.generation: corpus 'embedded' has no language 'fr'; it has en, zh, ja, ko, ar, bn, sw" in message


COPA = {
    "kind": "lm_eval",
    "task": "xcopa/xcopa_{code}",
    "dataset": {"path": "my/copa", "columns": ["premise"]},
    "languages": {"zh": "zh"},
}


@pytest.mark.parametrize(
    ("changes", "benchmarks", "message"),
    [
        (
            {},
            ["copa"],
            "benchmarks.copa: no language 'en' (setting en-zh); it has zh; add it there, or name in the run",
        ),
        ({}, [{"copa": ["sw"]}], "benchmarks.copa: no language 'sw' (setting en-zh); it has zh; add it there"),
        ({}, [{"copa": []}], "runs[0].benchmarks: must not be empty"),
        ({}, ["copa", {"copa": ["zh"]}], "runs[0].benchmarks: 'copa' occurs twice; remove one"),
        (
            {"languages": {"zh": {"config": "zh", "task": "xcopa/xcopa_zz"}}},
            [{"copa": ["zh"]}],
            "benchmarks.copa: task xcopa/xcopa_zz: no file in ",
        ),
        ({"task": "nowhere/copa"}, [{"copa": ["zh"]}], "benchmarks.copa: task nowhere/copa: no folder nowhere"),
        ({"task": "copa"}, [{"copa": ["zh"]}], "benchmarks.copa.task: "),
        ({"dataset": {"path": "../copa", "columns": ["a"]}}, [{"copa": ["zh"]}], "benchmarks.copa.dataset.path: "),
        ({"dataset": {"path": "my/copa"}}, [{"copa": ["zh"]}], "benchmarks.copa.dataset.columns: is missing; add it"),
        ({"languages": {}}, [{"copa": ["zh"]}], "benchmarks.copa.languages: "),
    ],
)
def test_mistakes_in_a_benchmark_from_a_data_set(project, config, error, changes, benchmarks, message):
    config["benchmarks"] = {"copa": COPA | changes}
    config["runs"] = [config["runs"][0] | {"settings": ["en-zh"], "benchmarks": benchmarks}]
    assert message in error(config)


def test_a_multiple_choice_benchmark_without_a_language(project, config, error):
    own_corpus(config)
    rename_language(project, "zh", "yo")
    config["settings"]["en-zh"] = {"central": "en", "languages": ["en", "yo"], "probing": "own", "training": "own"}
    config["runs"][0]["benchmarks"] = ["cldr"]
    assert "benchmarks.cldr: no language 'yo' (setting en-zh); it has " in error(config)


@pytest.mark.parametrize(
    ("language", "message"),
    [("xx", "language 'xx': unknown code")],
)
def test_a_language_that_no_detector_knows(project, config, error, language, message):
    own_corpus(config)
    rename_language(project, "zh", language)
    config["settings"]["en-zh"] = {"central": "en", "languages": ["en", language], "probing": "own", "training": "own"}
    config["benchmarks"] = {"own": {"kind": "generation", "corpus": "own"}}
    config["runs"] = [config["runs"][0] | {"settings": ["en-zh"], "benchmarks": ["own"]}]
    assert message in error(config)


# Backbones


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_backbone_without_a_file(project, config, error, file):
    (project / "model" / file).unlink()
    message = error(config)
    assert "backbones.tiny.source.path: " in message
    assert f"model/{file} is missing" in message


def test_a_backbone_without_weights(project, config, error):
    (project / "model" / "model.safetensors").unlink()
    assert "backbones.tiny.source.path: no *.safetensors in" in error(config)


def test_a_backbone_without_one_shard(project, config, error):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (project / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model/model-2.safetensors is missing; fetch it again" in error(config)


def test_a_truncated_backbone(project, config, error):
    path = project / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert "model/model.safetensors is truncated or damaged" in error(config)


def test_a_backbone_that_no_package_carries(config, error):
    source = {"kind": "package", "package": "no-such-package", "parts": ["no_such/file.gguf"], "sha256": "0" * 64}
    config["backbones"]["tiny"]["source"] = source
    message = error(config)
    assert message == "error: package no-such-package: missing; install it"


def test_four_bits_without_bitsandbytes(config, error, monkeypatch):
    monkeypatch.setattr("lensflow.methods.base.find_spec", lambda name: None)
    config["methods"]["sft-four"] = {"kind": "sft", "frozen_weights": "nf4"}
    config["runs"][0]["methods"] = ["base", "sft-four"]
    message = error(config)
    assert message.startswith("error: methods.sft-four.frozen_weights: nf4 needs bitsandbytes, which is not installed;")


def test_a_training_on_more_gpus_than_its_backbone_has(config, error):
    config["methods"]["sft-two"] = {"kind": "sft", "gpus": 2}
    config["runs"][0]["methods"] = ["base", "sft-two"]
    assert error(config) == (
        "error: methods.sft-two.gpus: 2 is more than backbones.tiny.resources.gpus (0); raise that, or drop this key"
    )


def test_a_backbone_that_fails_its_checksum(project, config, capsys):
    """Read in full only when it is prepared, the first job of a run."""
    part = "pydantic/__init__.py"
    content = (Path(sysconfig.get_paths()["purelib"]) / part).read_bytes()
    right = hashlib.sha256(content).hexdigest()
    source = {"kind": "package", "package": "pydantic", "parts": [part], "sha256": right[::-1]}
    entry = {"source": source, "license": "CC0-1.0", "prompt": {"format": "plain"}}
    output = project / "results" / "tiny" / "backbone" / "manifest.json"
    arguments = ["prepare-backbone", "--config", json.dumps({"backbone": entry}), "--output", str(output)]
    assert refused(arguments, capsys) == (
        "error: pydantic: the model file fails its checksum; install the package again"
    )
    assert not output.exists()


def test_a_backbone_damaged_after_it_was_prepared(project, config, capsys):
    """Every stage that reads a checkpoint looks at it first."""
    output = project / "out" / "manifest.json"
    kept = {key: config["backbones"]["tiny"][key] for key in ("source", "license", "prompt")}
    entry = json.dumps({"backbone": kept})
    assert main.main(["prepare-backbone", "--config", entry, "--output", str(output)]) == 0
    path = project / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    save_file({}, project / "x.safetensors")
    arguments = ["export", "--backbone", str(output), "--delta", "x.safetensors", "y"]
    assert "model.safetensors: its checksum differs from what stage prepare_backbone" in refused(arguments, capsys)
    assert not output.parent.exists()  # so that Snakemake prepares it again
    assert not (project / "y").exists()


def test_a_delta_that_is_not_there(project, capsys):
    assert "nope.safetensors: no such file; train the method, or name its delta" in refused(
        ["export", "--backbone", "model", "--delta", "nope.safetensors", "out"], capsys
    )


def test_a_chat_prompt_without_a_chat_template(config, error):
    config["backbones"]["tiny"]["prompt"] = {"format": "chat"}
    assert "model: the tokenizer has no chat template; set prompt.format: plain" in error(config)


# The protocol of a study

ENDPOINT = {"benchmark": "generation", "metric": "usable", "language": "targets", "direction": "higher"}
ENDPOINT |= {"test": "superiority", "margin": 0.05, "reason": "one in twenty"}


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"method": "lens-z"}, "claims[0] (helps): no run has the method 'lens-z'; did you mean 'lens-"),
        (
            {"endpoints": [ENDPOINT | {"benchmark": "generatio"}]},
            "is not measured by benchmark 'generatio'; did you mean",
        ),
        ({"endpoints": [ENDPOINT | {"metric": "usabel"}]}, "no metric 'usabel'; did you mean 'usable'"),
        ({"endpoints": [ENDPOINT | {"language": "de"}]}, "is not measured in 'de' by generation; it is in "),
        ({"endpoints": [ENDPOINT | {"margin": 0.0}]}, "claims[0].endpoints[0].margin"),
    ],
)
def test_a_claim_that_the_run_cannot_support(project, config, error, claim, message):
    method = next(name for name in config["runs"][0]["methods"] if name != "base")
    setting = config["runs"][0]["settings"][0]
    claims = [{"name": "helps", "says": "It helps.", "method": method, "endpoints": [ENDPOINT]} | claim]
    protocol = {"backbone": "tiny", "setting": setting, "items": 9, "claims": claims}
    (project / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    assert message in error(config | {"protocol": "protocol.yaml"})


def test_no_protocol_there(config, error):
    assert "protocol: none.yaml: no such file; check the path" in error(config | {"protocol": "none.yaml"})


def test_the_studys_run_measures_what_its_protocol_claims(capsys):
    study = REPOSITORY / "config/study"
    assert main.main(["check", "--configfile", str(study / "primary.yaml")]) == 0
    assert main.main(["check", "--configfile", str(study / "primary.yaml"), str(study / "dev.yaml")]) == 0


# The machine

EMPTY = {"blocks": [], "sweeps": [], "swept": [], "settings": {}, "retention_margins": {}, "versus": None}
COLLECTING = json.dumps(EMPTY)


def test_no_disk_space(config, error):
    config["backbones"]["tiny"]["resources"] = {"disk_gb": 1e9}
    message = error(config)
    assert "GB free, about 2000000000.0 GB needed for tiny; free some space" in message


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no space left on the disk; free some and run again"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "the disk is read-only; make it writable, or run elsewhere"),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "results/a.json"),
            "results/a.json: permission denied; change the permissions, or run elsewhere (--directory)",
        ),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "a file would be larger than is allowed (ulimit -f); raise"),
        (MemoryError(), "not enough memory; free some, or run where there is more"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough GPU memory; lower the"),
        (RuntimeError("you tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)"), "not enough memory"),
    ],
)
def test_what_the_system_refuses_in_the_middle_of_a_job(monkeypatch, capsys, raised, message):
    def write(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("lensflow.stages.collect_scores.run", write)
    said = refused(["collect-scores", "--config", COLLECTING, "--scores", "a", "--output", "b"], capsys)
    assert said.startswith(f"error: {message}")


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    def write(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("lensflow.stages.collect_scores.run", write)
    with pytest.raises(ValueError, match="a bug"):
        main.main(["collect-scores", "--config", COLLECTING, "--scores", "a", "--output", "b"])


def test_a_log_begins_with_versions_and_command_and_no_secret(tmp_path, capsys):
    judge = {"model": "m", "base_url": "https://me:secret@judge.example/v1", "key_variable": "MY_KEY"}
    config = json.dumps({"benchmarks": [{"name": "b", "benchmark": {"judge": judge}, "languages": []}]})
    arguments = ["judge", "--config", config, "--scores", "s", "--cache", "c", "--output", str(tmp_path / "o")]
    assert main.main(arguments) == 2
    header = capsys.readouterr().err.splitlines()[0]
    versions, command = header.split(": ", 1)
    own, framework = f"lensflow {version('lensflow')}", f"torch {version('torch')}"
    assert versions.startswith(f"# python {platform.python_version()}, {own}, {framework}, ")
    assert shlex.split(command) == ["lensflow", *(a.replace("me:secret@", "") for a in arguments)]


@pytest.mark.parametrize("engine", ["auto", "vllm"])
def test_a_missing_engine(config, error, monkeypatch, engine):
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed
    config["evaluation"] = {"engine": engine}
    assert "evaluation.engine: vllm is not installed; run make setup or use hf" in error(config)


def test_hf_needs_no_other_engine(project, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    config["evaluation"] = {"engine": "hf"}
    (project / "config" / "good.yaml").write_text(yaml.safe_dump(config))
    assert main.main(["check", "--configfile", "config/good.yaml"]) == 0


# Through snakemake: the same checks, before any job.


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("methods/lens-a/lr", "fast", "config: methods.lens-a.lr: must be a number, 'fast' is text"),
        ("settings/en-zh/languages/1", "fr", "corpus 'embedded' has no language 'fr'"),
        ("backbones/tiny/resources/disk_gb", 1e9, "GB needed for tiny; free some space"),
    ],
)
def test_through_snakemake(workspace: Workspace, config, path, value, message):
    put(config, path, value)
    done = workspace.snakemake(config)
    assert done.returncode != 0
    assert sum(message in line for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert not (workspace.root / "results").exists()
