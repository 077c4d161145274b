"""The lines that say what the stages of a run do."""

import io

import pytest
from tqdm import tqdm

from lensflow.workflow.progress import Progress


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "B/S/M/seed0").mkdir(parents=True)
    return tmp_path


def bar(label, done, total):
    """What tqdm has written to a log after so many steps, in words that its own class chose."""
    file = io.StringIO()
    with tqdm(total=total, desc=label, unit="step", mininterval=0, file=file) as progress:
        for _ in range(done):
            progress.update(1)
        return file.getvalue()


def test_a_stage_is_said_while_its_bar_moves(logs):
    log, said = logs / "B/S/M/seed0/train.log", Progress(logs)
    assert said.news() == []
    log.write_text("# lensflow\n" + bar("lens", 3, 80))
    (line,) = said.news()
    assert line.startswith("B/S/M/seed0/train: lens: 3 of 80, ") and line.endswith(" left")
    assert "step/s" in line
    assert said.news() == []  # it stands still
    log.write_text("# lensflow\n" + bar("lens", 5, 80))
    assert "5 of 80" in said.news()[0]
    log.write_text("# lensflow\n" + bar("lens", 80, 80))
    assert said.news() == []


def test_a_log_that_ends_in_words_is_no_bar(logs):
    said = Progress(logs)
    (logs / "B/answer.0.log").write_text(bar("cells", 3, 80) + "\nerror: a key is wrong; correct it\n")
    assert said.news() == []


def test_what_a_killed_stage_left_is_not_said(logs):
    (logs / "B/answer.0.log").write_text(bar(None, 3, 80))
    said = Progress(logs)
    assert said.news() == []
    (logs / "B/answer.0.log").write_text(bar(None, 4, 80))
    assert said.news()[0].startswith("B/answer.0: 4 of 80, ")
