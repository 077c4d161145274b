"""The configuration: what is accepted, what is refused and in which words, and its schema."""

import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError
from snakemake.utils import update_config

from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.methods.lens.config import Lens
from lensflow.schema.messages import did_you_mean
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.storage.paths import resolve
from lensflow.workflow.experiment import Config, load

REPOSITORY = Path(__file__).parents[2]
SCHEMA = Path("workflow/schemas/config.schema.yaml")
TO_RUN = sorted(path.name for path in (REPOSITORY / "config").glob("*.yaml"))


def content_of(path: Path) -> dict:
    """With libyaml: in Python alone, the schema takes half a second."""
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)


def merged(name: str) -> dict:
    """The configuration of `snakemake --configfile config/{name}`."""
    folder = REPOSITORY / "config"
    config: dict = {}
    for path in [*sorted((folder / "catalog").glob("*.yaml")), folder / "demo.yaml", folder / name]:
        update_config(config, content_of(path))
    return config


@pytest.mark.parametrize("name", TO_RUN)
def test_every_configuration_of_the_repository_is_valid(name):
    config = load(merged(name))
    assert load(config.canonical()) == config


@pytest.mark.parametrize("name", TO_RUN)
def test_every_configuration_of_the_repository_fits_the_schema(name):
    jsonschema.validate(merged(name), content_of(REPOSITORY / SCHEMA))


def test_the_schema_is_in_step_with_the_classes(tmp_path, monkeypatch):
    """If this fails: lensflow schema --output workflow/schemas/config.schema.yaml"""
    monkeypatch.chdir(tmp_path)
    assert main.main(["schema", "--output", str(SCHEMA)]) == 0
    assert SCHEMA.read_text(encoding="utf-8") == (REPOSITORY / SCHEMA).read_text(encoding="utf-8")


def lens(**keys: object) -> Lens:
    return parse(Lens, {"kind": "lens", **keys})


def test_the_published_method_leaves_no_key_to_a_default():
    written = merged("published.yaml")["methods"]["lens-published"]
    assert written.keys() == lens().canonical().keys()


def test_the_strength_is_one_for_all_or_one_a_language():
    assert lens(**{"lambda": 0.3}).strength_of("zh") == 0.3
    assert lens(**{"lambda": {"zh": 0.3, "sw": 0.1}}).strength_of("sw") == 0.1


def test_canonical_values_hold_every_default_under_the_users_names():
    canonical = lens(lr=1e-4).canonical()
    assert canonical["lambda"] == 1.0
    assert canonical["lr"] == 1e-4
    assert canonical["weights"] == {"pull": 1.0, "push": 1.0, "retain": 1.0}
    assert lens(**{key: value for key, value in canonical.items() if key != "kind"}) == lens(lr=1e-4)


def test_the_targets_are_the_other_languages_in_order():
    assert parse(Setting, {"central": "en", "languages": ["zh", "en", "sw"]}).targets == ("zh", "sw")


def test_a_section_cannot_be_changed():
    with pytest.raises(ValidationError):
        lens().lr = 1.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        # One line each, of which the useful one comes first.
        ({"lr": "1e-5", "lamda": 1.0}, "unknown key 'lamda'; did you mean 'lambda'?"),
        ({"lambda": {"zh": -1.0}}, "lambda.zh: must be greater than or equal to 0, not -1.0"),
        ({"lambda": {"Zh": 1.0}}, "lambda.Zh: must be a BCP 47 tag, such as 'sw', 'zh-Hant' or 'pt-BR', not 'Zh'"),
        ({"lambda": "strong"}, "lambda: must be a number, 'strong' is text"),
        ({"lr": "1e-5"}, "lr: must be a number, '1e-5' is text (YAML reads 1e-5 as text; write 1.0e-5"),
        ({"lr": "one"}, "lr: must be a number, 'one' is text"),
        ({"lr": float("inf")}, "lr: must be a finite number, not inf"),
        ({"warmup": 1.0}, "warmup: must be less than 1, not 1.0"),
        ({"layers": 0}, "layers: must be greater than or equal to 1, not 0"),
        ({"schedule": "cosin"}, "schedule: must be 'cosine', 'linear' or 'constant', not 'cosin'"),
        ({"weights": None}, "weights: must be a mapping, not None"),
        (
            {"until": yaml.safe_load("{residual: 0,3, epochs: 20}")},
            "until: unknown key '3'; write decimals with a point",
        ),
    ],
)
def test_a_refused_method(keys, message):
    with pytest.raises(LensflowError) as error:
        lens(**keys)
    assert str(error.value).startswith(f"config: {message}")
    assert "\n" not in str(error.value)
    assert (" (YAML" in str(error.value)) == (keys == {"lr": "1e-5"})


