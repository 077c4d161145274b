"""What is computed again after a change: exactly what depends on it.

The results are made by running the workflow with a command line that only touches its outputs, so that Snakemake's
records are real. Each test then asks for the plan after one change (`snakemake --summary`).
"""

import csv
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lensflow.storage.verified import read_json
from tests.workflow.workspace import Workspace, demo_config

RUNS = ["en-zh/lens-a", "en-zh/lens-b", "en-sw/lens-a", "en-sw/lens-b"]
BASE = "none/base"
TABLES_AND_LATER = {"collect_scores", "make_table", "make_figures en-zh", "make_figures en-sw", "report"}
SCORES = {f"score {run}" for run in (BASE, *RUNS)}
# One job answers for all checkpoints of a backbone, so all are scored after it; it answers anew what is new alone.
ANSWERS_AND_LATER = {"answer"} | SCORES | TABLES_AND_LATER


def trained(*runs: str) -> set[str]:
    """Training and scores of runs; what follows from both is in `ANSWERS_AND_LATER`."""
    return {f"{rule} {run}" for run in runs for rule in ("train", "score")}


def scored(*runs: str) -> set[str]:
    """Scores of runs."""
    return {f"score {run}" for run in runs}


def job(rule: str, output: str) -> str:
    """Name a job by its rule and what tells it from others of the rule."""
    path = Path(output).relative_to("results")
    if rule in ("pair_data", "extract_hidden_states"):
        return f"{rule} {path.name.split('.')[0]}"
    if rule == "fetch_items":
        return f"{rule} {path.parts[1]} {path.name.split('.')[0]}"
    if rule == "make_figures":
        return f"{rule} {path.name.removeprefix('tiny.')}"
    if rule == "fit_subspaces":
        return f"{rule} {path.parts[1]}"
    if rule in ("train", "score"):
        return f"{rule} {path.parts[1]}/{path.parts[2]}"
    if rule.startswith("answer_"):
        return "answer"
    return rule


def planned(workspace: Workspace, config: dict) -> set[str]:
    """Return the jobs that snakemake would run."""
    done = workspace.snakemake(config, "--summary")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout), delimiter="\t"))
    assert {row["plan"] for row in rows} <= {"no update", "update pending"}, "another format of --summary"
    assert len({row["rule"] for row in rows}) == 13, "not every rule is in the plan"
    return {job(row["rule"], row["output_file"]) for row in rows if row["plan"] == "update pending"}


def rules_planned(workspace: Workspace, config: dict) -> set[str]:
    """Return the rules of the jobs that snakemake would run."""
    return {name.split(" ")[0] for name in planned(workspace, config)}


@contextmanager
def edited(root: Path, *edits: tuple[str, str, str]) -> Iterator[None]:
    """Replace text in files for a while; an edit is (file, old, new)."""
    before = {root / file: (root / file).read_text(encoding="utf-8") for file, _, _ in edits}
    try:
        for file, old, new in edits:
            content = (root / file).read_text(encoding="utf-8")
            assert old in content
            (root / file).write_text(content.replace(old, new), encoding="utf-8")
        yield
    finally:
        for path, content in before.items():
            path.write_text(content, encoding="utf-8")


@pytest.fixture(scope="module")
def finished(workspace: Workspace) -> Workspace:
    done = workspace.snakemake(demo_config())
    assert done.returncode == 0, done.stderr
    return workspace


def test_no_change_no_job(finished, config):
    assert planned(finished, config) == set()


def change_lr(config: dict) -> None:
    config["methods"]["lens-a"]["lr"] = 2e-5


def change_a_weight(config: dict) -> None:
    config["methods"]["lens-b"]["weights"]["pull"] = 3.0


def swap_two_weights(config: dict) -> None:
    weights = config["methods"]["lens-b"]["weights"]
    weights["pull"], weights["push"] = weights["push"], weights["pull"]


def add_a_language(config: dict) -> None:
    config["settings"]["en-zh"]["languages"].append("ja")


def add_a_benchmark(config: dict) -> None:
    config["runs"][0]["benchmarks"].append("likelihood")


def add_a_sweep(config: dict) -> None:
    config["sweeps"] = {"mine": {"method": "lens-a", "key": "lr", "values": [1e-5, 1e-3]}}
    config["runs"][0]["sweeps"] = ["mine"]


