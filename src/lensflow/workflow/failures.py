"""What a user is told when a run stops: which stage failed and why."""

import re
from pathlib import Path

_FAILED = re.compile(r"^Error in rule (\w+):\n(?:    .*\n)*?    log: (\S+)", re.MULTILINE)
_KILLED = "it was killed without a word; for want of memory?"


def failures(log: Path, folder: Path) -> list[str]:
    """Return one line per stage that failed: its name, the cause, and the log that has more; one line if none did.

    Args:
        log: Snakemake's own log of the run.
        folder: where the run was started; the stages' logs are named from there.
    """
    failed = dict(_FAILED.findall(log.read_text(encoding="utf-8", errors="replace")))
    lines = [f"A stage did not finish: {rule}: {_cause(folder / file)} (log: {file})" for rule, file in failed.items()]
    return lines or ["The run was stopped before all stages were finished."]


def _cause(log: Path) -> str:
    """The last line of a stage's log if it is an error; a bug of ours is said to be one."""
    text = log.read_text(encoding="utf-8", errors="replace").strip() if log.is_file() else ""
    last = text.rpartition("\n")[2]
    if last.startswith("error: "):
        return last
    return f"unexpected {last}; please report it" if "\nTraceback (most recent call last):" in text else _KILLED
