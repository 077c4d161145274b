"""Records of every stage, and what is said and made again when a file is not what a stage wrote."""

import json
import shutil
from pathlib import Path

import pytest
from chain import RUN, Chain

from lensflow import cli
from lensflow.files import RECORD, file_digest, read_json


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
    for path in finished.root.iterdir():
        (shutil.copytree if path.is_dir() and not path.is_symlink() else shutil.copy)(
            path, tmp_path / path.name, **({"symlinks": True} if path.is_dir() and not path.is_symlink() else {"follow_symlinks": False})
        )
    monkeypatch.chdir(tmp_path)
    copied = object.__new__(Chain)
    copied.root, copied.results, copied.steps = tmp_path, tmp_path / "results", finished.steps
    return copied


def test_show(chain):
    for path in sorted(chain.results.rglob(f"*{RECORD}")):
        print(path.relative_to(chain.results), path.stat().st_size)
        print(path.read_text())
    assert 0
