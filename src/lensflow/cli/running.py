"""The commands `new`, which writes a configuration file, and `run`, which also runs it and prints the verdict."""

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensflow.cli.commands import NAME, Subparsers, add_command, summary_of
from lensflow.cli.configuration import checked_plan
from lensflow.errors import LensflowError
from lensflow.storage.atomic import write_text
from lensflow.storage.environment import usable_cores
from lensflow.storage.verified import read_json
from lensflow.workflow import project

_DEMO_HEAD = f"# The demo, as Lensflow brings it along; run it again by `lensflow run {NAME}`.\n"


def add(commands: Subparsers) -> None:
    """Add the subcommands."""
    sub = add_command(commands, "run", run, summary_of(run))
    sub.add_argument("file", type=Path, nargs="?", help=f"a configuration file, instead of the options; default {NAME}")
    _add_request(sub)
    says = "print the file and what the run would do; write and run nothing"
    sub.add_argument("--dry-run", action="store_true", help=says)
    sub = add_command(commands, "new", new, summary_of(new))
    _add_request(sub)


def _add_request(sub: argparse.ArgumentParser) -> None:
    listed: Mapping[str, Any] = {"type": _names, "metavar": "A,B"}
    sub.add_argument("--model", help="a folder with a checkpoint, owner/name on the hub, or a backbone of the catalog")
    sub.add_argument("--languages", **listed, help="the target languages: codes such as sw,hi")
    sub.add_argument("--central", help="the language that the model knows best (default: en)")
    sub.add_argument(
        "--data",
        type=Path,
        help="file (CSV, TSV, JSON, JSON lines, Parquet) or corpus folder of parallel texts, a column per language",
    )
    sub.add_argument("--questions", type=Path, help="a file like --data, to evaluate on (default: rows of --data)")
    sub.add_argument("--methods", **listed, help="methods of the catalog (default: lens-gentle,lens-strong)")
    sub.add_argument("--benchmarks", **listed, help="benchmarks of the catalog (default: generation,likelihood)")
    sub.add_argument("--budget", type=float, metavar="MINUTES", help="minutes that answering may take, roughly")
    sub.add_argument("--gpus", type=int, help="GPUs to run on (default: 0)")
    sub.add_argument("--directory", type=Path, help="folder of the run, with its results (default: here)")
    sub.add_argument("--force", action="store_true", help="replace the file or the results of another run")


def _names(text: str) -> tuple[str, ...]:
    if names := tuple(dict.fromkeys(text.replace(",", " ").split())):
        return names
    raise argparse.ArgumentTypeError("empty; write names with commas between them, or drop the option")


def new(args: argparse.Namespace) -> None:
    """Write lensflow.yaml for a model and its languages; run nothing."""
    path = (args.directory or Path()) / NAME
    _write(path, _drafted(args), args.force)
    print(f"{path}: read it, then: lensflow run {shlex.quote(str(path))}")


def run(args: argparse.Namespace) -> None:
    """Make a model better in some languages and say whether it became better; without options, run the demo."""
    file = args.file or (args.directory or Path()) / NAME
    text = _text(args, file)
    folder = (args.directory or file.parent).resolve()
    if not args.dry_run:
        _check_gpus(args.gpus or 0)  # before a file is written
        if text is not None:
            _write(file, text, args.force)
        _check_results(folder, file, args.force)
    file, shown = file.resolve(), os.path.relpath(folder / "results")
    with contextlib.chdir(folder if folder.is_dir() else Path()):
        plan = checked_plan([] if args.dry_run and text else [file], Path("results"), _parsed(text, args.dry_run))
        trainings = len(plan.trained())
        cells = [language for cells in plan.checkpoints.values() for of in cells.values() for language in of]
        print(
            f"{file.name}: {trainings} training{'s' if trainings != 1 else ''}, {len(cells)} cells (one per "
            f"checkpoint, benchmark and language), each of at most {plan.config.evaluation.limit or 'all'} items",
            flush=True,  # before what Snakemake says
        )
        if args.dry_run:
            print(text or "", end="")
            return
        gpus = max(plan.config.backbones[name].resources.gpus for name in plan.backbones)
        _check_gpus(gpus)
        _snakemake(file, gpus)
        print()
        for line in _verdict(Path("results"), shown):
            print(line)


