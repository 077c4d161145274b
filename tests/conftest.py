"""What all tests share: settings, markers, and the fixtures of models where there is torch."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

# A busy machine is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Unit tests that need torch, or lm-eval and vLLM to plan the demo.
NEED_TORCH = """
    agreement agreement_with_published answer api applied benchmark_method cases_check cases_finetuning
    cases_lm_eval cases_models_loading cases_models_prompts cases_settings clas_bench comparisons
    control_vectors cost_page cross_lingual deltas directions drift edits engines every_method explore families
    finetuning gate harness hidden_states interventions judging lm_eval_catalog losses methods notebook
    objective paper_claims plan presentation probabilities projections published published_choices pushing
    references rivals script_mask sdrrl serving serving_vllm stages startup subspaces tables tracking training
    translation untrusted
"""
# Unit tests that load lingua's models, about 1 GB: once, in one process.
NEED_LINGUA = "cases_languages corpus languages measure outcome_controls outcomes"
pytest_plugins = ["tests.judge_server"]


class Scheduling(LoadFileScheduling):
    """With several processes (`-n`), the tests of a file stay together, and so do the files that need lingua."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "lingua" if Path(file).stem.removeprefix("test_") in NEED_LINGUA.split() else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    return Scheduling(config, log)


def markers_of(path: Path) -> set[str]:
    """The markers of the tests of a file or folder below `tests`."""
    folder, name = [*path.relative_to(Path(__file__).parent).parts, ""][0], path.stem.removeprefix("test_")
    needs_model = folder in ("e2e", "faults", "gpu") or name in NEED_TORCH.split()
    starts_workflow = folder in ("workflow", "faults")
    return {marker for marker, is_set in (("model", needs_model), ("workflow", starts_workflow)) if is_set}


def left_out(config: pytest.Config) -> set[str]:
    """The markers whose tests do not run, and are not imported: torch, transformers and Snakemake take seconds."""
    unwanted = {marker for marker in ("model", "workflow") if f"not {marker}" in config.getoption("markexpr")}
    return unwanted if find_spec("torch") else {"model", "workflow"}


def pytest_configure(config: pytest.Config) -> None:
    if "model" not in left_out(config):
        config.pluginmanager.import_plugin("tests.models")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if markers_of(collection_path) & left_out(config) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in markers_of(item.path):
            item.add_marker(marker)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and "REHEARSAL" not in os.environ:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device that torch can use")
