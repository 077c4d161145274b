"""Subcommands about tables: show-table, power, compare-tables, accept-tables."""

import argparse
from pathlib import Path

from lensflow.cli.commands import STAGE_CONFIG, Subparsers, add_command, add_configfile, read_config, summary_of
from lensflow.cli.configuration import plan_of
from lensflow.errors import LensflowError


def add(commands: Subparsers) -> None:
    """Add the subcommands."""
    published, results = "folder of published tables, such as published/smallest", "a run's results folder"
    sub = add_command(commands, "show-table", show_table, summary_of(show_table))
    sub.add_argument("--config", required=True, help=STAGE_CONFIG)
    sub.add_argument("--comparisons", type=Path, required=True, help="comparisons.csv (collect-scores)")
    sub = add_command(commands, "power", power, summary_of(power))
    sub.add_argument("protocol", type=Path, help="protocol, such as config/study/protocol.yaml")
    sub.add_argument("results", type=Path, help="results folder of a run on the dev split")
    sub = add_command(commands, "compare-tables", compare_tables, summary_of(compare_tables))
    sub.add_argument("published", type=Path, help=published)
    sub.add_argument("results", type=Path, help=results)
    sub = add_command(commands, "accept-tables", accept_tables, summary_of(accept_tables))
    sub.add_argument("results", type=Path, help=results)
    sub.add_argument("published", type=Path, help=published)
    add_configfile(sub)


def show_table(args: argparse.Namespace) -> None:
    """Print the main table for the terminal."""
    from lensflow.schema.parsing import parse
    from lensflow.schema.stages import Presenting
    from lensflow.stages import make_table

    config = parse(Presenting, read_config(args.config), "--config").canonical()
    print(make_table.terminal_table(config, args.comparisons))


def power(args: argparse.Namespace) -> None:
    """Print the smallest difference that each claim of a protocol can show, from the scores of a run on dev."""
    from lensflow.artifacts.layout import place_of
    from lensflow.artifacts.scores import read
    from lensflow.measures import claims
    from lensflow.measures.comparisons import Cells, Place
    from lensflow.presentation import power as presentation
    from lensflow.presentation.decisions import decisions_of
    from lensflow.presentation.inputs import settings_of
    from lensflow.presentation.writers.markdown import to_markdown
    from lensflow.storage.verified import read_json
    from lensflow.workflow import protocols

    protocol = protocols.read(str(args.protocol), [Path()])
    try:
        on_dev = protocol.on_dev()
    except ValueError as error:
        raise LensflowError(f"{args.protocol}: {error}") from None
    paths = sorted(args.results.glob("*/*/*/seed*/scores.json"))
    runs: dict[Place, Cells] = {place_of(path): read(path)["cells"] for path in paths}
    found = claims.decide(runs, on_dev, settings_of(read_json(args.results / "config.json")))
    print(to_markdown(presentation.power(decisions_of(found), protocol.items)))


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
    """Publish the tables of a run, and print what changed them."""
    from lensflow.workflow import published

    source = published.source_of(plan_of(args.configfile), args.results)
    known = (args.published / published.SOURCE).is_file()
    moved = published.compare(args.published, args.results)[0] if known else []
    changes = published.accept(args.results, args.published, source)
    for difference in moved:
        print(difference)
    if moved:
        print("changed by" if changes else "no change in configuration, code, packages or machine")
    for change in changes:
        print(f"  {change}")
    print(f"{args.published}: published {', '.join(Path(name).name for name in published.TABLES)}")
