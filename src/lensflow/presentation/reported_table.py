"""Our scores beside the numbers that papers report."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from lensflow.measures.catalogue import METRICS
from lensflow.presentation.blocks import Block, Cell, TableInputs
from lensflow.presentation.legends import NOT_APPLIED_NOTE
from lensflow.presentation.sheets import NOTHING, Document, Entry, Line, Panel, Sheet, bounds, document_of
from lensflow.schema.reported import Figure, Reported, ReportedTable

HEADS = ("method", "benchmark", "metric", "language")
COLUMNS = ("ours", "reported", "difference", "in our interval")
NOTES = (
    "ours: with its 95 % interval and the number of items, in the unit of the paper",
    "difference: ours less the reported number; a range is what the paper reports of several rows together, and the "
    "difference is then the distance to its nearer end, 0 inside",
    "in our interval: whether our interval and the reported number or range meet; – the number is not known",
)


def reported(inputs: TableInputs) -> Document:
    """Return for each paper the scores of this run that the paper also reports; empty if there are none."""
    papers = {name: Reported.model_validate(value) for name, value in inputs.reported.items()}
    return document_of(_sheet(block, papers) for block in inputs.blocks)


def _sheet(block: Block, papers: Mapping[str, Reported]) -> Sheet | None:
    panels = [
        Panel(f"{paper.source.title}, {table.table}", HEADS, COLUMNS, _grouped(lines))
        for paper in papers.values()
        for table in paper.tables
        if (lines := tuple(_lines(block, table)))
    ]
    if not panels:
        return None
    caption = f"Beside reported numbers: {block.caption}"
    shown = {line.heads[0] for panel in panels for line in panel.lines}
    unapplied = any(row.not_applied for row in block.rows if row.label in shown)
    notes = (*NOTES, NOT_APPLIED_NOTE) if unapplied else NOTES
    return Sheet(block.backbone, block.setting, caption, tuple(panels), notes)


def _grouped(lines: Iterable[Line]) -> tuple[tuple[Line, ...], ...]:
    """Join the languages of a method and metric."""
    return tuple(tuple(group) for _, group in groupby(lines, key=lambda line: line.heads[:-1]))


def _lines(block: Block, table: ReportedTable) -> Iterator[Line]:
    rows = {(row.method, row.benchmark, row.metric): row for row in block.rows}
    for row in table.rows:
        if (row.backbone, table.setting) != (block.backbone, block.setting):
            continue
        for column, figure in zip(table.columns, row.values or [None] * len(table.columns), strict=True):
            ours = rows.get((row.method, column.benchmark, column.metric))
            if ours is not None and (cell := ours.cells.get(column.language)) is not None:
                heads = (ours.label, column.benchmark, column.metric, column.language)
                decimals = max(METRICS[column.metric].decimals - round(math.log10(table.scale)), 1)
                yield Line(heads, compared(cell, figure, table.scale, decimals))


def compared(ours: Cell, figure: Figure, scale: float, decimals: int) -> tuple[Entry, ...]:
    """Return the entries of `COLUMNS`.

    Args:
        ours: a score.
        figure: the reported number, a range of such numbers, or None.
        scale: the factor from our score to the reported number.
        decimals: number of decimals of all entries.
    """
    value, low, high = (scale * end for end in (ours.value, ours.low, ours.high))
    own = Entry(f"{value:.{decimals}f}", value, low, high, note=bounds(low, high, decimals), n=ours.n)
    if figure is None:
        return own, NOTHING, NOTHING, NOTHING
    lower, upper = figure if isinstance(figure, tuple) else (figure, figure)
    shown = f"{lower:.{decimals}f}" if lower == upper else f"{lower:.{decimals}f} to {upper:.{decimals}f}"
    difference = value - min(max(value, lower), upper)
    meet = NOTHING if math.isnan(low + high) else Entry("yes" if low <= upper and lower <= high else "no")
    return own, Entry(shown), Entry(f"{difference:+z.{decimals}f}", difference), meet