PACKAGE = {"kind": "package", "package": "p", "parts": ["a"], "sha256": "0" * 64}
BACKBONE = {"license": "x", "prompt": {"format": "plain"}}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        # The tag `package` of the union must not hide the key of the same name, nor show up itself.
        (PACKAGE | {"package": 3}, "backbones.b.source.package: must be text"),
        (PACKAGE | {"parts": "a"}, "backbones.b.source.parts: must be a list, not 'a'; write [a]"),
        (PACKAGE | {"parts": [1]}, "backbones.b.source.parts[0]: must be text"),
        (PACKAGE | {"sha256": "0"}, "backbones.b.source.sha256: must be 64 hexadecimal digits, not '0'"),
        ({"kind": "package"}, "backbones.b.source.package: is missing; add it"),
        ({"kind": "hub", "name": "a/b", "revision": "v1"}, "backbones.b.source.revision: must be a commit"),
        ({"kind": "hub", "name": "a", "revision": "main"}, "backbones.b.source.name: must be owner/name, not 'a'"),
        ({"kind": "hub", "name": "a/b", "revisoin": "x"}, "backbones.b.source: unknown key 'revisoin'; did you mean"),
        ({"kind": "hubb"}, "backbones.b.source: no kind 'hubb'; did you mean 'hub'? (known: folder, hub, package)"),
        ({}, "backbones.b.source: key 'kind' is missing; add it"),
    ],
)
def test_a_refused_source(source, message):
    config = merged("demo.yaml") | {"backbones": {"b": BACKBONE | {"source": source}}}
    with pytest.raises(LensflowError) as error:
        load(config)
    assert str(error.value).startswith(f"config: {message}")


@pytest.mark.parametrize(
    ("catalog", "name", "message"),
    [
        ("backbones", "Gemma", "backbones.Gemma: must be made of a-z, 0-9"),
        ("settings", "../x", "settings.../x: must be made of a-z, 0-9"),
        ("settings", "hidden_states", "settings.hidden_states: the workflow has a folder of this name; choose another"),
    ],
)
def test_a_name_becomes_a_folder(catalog, name, message):
    config = merged("demo.yaml")
    config[catalog][name] = next(iter(config[catalog].values()))
    config["runs"][0][catalog] = [name]
    with pytest.raises(LensflowError) as error:
        load(config)
    assert message in str(error.value)


def test_a_refused_pattern_is_said_in_words():
    data_set = {"path": "a b", "layout": "columns", "languages": {"en": "en"}, "train": 1}
    changes = {
        "corpora.mine.dataset.path: must be owner/name on the hub, or a path below datasets_root, such as a.csv": {
            "corpora": {"mine": {"license": "x", "dataset": data_set}}
        },
        "sweeps.mine.key: must be a key of the method, such as lambda": {
            "sweeps": {"mine": {"method": "lens-gentle", "key": "Lambda 1", "values": [1]}}
        },
    }
    for message, change in changes.items():
        with pytest.raises(LensflowError) as error:
            load(merged("demo.yaml") | change)
        assert str(error.value).startswith(f"config: {message}")


def test_only_base_is_of_kind_base():
    config = merged("demo.yaml")
    config["runs"][0]["methods"] = ["untouched"]
    config["methods"]["untouched"] = {"kind": "base"}
    with pytest.raises(LensflowError, match="only the method called 'base' may be of kind base"):
        load(config)
    config["runs"][0]["methods"] = ["base"]
    config["methods"]["base"] = {"kind": "lens"}
    with pytest.raises(LensflowError, match=r"methods\.base: must be of kind base; give the method another name"):
        load(config)


def test_a_hint_names_what_is_close_and_what_there_is():
    assert did_you_mean("lamda", ["lr", "lambda"]) == "did you mean 'lambda'? (known: lambda, lr)"
    assert did_you_mean("lamda", ["lambda", *"abcdefgh"]) == "did you mean 'lambda'?"
    assert did_you_mean("x", ["lr", "lambda"]) == "known: lambda, lr"
    assert did_you_mean("x", []) == "known: none"


def test_relative_paths_start_at_the_root(tmp_path):
    assert resolve("a/b", tmp_path) == tmp_path / "a" / "b"
    assert resolve("/a", tmp_path) == Path("/a")
    assert resolve("~/a", tmp_path) == Path.home() / "a"


def test_the_parts_of_a_configuration_that_lists_name_are_those_of_config():
    """A key that a Run lists without a catalog of that name would be checked against nothing."""
    lists = {"backbones", "settings", "methods", "benchmarks"}
    assert lists <= set(Config.model_fields)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["run", "--modle", "x"], "unrecognized arguments: --modle; did you mean --model?; see lensflow run --help"),
        (
            ["check", "mine.yaml"],
            "unrecognized arguments: mine.yaml; write it behind the option that it is for (--configfile, --results); "
            "see lensflow check --help",
        ),
        (["run", "--budget", "ten"], "argument --budget: must be a number, not 'ten'; see lensflow run --help"),
        (["run", "--gpus", "all"], "argument --gpus: must be a whole number, not 'all'; see lensflow run --help"),
        (
            ["run", "--methods", ","],
            "argument --methods: empty; write names with commas between them, or drop the option; see lensflow run "
            "--help",
        ),
        (["check", "--zzz"], "unrecognized arguments: --zzz; see lensflow check --help"),
        (["chekc"], "argument COMMAND: invalid choice: 'chekc'; did you mean check?; see lensflow --help"),
    ],
)
def test_a_misspelt_option_or_command_is_refused_with_what_was_meant(capsys, typed, said):
    with pytest.raises(SystemExit, match="2"):
        main.main(typed)
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_reader_that_closes_its_end_gets_no_traceback():
    """As head does."""
    command = f"{sys.executable} -m lensflow.cli explain methods"
    piped = subprocess.Popen(command.split(), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    piped.stdout.close()
    assert piped.stderr.read() == b""
    assert piped.wait() == 1
