"""The tables of a run (stage `make_table`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensflow.presentation import sheets, tables
from lensflow.presentation.inputs import blocks_of, command_for, sheets_of
from lensflow.schema.stages import Presenting
from lensflow.storage.atomic import write_text


def write_tables(
    config: Mapping[str, Any], comparisons: Path, versus: Path, costs: Sequence[Path], folder: Path
) -> None:
    """Write `TABLES` as Markdown, LaTeX and CSV into `folder`, each with the command that makes it.

    Args:
        config: what `Plan.presentation` gives, the command that runs the workflow and the folder of its results.
        comparisons: comparisons.csv.
        versus: versus.csv.
        costs: cost.json of each training.
        folder: for the tables.
    """
    blocks = blocks_of(config, comparisons, costs)
    texts = {"main": (tables.to_markdown(blocks), tables.to_latex(blocks), tables.to_csv(blocks))}
    for name, shown in sheets_of(config, blocks, versus, costs).items():
        texts[name] = sheets.to_markdown(shown), sheets.to_latex(shown), sheets.to_csv(shown)
    for name, (markdown, latex, csv) in texts.items():
        command = command_for(config, f"tables/{name}.md")
        text = markdown or "Nothing to show.\n"
        write_text(folder / f"{name}.md", f"{text}\nMade by `{command}`\n")
        write_text(folder / f"{name}.tex", f"% Made by: {' '.join(command.split())}\n{latex}")
        write_text(folder / f"{name}.csv", csv)


def terminal_table(config: Mapping[str, Any], comparisons: Path) -> str:
    """Return the main table for the terminal; the trainings are those beside comparisons.csv."""
    costs = sorted(comparisons.parent.glob("*/*/*/seed*/cost.json"))
    return tables.to_text(blocks_of(config, comparisons, costs))


def run(config: Presenting, *, comparisons: Path, versus: Path, costs: Sequence[Path], output: Path) -> None:
    """Write the tables as Markdown, LaTeX and CSV."""
    write_tables(config.canonical(), comparisons, versus, costs, output)
