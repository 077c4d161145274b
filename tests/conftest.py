"""Fixtures that several test files share."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import tiny
from lensflow.schema.extraction import Extraction

# A busy machine is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device that torch can use")


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