def sweep_a_settings_key(config: dict) -> None:
    config["sweeps"] = {"mine": {"method": "lens-a", "key": "setting.probing_texts", "values": [5]}}
    config["runs"] = [config["runs"][0] | {"settings": ["en-zh"], "sweeps": ["mine"]}, config["runs"][0]]


def compare_with_a_method(config: dict) -> None:
    config["versus"] = "lens-b"


def change_the_title(config: dict) -> None:
    config["title"] = "Another title"


def change_what_no_result_depends_on(config: dict) -> None:
    config["backbones"]["tiny"]["resources"] = {"disk_gb": 2e-6, "threads": 1}
    config["methods"]["lens-unused"] = {"kind": "lens"}
    config["runs"].append(config["runs"][0] | {"settings": ["en-sw"], "methods": ["lens-a"]})
    config["benchmarks"] = {"cldr": {"languages": {"yo": "yo"}}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_lr, trained("en-zh/lens-a", "en-sw/lens-a") | ANSWERS_AND_LATER | {"resolve_config"}),
        (change_a_weight, trained("en-zh/lens-b", "en-sw/lens-b") | ANSWERS_AND_LATER | {"resolve_config"}),
        (swap_two_weights, trained("en-zh/lens-b", "en-sw/lens-b") | ANSWERS_AND_LATER | {"resolve_config"}),
        (
            add_a_language,
            {"pair_data ja", "extract_hidden_states ja", "fetch_items cldr ja", "fit_subspaces en-zh"}
            | {"resolve_config"}
            | trained("en-zh/lens-a", "en-zh/lens-b")
            | ANSWERS_AND_LATER,
        ),
        (add_a_benchmark, ANSWERS_AND_LATER),
        (
            add_a_sweep,
            # 1e-5 is what lens-a has anyway.
            trained("en-zh/lens-a.lr-0.001", "en-sw/lens-a.lr-0.001") | ANSWERS_AND_LATER,
        ),
        (
            sweep_a_settings_key,
            {"fit_subspaces en-zh.probing_texts-5"} | trained("en-zh.probing_texts-5/lens-a") | ANSWERS_AND_LATER,
        ),
        (compare_with_a_method, TABLES_AND_LATER | {"resolve_config"}),
        (change_the_title, {"resolve_config", "make_table", "make_figures en-zh", "make_figures en-sw", "report"}),
        (change_what_no_result_depends_on, set()),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_changed_configuration(finished, config, change: Callable[[dict], None], expected: set[str]):
    change(config)
    assert planned(finished, config) == expected


def test_changes_at_once_are_all_seen(finished, config):
    """A new language of one setting does not hide a new learning rate in another one."""
    add_a_language(config)
    change_lr(config)
    after = planned(finished, config)
    assert set(trained("en-zh/lens-a", "en-sw/lens-a")) <= after and "train en-sw/lens-b" not in after
    assert "extract_hidden_states ja" in after and "extract_hidden_states en" not in after


FIT_AND_LATER = {"fit_subspaces en-zh", "fit_subspaces en-sw"} | trained(*RUNS) | ANSWERS_AND_LATER


def test_a_line_of_code(finished, config):
    with edited(finished.root, ("src/lensflow/mathematics/subspaces.py", "\ndef ", "\nUNUSED = 1\n\n\ndef ")):
        assert planned(finished, config) == FIT_AND_LATER


def test_what_no_result_depends_on(finished, config):
    subspaces, texts = "src/lensflow/mathematics/subspaces.py", "src/lensflow/artifacts/texts.py"
    comment = (subspaces, "\ndef ", "\n# A comment.\ndef ")
    docstring = (subspaces, '"""The language-agnostic', '"""In other words: the language-agnostic')
    new_docstring = (texts, "row: Any, where: str) -> None:\n", 'row: Any, where: str) -> None:\n    """Check."""\n')
    memory = ("workflow/rules/training.smk", "4000 if", "4001 if")
    threads = ("workflow/rules/training.smk", "1 if", "2 if")
    with edited(finished.root, comment, docstring, new_docstring, memory, threads):
        assert planned(finished, config) == set()


