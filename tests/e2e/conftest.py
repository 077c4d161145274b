"""The embedded chat model, prepared once."""

from pathlib import Path

import pytest

from lensflow import backbones
from lensflow.config import Config, read

ROOT = Path(__file__).parents[2]
NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def config() -> Config:
    return read([], ROOT)


@pytest.fixture(scope="session")
def manifest(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared SmolLM2: the demo's if it ran here, else a fresh one."""
    prepared = ROOT / "results" / NAME / "backbone" / "manifest.json"
    if prepared.is_file():
        backbones.verify(prepared)
        return prepared
    output = tmp_path_factory.mktemp("backbone") / "manifest.json"
    backbones.prepare_backbone(config.backbones[NAME], ROOT, output)
    return output
