"""The tables of a run (stage `make_table`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lensflow.presentation import table_list
from lensflow.presentation.blocks import TableInputs
from lensflow.presentation.inputs import TableFiles, blocks_of, command_for, costs_of, read_inputs
from lensflow.presentation.main_table import main
from lensflow.presentation.verdict import verdict_lines
from lensflow.presentation.writers.terminal import to_text
from lensflow.schema.stages import Presenting
from lensflow.storage.atomic import write_text


def write_tables(config: Mapping[str, Any], files: TableFiles, folder: Path) -> None:
    """Write every table in every format into `folder`, with the command that makes it.

    Args:
        config: the result of `Plan.presentation`, the command that runs the workflow, and the results folder.
        files: the files from which the tables are made.
        folder: the folder for the tables.
    """
    inputs = read_inputs(config, files)
    for table in table_list.TABLES:
        document = replace(table.build(inputs), made_by=command_for(config, f"tables/{table.name}.md"))
        for suffix, write in table_list.FORMATS.items():
            write_text(folder / f"{table.name}.{suffix}", write(document))


def terminal_table(config: Mapping[str, Any], comparisons: Path) -> str:
    """Return the main table for the terminal, and the verdict from the claims.csv beside comparisons.csv."""
    costs = costs_of(sorted(comparisons.parent.glob("*/*/*/seed*/cost.json")))
    table = to_text(main(TableInputs(tuple(blocks_of(config, comparisons, costs)))))
    return "\n".join([table, *verdict_lines(config, comparisons.parent)])


def run(
    config: Presenting, *, comparisons: Path, versus: Path, claims: Path, costs: Sequence[Path], output: Path
) -> None:
    """Write the tables as Markdown, LaTeX and CSV."""
    write_tables(config.canonical(), TableFiles(comparisons, versus, claims, costs), output)