def test_a_text_of_the_corpus(finished, config):
    with edited(
        finished.root, ("src/lensflow/data/corpus/dev.jsonl", "飞机为什么能一直飞在空中？", "飞机为什么能飞？")
    ):
        assert planned(finished, config) == (
            {"pair_data zh", "extract_hidden_states zh", "fit_subspaces en-zh"}
            | trained("en-zh/lens-a", "en-zh/lens-b")
            | ANSWERS_AND_LATER
        )


def test_a_task_file(finished, config):
    with edited(finished.root, ("config/tasks/cldr.yaml", "{{question}}", "Q: {{question}}")):
        assert planned(finished, config) == ANSWERS_AND_LATER


def test_a_local_data_set(finished, config):
    """Its files are inputs: a change in one fetches again what comes from it."""
    folder = finished.root / "hub" / "my" / "prompts"
    (folder / "zh").mkdir(parents=True)
    (folder / "zh" / "test.jsonl").write_text('{"prompt": "x"}')
    config["datasets_root"] = "hub"
    entry = {"dataset": {"path": "my/prompts", "columns": ["prompt"]}, "languages": {"zh": "zh"}}
    config["benchmarks"] = {"mine": {"kind": "dataset_generation"} | entry}
    config["runs"][0]["benchmarks"].append({"mine": ["zh"]})
    try:
        assert finished.snakemake(config).returncode == 0
        assert planned(finished, config) == set()
        (folder / "zh" / "test.jsonl").write_text('{"prompt": "another"}')
        after = planned(finished, config)
        assert "fetch_items mine zh" in after
        assert "fetch_items cldr zh" not in after
    finally:
        assert finished.snakemake(demo_config()).returncode == 0


METHOD = """
from lensflow.artifacts import deltas
from lensflow.methods.base import Method

class Config(Method):
    pass

def train(run):
    deltas.write({}, run.backbone.parent, run.output)
"""


def test_the_code_of_one_method(finished, config):
    """Fine-tuning and a method of one's own, beside Lens: each depends on its own code and inputs."""
    (finished.root / "own").mkdir()
    (finished.root / "own" / "mine.py").write_text(METHOD)
    config["methods"] |= {"sft": {"kind": "sft"}, "mine": {"kind": "own.mine"}}
    config["runs"][0]["methods"] = ["base", "lens-a", "lens-b", "sft", "mine"]
    lens, sft, mine = RUNS, ["en-zh/sft", "en-sw/sft"], ["en-zh/mine", "en-sw/mine"]
    unused = "\nUNUSED = 1\n"
    try:
        assert finished.snakemake(config).returncode == 0
        assert planned(finished, config) == set()
        for file, text, expected in (
            ("src/lensflow/methods/sft.py", "\nConfig = Sft\n", sft),
            ("src/lensflow/methods/lens/objective.py", "\ndef objective(", lens),
            ("own/mine.py", "\ndef train(", mine),
        ):
            with edited(finished.root, (file, text, unused + text)):
                assert planned(finished, config) == trained(*expected) | ANSWERS_AND_LATER | scored(*sft, *mine), file
        with edited(finished.root, ("own/mine.py", "\ndef train(", "\n# A comment.\ndef train(")):
            assert planned(finished, config) == set()
        # An extraction that is another one changes what Lens is trained on, and nothing else.
        config["extraction"] = {"max_tokens": 64}
        after = planned(finished, config)
        assert {f"train {run}" for run in lens} <= after
        assert not after & {f"train {run}" for run in (*sft, *mine)}
    finally:
        shutil.rmtree(finished.root / "own")
        assert finished.snakemake(demo_config()).returncode == 0


