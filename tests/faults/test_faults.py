"""Whatever happens to a run, its tables equal the tables of an undisturbed run, or one line says what to do.

The cases stand in `cases.py`. What happened is written to docs/faults.md when all of them ran.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lensflow.storage.digests import digest
from tests.faults import forks
from tests.faults.cases import CASES, TABLES, Case
from tests.faults.project import REPOSITORY, Project, Run, configuration, judge, mountable

REPORT = REPOSITORY / "docs/faults.md"
# What says why a run stopped; the last is all that there is to say of a killed job.
SAYS = (
    r"^error: .*$",
    r"^Error: Directory cannot be locked.*$",
    r"^A stage did not finish: .*$",
    r"^The run was stopped .*$",
)
HEAD = """# Faults

What happens when something goes wrong in the middle of a run. `pytest -m '' tests/faults` writes every line. It
damages a real run of a very small model and then compares scores, samples and tables with an undisturbed run, byte by
byte.

| case | what was done | what happened |
|---|---|---|
"""


@pytest.fixture(scope="session")
def server() -> Iterator[Path]:
    """Give the folder of a server that starts commands."""
    with tempfile.TemporaryDirectory() as folder:  # short, as a socket's path has to be
        paths = [REPOSITORY / "src", REPOSITORY]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([sys.executable, forks.__file__, folder], env=environment)
        try:
            while not os.access(Path(folder) / "lensflow", os.X_OK):
                assert process.poll() is None
                time.sleep(0.1)
            yield Path(folder)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def finished(server: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose run was not disturbed."""
    with judge() as address:
        project = Project.new(tmp_path_factory.mktemp("faults") / "project", server, configuration(address))
        run = project.run()
        assert run.code == 0, run.output
        yield project


@pytest.fixture(scope="session")
def undisturbed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Project], dict[str, bytes]]:
    """Give the numbers of an undisturbed run of a project's configuration, from nothing."""
    known = {digest(finished.config): finished.numbers()}

    def of(project: Project) -> dict[str, bytes]:
        key = digest(project.config)
        if key not in known:
            clean = Project.new(tmp_path_factory.mktemp("clean") / "project", project.server, project.config)
            run = clean.run(TABLES)
            assert run.code == 0, run.output
            known[key] = clean.numbers()
        return known[key]

    return of


@pytest.fixture(scope="session")
def rows() -> Iterator[dict[str, str]]:
    """Collect what happened, by case; written down when that is all."""
    happened: dict[str, str] = {}
    yield happened
    if happened.keys() == {case.name for case in CASES}:
        write(happened)


def summary(said: list[str]) -> str:
    """Say what happened in a case that ended well, from the lines with which runs stopped."""
    stops = "; then ".join(f"stopped: `{one}`" for one in said)
    return f"{stops}; the next run finished, tables identical" if said else "finished, tables identical"


def write(happened: Mapping[str, str]) -> None:
    """Write down what happened in every case."""
    lines = [f"| {case.name} | {case.done} | {happened[case.name]} |\n" for case in CASES]
    REPORT.write_text(HEAD + "".join(lines), encoding="utf-8")


def line(run: Run) -> str:
    """Return the one line that says why a run stopped."""
    found = next(filter(None, (re.findall(pattern, run.output, re.MULTILINE) for pattern in SAYS)), [])
    found = list(dict.fromkeys(found))
    # Jobs that ran side by side may have failed of the same.
    assert 0 < len(found) <= max(1, run.output.count("✗ Failed")), run.output
    return re.sub(r"\s+", " ", found[0].replace(f"{run.root}/", "")).strip()


@pytest.mark.slow
def test_forked_stages_do_what_the_commands_do(finished: Project, tmp_path: Path) -> None:
    """The reference numbers come from the real command line."""
    project = Project.new(tmp_path / "project", finished.server, finished.config)
    command = [sys.executable, "-m", "snakemake", "--configfile", project.write_config(), "--cores", "2", TABLES]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")}
    subprocess.run(command, cwd=project.root, env=environment, check=True, capture_output=True)

    def numbers(project: Project) -> dict[str, bytes]:
        """All but how many threads there were, which the server has settled when it forks."""
        return {path: re.sub(rb'"threads": \d+', b"", content) for path, content in project.numbers().items()}

    assert numbers(project) == numbers(finished)


def test_the_document_has_every_case() -> None:
    rows = [line.split(" | ")[:2] for line in REPORT.read_text().splitlines() if line.startswith("| ")][1:]
    assert rows == [[f"| {case.name}", case.done] for case in CASES]


MARKED = [pytest.param(case, id=case.name, marks=() if case.quick else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", MARKED)
def test_a_fault(case: Case, finished: Project, undisturbed: Any, rows: dict[str, str], tmp_path: Path) -> None:
    if case.needs_root and not mountable():
        pytest.skip("may not mount a disk")
    project = finished.copy(tmp_path / "project")
    said = []
    with contextlib.closing(case.play(project)) as runs:
        for run in runs:
            assert "Traceback" not in run.output, run.output
            if run.code:
                said.append(line(run))
            # Each failed job shows its log, whose first line has versions and command.
            shown = [run.output.count(text) for text in ("✗ Failed", "Log file: logs/", "# python 3.")]
            assert len(set(shown)) == 1, run.output
            numbers = project.numbers()  # before a disk of its own goes
    assert run.code == 0, run.output
    expected = undisturbed(project)
    assert numbers.keys() == expected.keys()
    assert [path for path, content in expected.items() if numbers[path] != content] == []
    rows[case.name] = summary(said)
