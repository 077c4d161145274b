"""Starts Snakemake and the stages as their commands do, each in a process of its own, but without loading torch again.

A server loads everything once. For every command it forks a process, which gets the arguments, folder, environment,
files and group of whoever asked, and calls the command's `main`. A fault test then takes seconds and not minutes.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

SOCKET = "socket"
# What stages load while they run.
LOADED = (
    "snakemake.cli",
    "snakemake_logger_plugin_rich",
    "transformers.models.llama.modeling_llama",
    "sklearn.manifold",
    "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_agg",
)
# The command `lensflow` that Snakemake's shell finds; it lasts as long as the process that works for it.
CLIENT = """#!{python} -SE
import os, signal, sys
sys.path.insert(0, {folder!r})
from tests.faults.forks import start
signal.signal(signal.SIGINT, signal.SIG_IGN)
from pathlib import Path
command = ["lensflow", *sys.argv[1:]]
process = start(Path({server!r}), command, Path.cwd(), os.environ, [1, 2], os.getpgrp())
code = process.wait()
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@dataclass
class Process:
    """A process that the server has started.

    Attributes:
        pid: its number.
    """

    pid: int
    _connection: socket.socket
    _lines: TextIO

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its exit code, or the number of a signal as a negative one."""
        self._connection.settimeout(timeout)
        return int(self._lines.readline())


def start(
    server: Path, command: Sequence[str], folder: Path, environment: Mapping[str, str], files: list[int], group: int
) -> Process:
    """Let a command run in a process of its own.

    Args:
        server: the folder of `serve`.
        command: `snakemake` or `lensflow`, and arguments.
        folder: in which it runs.
        environment: of the process.
        files: its output and what it says besides.
        group: of processes that it belongs to; 0 for one of its own.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(server / SOCKET))
    socket.send_fds(connection, [b"!"], files)
    request = {"command": list(command), "folder": str(folder), "environment": dict(environment), "group": group}
    connection.sendall(json.dumps(request).encode() + b"\n")
    lines = connection.makefile()
    return Process(int(lines.readline()), connection, lines)


def serve(folder: Path) -> None:
    """Load everything, write the client as `lensflow` into `folder` and fork what is asked for, until killed."""
    import lensflow
    import lensflow.languages

    for module in pkgutil.walk_packages(lensflow.__path__, "lensflow."):
        with contextlib.suppress(ImportError):
            importlib.import_module(module.name)
    for name in LOADED:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / SOCKET))
    listener.listen()
    client = folder / "lensflow"
    client.write_text(CLIENT.format(python=sys.executable, folder=str(Path(__file__).parents[2]), server=str(folder)))
    client.chmod(0o755)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _watch(connection)
            os._exit(0)
        connection.close()


def _watch(connection: socket.socket) -> None:
    """Start what a client asks for and tell it the number and, at the end, the exit code."""
    _, files, *_ = socket.recv_fds(connection, 1, 2)
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        os._exit(_become(request, files))
    with contextlib.suppress(BrokenPipeError):  # the client was killed
        connection.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(request: Mapping[str, Any], files: list[int]) -> int:
    """Be the command that is asked for; return its exit code."""
    import snakemake.cli

    import lensflow.cli.main
    from tests.faults import injection

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
    os.setpgid(0, request["group"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for target, file in enumerate(files, start=1):
        os.dup2(file, target)
    program, *arguments = sys.argv = request["command"]
    try:
        if program == "snakemake":
            return _exit_code(lambda: snakemake.cli.main(arguments))
        fault = json.loads(os.environ.get("FAULT", "{}"))
        if fault and fault["stage"] == arguments[0]:
            injection.install(fault["faults"])
        return _exit_code(lambda: lensflow.cli.main.main(arguments))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _exit_code(main: Any) -> int:
    try:
        code = main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        return 1
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        return 1
    return int(code or 0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
