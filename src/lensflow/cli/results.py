"""Subcommands about a results folder: trace, verify, crate, export, push."""

import argparse
from pathlib import Path

from lensflow.cli.commands import Subparsers, add_command, summary_of
from lensflow.errors import LensflowError


def add(commands: Subparsers) -> None:
    """Add the subcommands."""
    sub = add_command(commands, "trace", trace, summary_of(trace))
    sub.add_argument(
        "place",
        help="results/tables/main.csv:ROW:COLUMN, or of tables/verdict.csv, scores.csv, claims.csv, versus.csv, ...",
    )
    sub = add_command(commands, "verify", verify, summary_of(verify))
    sub.add_argument("results", type=Path, nargs="?", default=Path("results"), help="the folder (default: results)")
    sub = add_command(commands, "crate", crate, summary_of(crate))
    sub.add_argument("results", type=Path, nargs="?", default=Path("results"), help="the folder (default: results)")
    sub.add_argument("--output", type=Path, required=True, help="new folder, or .zip file")
    sub.add_argument("--deltas", action="store_true", help="also include the delta and intervention of each training")
    sub = add_command(commands, "export", export, summary_of(export))
    _add_method(sub)
    sub.add_argument("folder", type=Path, help="new folder for the checkpoint")
    sub.add_argument("--reference", action="store_true", help="name the backbone instead of copying its weights")
    sub = add_command(commands, "push", push, summary_of(push))
    _add_method(sub)
    sub.add_argument("name", help="name of the repository on the hub, owner/name; a missing repository is created")
    sub.add_argument("--private", action="store_true", help="make a new repository private")
    sub.add_argument("--dry-run", action="store_true", help="list the files and their sizes in bytes; send nothing")


def _add_method(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--backbone", type=Path, required=True, help="manifest.json of the backbone's checkpoint")
    sub.add_argument("--delta", type=Path, required=True, help="delta.safetensors (train)")


def trace(args: argparse.Namespace) -> None:
    """Trace a number in a table to the data, the backbone and the code."""
    from lensflow.provenance import trace as provenance

    print(provenance.trace(args.place))


def verify(args: argparse.Namespace) -> None:
    """Compare a results folder with the records in it. The folder may be a downloaded one."""
    from lensflow.provenance import verify as provenance

    problems = provenance.verify(args.results)
    print(*problems, sep="\n", end="\n" if problems else "")
    if problems:
        raise LensflowError(f"{args.results}: {len(problems)} of its files are not as their records say")
    print(f"ok: {args.results} is as its records say")


def crate(args: argparse.Namespace) -> None:
    """Write a run as an RO-Crate: tables, figures, report, scores, configurations and records."""
    from lensflow.provenance import crate as provenance

    provenance.write(args.results, args.output, deltas=args.deltas)
    print(f"{args.output}: an RO-Crate, described in its ro-crate-metadata.json")


def export(args: argparse.Namespace) -> None:
    """Copy a checkpoint into a folder of its own: the backbone with the changed weights, and no links."""
    from lensflow.presentation.exporting import export

    print(export(args.backbone, args.delta, args.folder, reference=args.reference))


def push(args: argparse.Namespace) -> None:
    """Send a method to the hub: the changed weights, the model card, and the name of the backbone."""
    from lensflow.presentation.pushing import push

    for line in push(args.backbone, args.delta, args.name, private=args.private, dry_run=args.dry_run):
        print(line)
