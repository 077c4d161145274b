"""The embedded models, prepared once."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from lensflow.artifacts import checkpoint
from lensflow.stages import prepare_backbone
from lensflow.workflow.experiment import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the manifest of an embedded backbone: the demo's if it ran here, else a fresh one."""

    @functools.cache
    def prepare(name: str) -> Path:
        prepared = ROOT / "results" / name / "backbone" / "manifest.json"
        if prepared.is_file():
            checkpoint.verify(prepared)
            return prepared
        output = tmp_path_factory.mktemp("embedded") / name / "backbone" / "manifest.json"
        prepare_backbone.prepare_backbone(read([], ROOT).backbones[name], ROOT, output)
        return output

    return prepare
