"""Faults that happen inside a stage at a given moment.

A fault is a mapping: `at` is the moment, an event of Python's audit hooks ("open": a file is opened, "os.rename": a
finished file gets its name) and a pattern of the file's path; `times` is how often it comes to that, by default once;
`do` names one of `ACTIONS`. Before the last one happens, the file `reached` says so.
"""

import fnmatch
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

SPARE_MEMORY = 1 << 20  # bytes above what the process has when it runs out of memory


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait() -> None:
    """Wait until the test lets it go on."""
    while not Path("go").exists():
        time.sleep(0.05)


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))


def checkpoint_often() -> None:
    """Let a training keep its state after every step instead of every minute, and be killed when it has for a while."""
    from lensflow.methods.lens import training

    training.CHECKPOINT_SECONDS = 0.0


ACTIONS = {f.__name__: f for f in (kill, wait, limit_memory, limit_file_size, checkpoint_often)}


def install(faults: list[dict[str, Any]]) -> None:
    """Let faults happen in this process, one after the other."""
    pending = list(faults)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename") or not pending or pending[0]["at"][0] != event:
            return
        path = str(arguments[1 if event == "os.rename" else 0])
        if fnmatch.fnmatch(path, pending[0]["at"][1]):
            pending[0]["times"] = pending[0].get("times", 1) - 1
            if pending[0]["times"] == 0:
                action = ACTIONS[pending.pop(0)["do"]]
                if not pending:
                    Path("reached").touch()
                action()

    sys.addaudithook(hook)
