"""What all tests share: settings, markers, and the fixtures of models where there is torch."""

import os
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Unit tests that need torch, or lm-eval and vLLM to plan the demo. Without torch only the
# others are collected: make test LOCK=no-torch.
NEED_TORCH = """agreement agreement_with_published answer api applied benchmark_method cases_check
    cases_finetuning cases_lm_eval cases_models_loading cases_models_prompts cases_settings clas_bench comparisons
    control_vectors cost_page cross_lingual deltas directions edits engines every_method explore families finetuning
    gate harness hidden_states interventions judging lm_eval_catalog losses methods notebook objective paper_claims
    plan presentation probabilities projections published published_choices pushing references rivals script_mask
    sdrrl serving serving_vllm stages startup subspaces tables tracking training translation untrusted"""
pytest_plugins = ["tests.judge_server"]
if find_spec("torch"):
    from tests.models import checkpoint, stages  # noqa: F401
else:
    collect_ignore = ["e2e", "faults", "gpu", "workflow", *(f"unit/test_{name}.py" for name in NEED_TORCH.split())]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a model or Snakemake; all else is the fast loop of README."""
    for item in items:
        folder, name = item.path.parent.name, item.path.stem.removeprefix("test_")
        if folder in ("workflow", "faults"):
            item.add_marker(pytest.mark.workflow)
        if folder in ("e2e", "faults", "gpu") or name in NEED_TORCH.split():
            item.add_marker(pytest.mark.model)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and "REHEARSAL" not in os.environ:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device that torch can use")
