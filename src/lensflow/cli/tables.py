"""Subcommands about tables: show-table, compare-tables, accept-tables."""

import argparse
from pathlib import Path

from lensflow.cli.commands import CONFIGFILE, STAGE_CONFIG, Subparsers, add_command, read_config, summary_of
from lensflow.cli.configuration import plan_of
from lensflow.errors import LensflowError


def add(commands: Subparsers) -> None:
    """Add the subcommands."""
    published, results = "folder of published tables, such as published/smallest", "a run's results folder"
    sub = add_command(commands, "show-table", show_table, summary_of(show_table))
    sub.add_argument("--config", required=True, help=STAGE_CONFIG)
    sub.add_argument("--comparisons", type=Path, required=True, help="comparisons.csv (collect-scores)")
    sub = add_command(commands, "compare-tables", compare_tables, summary_of(compare_tables))
    sub.add_argument("published", type=Path, help=published)
    sub.add_argument("results", type=Path, help=results)
    sub = add_command(commands, "accept-tables", accept_tables, summary_of(accept_tables))
    sub.add_argument("results", type=Path, help=results)
    sub.add_argument("published", type=Path, help=published)
    sub.add_argument("--configfile", type=Path, nargs="*", default=[], help=CONFIGFILE)


def show_table(args: argparse.Namespace) -> None:
    """Print the main table for the terminal."""
    from lensflow.stages import make_table

    print(make_table.terminal_table(read_config(args.config), args.comparisons))


def compare_tables(args: argparse.Namespace) -> None:
    """Compare the tables of a run with published ones, cell by cell."""
    from lensflow.workflow import published

    exact = published.same_platform(args.published, args.results)
    found, compared = published.compare(args.published, args.results, exact=exact)
    for difference in found:
        print(difference)
    if outside := [difference for difference in found if not difference.allowed]:
        advice = "find out why, or publish them: lensflow accept-tables"
        raise LensflowError(f"{args.results}: {len(outside)} differences from {args.published}; {advice}")
    if exact:
        print(f"ok: {compared} values, all the same, as they must be on this platform")
    else:
        same = compared - len(found)
        print(f"ok: {compared} values, {same} the same, {len(found)} inside of their published intervals")


def accept_tables(args: argparse.Namespace) -> None:
    """Publish the tables of a run, and say what moved them."""
    from lensflow.workflow import published

    source = published.source_of(plan_of(args.configfile), args.results)
    known = (args.published / published.SOURCE).is_file()
    moved = published.compare(args.published, args.results)[0] if known else []
    changes = published.accept(args.results, args.published, source)
    for difference in moved:
        print(difference)
    if moved:
        print("moved by" if changes else "moved by nothing in configuration, code, packages or machine")
    for change in changes:
        print(f"  {change}")
    print(f"{args.published}: published {', '.join(Path(name).name for name in published.TABLES)}")
