"""What a user is told when a run stops."""

import pytest

from lensflow.workflow.failures import failures

LOG = """Select jobs to execute...
[Sat Nov 28 21:54:22 2026]
rule score:
    output: results/tiny/none/base/seed0/scores.json
    log: logs/score.log
    jobid: 3
Error in rule answer_tiny_0:
    message: None
    jobid: 4
    input: results/tiny/backbone/manifest.json
    output: results/tiny/none/base/seed0/answers.json
    log: logs/tiny/answer.0.log (check log file(s) for error details)
    shell:
        lensflow answer --config '{}'
        (command exited with non-zero exit code)
Logfile logs/tiny/answer.0.log:
"""
HEAD = "# python 3.11.7: lensflow answer --config '{}'\n"


@pytest.mark.parametrize(
    ("written", "cause"),
    [
        (
            HEAD + "error: model/config.json: not JSON; download it again\n",
            "error: model/config.json: not JSON; download it again",
        ),
        (
            HEAD + "Traceback (most recent call last):\n  File x\nKeyError: 'n'\n",
            "unexpected KeyError: 'n'; please report it",
        ),
        (HEAD + "cells:   0%|  | 0/4\r", "it was killed without a message, perhaps because memory ran out"),
        (None, "it was killed without a message, perhaps because memory ran out"),
    ],
)
def test_one_line_names_stage_cause_and_log(tmp_path, written, cause):
    (tmp_path / "snakemake.log").write_text(LOG)
    (tmp_path / "logs/tiny").mkdir(parents=True)
    if written is not None:
        (tmp_path / "logs/tiny/answer.0.log").write_text(written)
    said = failures(tmp_path / "snakemake.log", tmp_path)
    assert said == [f"A stage did not finish: answer_tiny_0: {cause} (log: logs/tiny/answer.0.log)"]


def test_a_run_that_stopped_before_its_first_stage(tmp_path):
    (tmp_path / "snakemake.log").write_text("WorkflowError: no such file\n")
    assert failures(tmp_path / "snakemake.log", tmp_path) == ["The run was stopped before all stages were finished."]


def test_every_job_of_a_rule_that_failed_is_named(tmp_path):
    second = LOG.replace("logs/tiny/answer.0.log", "logs/my model/answer.0.log")
    (tmp_path / "snakemake.log").write_text(LOG + second + LOG)
    said = [line.partition("(log: ")[2] for line in failures(tmp_path / "snakemake.log", tmp_path)]
    assert said == ["logs/tiny/answer.0.log)", "logs/my model/answer.0.log)"]