def test_methods_without_training(finished, config):
    """Another λ is another intervention: nothing is trained, and nothing else is evaluated again. No seed matters."""
    steer, prompt = ["en-zh/steer", "en-sw/steer"], ["en-zh/prompt", "en-sw/prompt"]
    config["methods"] |= {"steer": {"kind": "logit_bias", "lambda": 0.3}, "prompt": {"kind": "prompt"}}
    config["runs"][0]["methods"] = ["base", "lens-a", "lens-b", "steer", "prompt"]
    new, all_scored = trained(*steer, *prompt), scored(*steer, *prompt)
    assert planned(finished, config) == new | ANSWERS_AND_LATER | {"resolve_config"}
    try:
        assert finished.snakemake(config).returncode == 0
        assert planned(finished, config) == set()
        assert read_json(finished.root / "results" / "config.json")["told_language"] == ["steer", "prompt"]
        config["methods"]["steer"]["lambda"] = 0.4
        assert planned(finished, config) == trained(*steer) | all_scored | ANSWERS_AND_LATER | {"resolve_config"}
        config["methods"]["steer"]["lambda"] = 0.3
        config["methods"]["prompt"]["place"] = "after"
        assert planned(finished, config) == trained(*prompt) | all_scored | ANSWERS_AND_LATER | {"resolve_config"}
        config["methods"]["prompt"]["place"] = "before"
        with edited(
            finished.root,
            ("src/lensflow/methods/logit_bias.py", "\nConfig = LogitBias\n", "\nConfig = LogitBias\nX = 1\n"),
        ):
            assert planned(finished, config) == trained(*steer) | all_scored | ANSWERS_AND_LATER
        with edited(
            finished.root, ("src/lensflow/artifacts/interventions.py", "\ndef write(", "\nUNUSED = 1\n\n\ndef write(")
        ):
            after = planned(finished, config)
        assert new | ANSWERS_AND_LATER == after  # Lens changes weights, and writes no intervention
        config["runs"][0]["methods"] = ["base", "lens-a", "lens-b"]
        config["runs"].append(config["runs"][0] | {"seeds": [0, 1], "methods": ["steer", "prompt"]})
        assert planned(finished, config) == set()
        config["runs"].reverse()  # tables and figures have the methods in the order of the runs
        assert planned(finished, config) == TABLES_AND_LATER - {"collect_scores"} | {"resolve_config"}
    finally:
        assert finished.snakemake(demo_config()).returncode == 0


METRIC = """METRICS: Mapping[str, Metric] = {
    "length": Metric(
        "generation", "", 0, "characters of an answer", lambda sample, _: len(sample["answer"]), needs=("answer",)
    ),
"""


def test_a_new_metric_is_computed_from_the_answers_that_are_there(finished, config):
    catalogue = "src/lensflow/measures/catalogue.py"
    with edited(finished.root, (catalogue, "METRICS: Mapping[str, Metric] = {\n", METRIC)):
        assert planned(finished, config) == SCORES | TABLES_AND_LATER


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json", "generation_config.json"])
def test_a_file_that_is_edited_in_the_folder_of_a_backbone(finished, config, name):
    """All that prompts and answers depend on, beside the weights (which every reader compares with the manifest)."""
    path = finished.root / "model" / name
    before = path.read_bytes() if path.is_file() else None
    states = {f"extract_hidden_states {language}" for language in ("en", "zh", "sw")}
    try:
        path.write_text('{"bos_token": "<s>"}')
        assert planned(finished, config) == {"prepare_backbone"} | states | FIT_AND_LATER
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def test_a_target_that_names_one_checkpoint_trains_and_answers_no_other(workspace, config):
    folder = workspace.root / "alone"
    folder.mkdir()
    (folder / "model").symlink_to(workspace.root / "model")
    target = "results/tiny/en-zh/lens-a/seed0/scores.json"
    done = workspace.snakemake(config, "--directory", "alone", "--dry-run", target)
    assert done.returncode == 0, done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE))
    assert [name for name in jobs if name.startswith("answer_")] == ["answer_tiny_only_2"]
    assert {jobs[name] for name in ("train", "answer_tiny_only_2", "score", "fit_subspaces")} == {"1"}


def test_the_template_of_the_report(finished, config):
    with edited(finished.root, ("src/lensflow/templates/report.html.j2", "</body>", "<hr></body>")):
        assert planned(finished, config) == {"report"}


WATCHED = """
import sys
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler

timers = []
JobScheduler._schedule_reevalutation = lambda scheduler, delay: timers.append(delay)
try:
    main()
finally:
    print(f"{len(timers)} timers")
"""


@pytest.mark.parametrize(("limit", "timers"), [((), False), (("--max-jobs-per-timespan", "1000/1s"), True)])
def test_jobs_leave_no_timers_behind_unless_a_user_limits_them(workspace, config, limit, timers):
    command = [sys.executable, "-c", WATCHED, "--cores", "2", "--workflow-profile", "none", "--configfile"]
    command += [workspace.write_config(config), "--forcerun", "resolve_config", *limit, "--", "results/config.json"]
    done = subprocess.run(command, cwd=workspace.root, env=workspace.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout.splitlines()[-1] != "0 timers") == timers
