"""The embedded chat model, prepared once, and what methods are trained on for a test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lensflow.artifacts import checkpoint
from lensflow.artifacts import texts as texts_module
from lensflow.cli import main
from lensflow.stages import pair_data, prepare_backbone
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_jsonl
from lensflow.workflow.experiment import Config, read
from tests.chain import call

ROOT = Path(__file__).parents[2]
NAME = "smollm2-135m-instruct"
LANGUAGES = ("en", "zh")
TEXTS = {"train": 12, "dev": 2}


@pytest.fixture(scope="session")
def config() -> Config:
    return read([], ROOT)


@pytest.fixture(scope="session")
def manifest(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared SmolLM2: the demo's if it ran here, else a fresh one."""
    prepared = ROOT / "results" / NAME / "backbone" / "manifest.json"
    if prepared.is_file():
        checkpoint.verify(prepared)
        return prepared
    output = tmp_path_factory.mktemp("backbone") / "manifest.json"
    prepare_backbone.prepare_backbone(config.backbones[NAME], ROOT, output)
    return output


@pytest.fixture(scope="session")
def train(config: Config, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict], Path]:
    """Train a method on a few texts in two languages, through the command line; give the folder of the run."""
    folder = tmp_path_factory.mktemp("run")
    prompt = config.backbones[NAME].prompt.canonical()
    extraction, setting = {"trainable_layers": 2}, {"central": "en", "languages": list(LANGUAGES)}
    texts = {language: folder / "texts" / f"{language}.jsonl" for language in LANGUAGES}
    states = {language: folder / "states" / f"{language}.safetensors" for language in LANGUAGES}
    source = texts_module.folder("embedded", ROOT)
    for language in LANGUAGES:
        pair_data.pair_data(source, language, texts[language])
        rows = read_jsonl(texts[language])
        kept = [row for split, n in TEXTS.items() for row in [r for r in rows if r["split"] == split][:n]]
        write_jsonl(texts[language], kept)
    stage, given = {"prompt": prompt, "extraction": extraction}, {"texts": texts.values(), "outputs": states.values()}
    assert main.main(call("extract_hidden_states", stage, backbone=manifest, **given)) == 0
    files = {"states": states.values(), "texts": texts.values()}
    subspaces = folder / "subspaces.safetensors"
    assert main.main(call("fit_subspaces", {"setting": setting}, output=subspaces, **files)) == 0

    def run(method: dict) -> Path:
        sections = {"method": method, "setting": setting, "prompt": prompt, "extraction": extraction, "seed": 0}
        output = folder / NAME / "en-zh" / method["kind"] / "seed0" / "delta.safetensors"
        given = {"backbone": manifest, "subspaces": subspaces, "output": output}
        assert main.main(call("train", sections, **given, **files)) == 0
        return output.parent

    return run
