"""The section `reported`: numbers that a paper reports, and our score for each number."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from lensflow.schema.strict import Strict
from lensflow.schema.types import ARXIV_PATTERN, Name, Positive

# A number, the lower and the upper end of what is reported of several rows together, or null: not known.
Figure = float | Annotated[tuple[float, float], Field(strict=False)] | None


class Source(Strict):
    """The paper."""

    title: str
    """Title of the paper."""
    arxiv: str = Field(pattern=ARXIV_PATTERN)
    """Its number on arXiv."""


class Column(Strict):
    """A column of the paper's table, and our corresponding score."""

    benchmark: Name
    """Our benchmark."""
    metric: Name
    """Our metric."""
    language: str
    """Code of a language, `targets` for the mean over the target languages, or `all` for the mean over all."""


class ReportedRow(Strict):
    """A row of the paper's table: a model and the method that was applied to it."""

    row: str
    """The row as the paper names it."""
    backbone: Name
    """Our backbone."""
    method: Name
    """The reported number of each column; null if it is unknown, or [low, high] for a range."""
    values: tuple[Figure, ...] | None = Field(default=None, strict=False)
    """The reported number of each column, or null where it is not known; [low, high] for a range."""
    read_in: str | None = None
    """Where the numbers were read, if not in the table itself."""


class ReportedTable(Strict):
    """A table of the paper.

    A reported number equals `scale` times our score.
    """

    table: str
    """The table as the paper names it."""
    setting: Name | None = None
    """Our setting. Without one, the table is compared outside of a run."""
    scale: Positive = 100.0
    """The factor that converts our score to the reported unit."""
    columns: tuple[Column, ...] = Field(min_length=1, strict=False)
    """Columns of the table, each with our score that it corresponds to."""
    rows: tuple[ReportedRow, ...] = Field(min_length=1, strict=False)
    """Rows of the table."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for row in self.rows:
            if row.values is not None and len(row.values) != len(self.columns):
                raise ValueError(
                    f"rows: '{row.row}' has {len(row.values)} values for {len(self.columns)} columns; write null for "
                    "each that is not known"
                )
        return self


class Reported(Strict):
    """The tables of a paper, as far as we have them."""

    source: Source
    """The paper."""
    tables: tuple[ReportedTable, ...] = Field(min_length=1, strict=False)
    """Its tables."""


def of_settings(papers: Mapping[str, Reported], settings: Iterable[str]) -> dict[str, Any]:
    """Return the tables of some settings, as plain values."""
    wanted = set(settings)
    found = {}
    for name, paper in papers.items():
        tables = [table.canonical() for table in paper.tables if table.setting in wanted]
        if tables:
            found[name] = {"source": paper.source.canonical(), "tables": tables}
    return found
