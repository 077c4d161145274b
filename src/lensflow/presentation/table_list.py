"""The list of tables. A table is one function and one entry here; all other code reads this list."""

from collections.abc import Callable
from dataclasses import dataclass

from lensflow.measures.catalogue import CELL
from lensflow.presentation.blocks import TableInputs
from lensflow.presentation.comparison_tables import ablation, summary, versus
from lensflow.presentation.cost_table import cost
from lensflow.presentation.main_table import main
from lensflow.presentation.reported_table import reported
from lensflow.presentation.sheets import Document
from lensflow.presentation.verdict_table import verdict
from lensflow.presentation.writers.csv import to_csv
from lensflow.presentation.writers.latex import to_latex
from lensflow.presentation.writers.markdown import to_markdown

# The columns that name a row of a table with a line per entry.
ENTRY = ("backbone", "setting", "panel", "method", "column")


@dataclass(frozen=True)
class Table:
    """A table that every run writes and the report shows.

    Attributes:
        name: name of its files.
        title: its title in the report.
        build: the function that makes its content.
        key: the columns that identify a row of its CSV file, if `compare-tables` compares the table with a published
            one.
    """

    name: str
    title: str
    build: Callable[[TableInputs], Document]
    key: tuple[str, ...] = ()


TABLES: tuple[Table, ...] = (
    Table("verdict", "What the run has shown", verdict),
    Table("summary", "Methods side by side", summary, ENTRY),
    Table("main", "Every metric in every language", main, CELL),
    Table("ablation", "Variants of Lens: difference to base", ablation, ENTRY),
    Table("versus", "All methods: difference to one of them", versus, ENTRY),
    Table("reported", "Beside reported numbers", reported),
    Table("cost", "What training takes", cost),  # which depends on the machine
)
FORMATS: dict[str, Callable[[Document], str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv}


def files() -> list[str]:
    """Return the names of all files of tables."""
    return [f"{table.name}.{suffix}" for table in TABLES for suffix in FORMATS]
