"""The section `reported`: numbers that a paper reports, and which of our scores stands beside each."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from lensflow.schema.strict import Strict
from lensflow.schema.types import Name, Positive

# A number, the lower and the upper end of what is reported of several rows together, or null: not known.
Figure = float | Annotated[tuple[float, float], Field(strict=False)] | None


class Source(Strict):
    """The paper."""

    title: str
    arxiv: str = Field(pattern=r"^\d{4}\.\d{4,5}(v\d+)?$")


class Column(Strict):
    """A column of a table, as one of our scores."""

    benchmark: Name
    metric: Name
    language: str  # or `targets`, the mean over them; or `all`, the mean over all languages


class ReportedRow(Strict):
    """A row of a table: a model and what was done to it."""

    row: str  # as the paper names it
    backbone: Name
    method: Name
    values: tuple[Figure, ...] | None = Field(default=None, strict=False)  # of each column; null: none is known
    read_in: str | None = None  # where, if not in the table itself


class ReportedTable(Strict):
    """A table of the paper.

    A reported number is `scale` times a score of ours.
    """

    table: str
    setting: Name | None = None  # of ours; null: the table is compared outside of a run
    scale: Positive = 100.0
    columns: tuple[Column, ...] = Field(min_length=1, strict=False)
    rows: tuple[ReportedRow, ...] = Field(min_length=1, strict=False)

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
    tables: tuple[ReportedTable, ...] = Field(min_length=1, strict=False)
