"""The main table: every metric in every language."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from lensflow.measures.catalogue import COMPARED
from lensflow.presentation.blocks import Block, Cell, Row, TableInputs
from lensflow.presentation.legends import brief_legend, legend
from lensflow.presentation.sheets import NOTHING, Document, Entry, Line, Panel, Sheet, bounds


def main(inputs: TableInputs) -> Document:
    """Return the table of every metric in every language, with a legend that the blocks share."""
    sheets, records = tuple(map(_sheet, inputs.blocks)), tuple(_records(inputs.blocks))
    return Document(sheets, tuple(legend(inputs.blocks)), tuple(brief_legend(inputs.blocks)), records)


def _sheet(block: Block) -> Sheet:
    groups = tuple(tuple(_line(block, row) for row in rows) for _, rows in groupby(block.rows, lambda row: row.heading))
    panel = Panel("", ("metric", "method"), tuple(block.columns.values()), groups)
    return Sheet(block.backbone, block.setting, block.caption, (panel,), tuple(legend([block])))


def _line(block: Block, row: Row) -> Line:
    return Line((row.heading, row.label), tuple(_entry(block, row, key) for key in block.columns))


def _entry(block: Block, row: Row, key: str) -> Entry:
    """A score with its items, and its marks in words."""
    if (cell := row.cells.get(key)) is None:
        return NOTHING
    verdict, explained = cell.compared.get("mark", ""), _explained(cell, row.spec.decimals)
    return replace(score(block, row, key), n=cell.n, verdict=verdict, explained=explained)


def score(block: Block, row: Row, key: str) -> Entry:
    """Return the entry of a cell: its value with interval, marks and rank."""
    if (cell := row.cells.get(key)) is None:
        return NOTHING
    decimals, half = row.spec.decimals, (cell.high - cell.low) / 2
    return Entry(
        f"{cell.value:.{decimals}f}",
        cell.value,
        cell.low,
        cell.high,
        cell.marks,
        note=bounds(cell.low, cell.high, decimals),
        half="" if math.isnan(half) else f"±{half:.{decimals}f}",
        rank=block.rank_of(row, key),
    )


def _explained(cell: Cell, decimals: int) -> str:
    """The marks of a cell in words; empty if there are none."""
    if not cell.marks:
        return ""
    compared = cell.compared
    words = [f"{compared['mark']} than base"] if compared.get("mark") in ("better", "worse") else []
    low, difference, high = cell.difference
    words.append(f"difference {difference:+z.{decimals}f} {bounds(low, high, decimals)}".rstrip())
    words += [f"adjusted p {compared['p_adjusted']:.2g}"] if "p_adjusted" in compared else []
    if "retention" in compared:
        verdict = {"not shown": "not shown to be kept"}.get(compared["retention"], compared["retention"])
        words.append(f"{verdict} within {compared['margin']:g}")
    return ", ".join(words)


def _records(blocks: tuple[Block, ...]) -> Iterator[dict[str, Any]]:
    """Long form: one row per cell with its place, value, low, high and n, and its comparison with base (`COMPARED`).

    The rows of base have the setting in which the methods are compared with base.
    """
    for block in blocks:
        for row in block.rows:
            for key in block.columns:
                if (cell := row.cells.get(key)) is not None:
                    yield {
                        "backbone": block.backbone,
                        "setting": block.setting,
                        "method": row.method,
                        "seeds": " ".join(map(str, row.seeds)),
                        "benchmark": row.benchmark,
                        "metric": row.metric,
                        "language": key,
                        "value": cell.value,
                        "low": cell.low,
                        "high": cell.high,
                        "n": cell.n,
                        "told_language": row.told_language,
                        "not_applied": row.not_applied,
                    } | {column: cell.compared.get(column) for column in COMPARED}
