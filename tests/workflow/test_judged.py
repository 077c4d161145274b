"""Judging in the workflow: who gets a job, what runs again, and where the key does not turn up."""

import csv
import io

import pytest

from tests.workflow.workspace import Workspace, demo_config

KEY = "sk-planted-in-the-environment"
BASE, TRAINED = "results/tiny/none/base/seed0", "results/tiny/en-zh/lens-a/seed0"


def config_of(judge: dict) -> dict:
    """The base model is evaluated on two-turn questions in two languages, the trained one is not."""
    config = demo_config()
    data = {"path": "my/questions", "columns": ["turns", "category"]}
    languages = {"en": "en", "zh": "zh", "fr": "fr"}
    config["benchmarks"] = {"talk": {"kind": "mt_bench", "dataset": data, "languages": languages, "judge": judge}}
    run = config["runs"][0] | {"settings": ["en-zh"]}
    config["runs"] = [
        run | {"methods": ["base"], "benchmarks": ["likelihood", "talk"]},
        run | {"methods": ["lens-a"], "benchmarks": ["likelihood"]},
    ]
    return config


@pytest.fixture(scope="module")
def finished(workspace: Workspace) -> Workspace:
    workspace.environment["OPENAI_API_KEY"] = KEY
    done = workspace.snakemake(config_of({"model": "m"}), "--printshellcmds")
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    return workspace


def planned(workspace: Workspace, config: dict) -> set[str]:
    done = workspace.snakemake(config, "--summary")
    assert done.returncode == 0, done.stderr
    rows = csv.DictReader(io.StringIO(done.stdout), delimiter="\t")
    return {row["rule"] for row in rows if row["plan"] == "update pending"}


def test_only_a_checkpoint_with_such_a_benchmark_is_judged(finished: Workspace) -> None:
    assert (finished.root / BASE / "judged.json").is_file()
    assert (finished.root / TRAINED / "scores.json").is_file()
    assert not (finished.root / TRAINED / "judged.json").exists()


def test_the_ratings_reach_the_table(finished: Workspace) -> None:
    done = finished.snakemake(config_of({"model": "m"}), "--forcerun", "collect_scores", "--dry-run", "-p")
    assert f"--scores {BASE}/scores.json {TRAINED}/scores.json {BASE}/judged.json --output" in done.stdout


LATER = {"collect_scores", "make_table", "make_figures", "report"}


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ({"model": "m"}, set()),
        ({"model": "another"}, {"judge"} | LATER),
        ({"model": "m", "max_tokens": 100}, {"judge"} | LATER),
    ],
)
def test_another_judge_rates_the_same_answers(finished: Workspace, judge: dict, expected: set[str]) -> None:
    assert planned(finished, config_of(judge)) == expected


def test_a_language_that_is_not_judged_changes_nothing(finished: Workspace) -> None:
    config = config_of({"model": "m"})
    config["benchmarks"]["talk"]["languages"]["de"] = "de"
    assert planned(finished, config) == set()


def test_other_prompts_for_the_judge(finished: Workspace) -> None:
    path = finished.root / "src/lensflow/data/judge_prompts.yaml"
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(before.replace("impartial judge", "strict judge"), encoding="utf-8")
        assert planned(finished, config_of({"model": "m"})) == {"judge"} | LATER
    finally:
        path.write_text(before, encoding="utf-8")


def test_the_key_is_nowhere(finished: Workspace) -> None:
    assert (finished.root / "logs/tiny/none/base/seed0/judge.log").is_file()
    files = [path for path in finished.root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(".snakemake" in path.parts for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
