"""The message to the user when a run stops: which stage failed and why."""

import re
from pathlib import Path

_FAILED = re.compile(r"^Error in rule (\w+):\n(?:    .*\n)*?    log: (.+?)(?: \(check log file|$)", re.MULTILINE)
_KILLED = "it was killed without a message, perhaps because memory ran out"


def failures(log: Path, folder: Path) -> list[str]:
    """Return one line per failed stage: its name, the cause, and the log with details; one line if no stage failed.

    Args:
        log: Snakemake's own log of the run.
        folder: the folder where the run was started; the paths of the stages' logs start there.
    """
    failed = dict.fromkeys(_FAILED.findall(log.read_text(encoding="utf-8", errors="replace")))
    lines = [f"A stage did not finish: {rule}: {_cause(folder / file)} (log: {file})" for rule, file in failed]
    return lines or ["The run was stopped before all stages were finished."]


def _cause(log: Path) -> str:
    """The last line of a stage's log if it is an error. An unexpected error is reported as a bug of Lensflow."""
    text = log.read_text(encoding="utf-8", errors="replace").strip() if log.is_file() else ""
    last = text.rpartition("\n")[2]
    if last.startswith("error: "):
        return last
    return f"unexpected {last}; please report it" if "\nTraceback (most recent call last):" in text else _KILLED
