"""The command line: it parses the arguments and calls functions of the packages below.

The subcommands import modules when they run, so that a wrong argument is reported before torch is loaded.
"""

import argparse
import difflib
import errno
import gc
import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from lensflow.cli import configuration, measuring, results, running, stages, tables
from lensflow.errors import LensflowError

# What the system refuses -> what to do. Found by its words: libraries wrap its errors in types of their own.
REFUSALS = {
    errno.ENOSPC: "no space left on the disk; free some and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EFBIG: "a file would be larger than is allowed (ulimit -f); raise the limit and run again",
    errno.EROFS: "the disk is read-only; make it writable, or run elsewhere (--directory)",
    errno.EACCES: "permission denied; change the permissions, or run elsewhere (--directory)",
    errno.EIO: "the disk fails; copy what it still has, and run elsewhere (--directory)",
    errno.ENOMEM: "not enough memory; free some, or run where there is more",
}
_NUMBERS = {"int": "a whole number", "float": "a number"}  # argparse's types, in words
GROUPS = (running, configuration, results, measuring, tables, stages)  # in the order of --help


class Parser(argparse.ArgumentParser):
    """A parser whose messages are one line and suggest the option or command that was meant."""

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Print which arguments the command does not know, and exit."""
        options = re.findall(r"--[\w-]+", self.format_usage())
        meant = _meant(unknown[0].partition("=")[0], options)
        if not unknown[0].startswith("-"):
            meant = f"; write it behind the option that it is for ({', '.join(options) or 'none'})"
        self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")

    def error(self, message: str) -> NoReturn:
        """Print what is wrong with the arguments, and exit."""
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            meant = _meant(choice[1], choice[2].replace("'", "").split(", "))
            message = message.replace(f" ({choice[0].partition(' (')[2]}", meant) if meant else message
        message = re.sub(
            r"invalid (\w+) value: (.*)",
            lambda found: f"must be {_NUMBERS.get(found[1], found[1])}, not {found[2]}",
            message,
        )
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    summary = "Make a language model better in other languages, and measure whether it is."
    top = Parser(prog="lensflow", description=summary)
    top.set_defaults(logged=False)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add(commands)
    return top


def _log_header(arguments: Sequence[str]) -> str:
    """Return the first line of a log: the versions and the command, without user names and passwords in addresses."""
    from lensflow.storage.environment import versions

    known = ", ".join(f"{package} {number}" for package, number in versions().items())
    command = re.sub(r"(?<=://)[^/\s\"']*@", "", shlex.join(["lensflow", *arguments]))
    return f"# {known}: {command}"


def _refusal(error: Exception) -> str | None:
    """Return what to do if the system refuses memory or writing; None for any other error."""
    if "CUDA out of memory" in str(error):
        return "not enough GPU memory; lower the backbone's resources.gpu_memory (vLLM's share), or take a larger GPU"
    if isinstance(error, MemoryError) or any(
        said in str(error) for said in ("out of memory", "can't start new thread")
    ):
        return REFUSALS[errno.ENOMEM]
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return next((where + text for number, text in REFUSALS.items() if os.strerror(number) in str(error)), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 2 a mistake that the user can correct, 130 interrupted."""
    gc.set_threshold(100_000)  # torch and transformers make a million objects, which all stay: a second of searching
    args, unknown = parser().parse_known_args(arguments)
    if unknown:
        args.refuse(unknown)
    if args.logged:
        print(_log_header(sys.argv[1:] if arguments is None else arguments), file=sys.stderr, flush=True)
    try:
        args.function(args)
        sys.stdout.flush()
    except LensflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; run again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has closed its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
        return 1
    except Exception as error:
        if (reason := _refusal(error)) is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        return 2
    return 0
