"""Fixtures of tiny models, which need torch; conftest.py offers them where there is torch."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lensflow.schema.extraction import Extraction
from tests import tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give the folder of a tiny random checkpoint of a family, in float32 or another dtype, built once."""

    @functools.cache
    def build(family: str, dtype: torch.dtype = torch.float32) -> Path:
        folder = tmp_path_factory.mktemp(family)
        tiny.save_checkpoint(family, folder, dtype)
        return folder

    return build


@pytest.fixture(scope="session")
def stages(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tiny.Stages]:
    """Give what the stages before training write for a tiny checkpoint, run once."""

    @functools.cache
    def run(family: str, dtype: torch.dtype = torch.float32, pooling: str = "last") -> tiny.Stages:
        folder = tmp_path_factory.mktemp(f"{family}-stages")
        return tiny.run_stages(checkpoint(family, dtype), folder, Extraction(pooling=pooling, batch_tokens=64))

    return run