def _check_gpus(gpus: int) -> None:
    if gpus:
        from lensflow.models.loading import device_of  # takes seconds

        device_of(gpus)


def _text(args: argparse.Namespace, file: Path) -> str | None:
    """Return the new content of `file`; None if the file exists and should stay as it is."""
    options = [
        f"--{name}"
        for name in ("model", "languages", "central", "data", "questions", "methods", "benchmarks", "budget", "gpus")
        if getattr(args, name) is not None
    ]
    if args.file is not None:
        if not args.file.is_file():
            what = "a folder, not a configuration file" if args.file.is_dir() else "no such file"
            advice = (
                "write names in one list (sw,hi)" if options else "write one by lensflow new, name a model by --model"
            )
            raise LensflowError(f"{args.file}: {what}; {advice}, or correct the name")
        if options:
            raise LensflowError(f"{options[0]}: {args.file} says what to run; change it there, or drop the file's name")
        return None
    if options:
        return _drafted(args)
    if file.is_file():
        return None
    return _DEMO_HEAD + (project.folder() / "config/demo.yaml").read_text(encoding="utf-8")


def _drafted(args: argparse.Namespace) -> str:
    from lensflow.workflow.drafts.drafting import Request, draft

    if not args.model:
        raise LensflowError("--model: missing; name a folder with a checkpoint, or owner/name on the hub")
    if not args.languages:
        raise LensflowError("--languages: missing; name the languages to make better, such as sw,hi")
    if args.directory and args.directory.exists() and not args.directory.is_dir():
        raise LensflowError(f"--directory: {args.directory} is a file; name a folder")
    names = ("central", "data", "questions", "methods", "benchmarks", "budget", "gpus")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return draft(Request(args.model, args.languages, **given), args.directory or Path())


def _parsed(text: str | None, dry: bool) -> Mapping[str, Any] | None:
    import yaml

    return yaml.safe_load(text) if dry and text else None


def _write(path: Path, text: str, force: bool) -> None:
    """Write a configuration file; replace an existing one only with --force."""
    if path.is_file() and path.read_text(encoding="utf-8") != text and not force:
        raise LensflowError(
            f"{path}: exists already with other content; run it as it is (lensflow run {path}), choose another "
            "folder (--directory), or replace it (--force)"
        )
    write_text(path, text)
    print(f"{path}: written")


def _check_results(folder: Path, file: Path, force: bool) -> None:
    """Check that the results in a folder come from this configuration file."""
    config = folder / "results" / "config.json"
    if force or not config.is_file():
        return
    made_by = [Path(word).name for word in shlex.split(read_json(config)["command"])]
    if file.name not in made_by:
        raise LensflowError(
            f"{folder / 'results'}: holds the results of another run ({read_json(config)['title']}); choose another "
            "folder (--directory), or replace them (--force)"
        )


def _snakemake(file: Path, gpus: int) -> None:
    """Run the workflow on this machine, with all cores.

    Raises:
        LensflowError: a stage failed.
    """
    programs = str(Path(sys.executable).parent)  # where the stages' command is, also if that is not activated
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(project.folder() / "Snakefile")]
    command += ["--configfile", str(file), "--cores", str(usable_cores())]
    command += ["--resources", "judge=1", f"gpu={gpus}"]
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}
    if subprocess.run(command, env=environment, check=False).returncode:
        raise LensflowError(
            f"{file.name}: a stage failed, and its log is above; correct the cause and continue: lensflow run {file}"
        )


def _verdict(results: Path, shown: str) -> list[str]:
    """Return the verdict of a finished run and the path of its report.

    `shown` is the results folder as users see it.
    """
    from lensflow.presentation.verdict import verdict_lines

    config = read_json(results / "config.json") | {"results": shown}
    return [*verdict_lines(config, results), f"Report: {shown}/report.html"]
