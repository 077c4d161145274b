"""The model of every table. All writers take it.

    document = table.build(inputs)
    write_text(path, to_markdown(document))

A document is one file. It has one sheet per backbone × setting, and a sheet has one or more panels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "–"


@dataclass(frozen=True)
class Entry:
    """One value of a panel.

    Attributes:
        text: the value as shown, without its marks.
        value: the value as a number, if it is one.
        low: lower end of its interval.
        high: upper end of its interval.
        marks: signs after the value.
        explained: the marks in words.
        verdict: better, worse or differs, if a test says so.
        note: small print, such as the interval.
        half: half of the interval, for a format that has no room for the note.
        n: number of items; 0 if it is not shown.
        rank: 1 for the best and 2 for the second best of a column, if intervals support the rank.
    """

    text: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    marks: str = ""
    explained: str = ""
    verdict: str = ""
    note: str = ""
    half: str = ""
    n: int = 0
    rank: int = 0

    @property
    def small(self) -> str:
        """The note and the number of items, for a format that has room for both."""
        return " ".join(part for part in (self.note, f"n={self.n}" if self.n else "") if part)


NOTHING = Entry(MISSING)


@dataclass(frozen=True)
class Line:
    """One line of a panel: a text for each of the panel's heads, and an entry for each of its columns."""

    heads: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Panel:
    """Columns that belong together.

    Attributes:
        title: title of the panel; empty if the sheet has only this panel.
        heads: names of the left columns, which say what a line is about.
        columns: names of the other columns.
        groups: lines that stay together on a page. Within a group, all heads except the last are the same.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    groups: tuple[tuple[Line, ...], ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines of all groups."""
        return tuple(line for group in self.groups for line in group)


@dataclass(frozen=True)
class Sheet:
    """The table of one backbone × setting, with the notes below it."""

    backbone: str
    setting: str
    caption: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """The content of one file.

    Attributes:
        sheets: the sheets; none if there is nothing to show.
        shared: notes on all sheets. If the sheets follow each other, these notes replace each sheet's own notes.
        brief: short notes for a terminal.
        records: lines of the CSV file with their own columns; without them, each entry of a panel is a line.
        made_by: the command that writes the file again, if the file shows it.
    """

    sheets: tuple[Sheet, ...]
    shared: tuple[str, ...] = ()
    brief: tuple[str, ...] = ()
    records: tuple[Mapping[str, Any], ...] = ()
    made_by: str = ""


def method_panel(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[Entry]]) -> Panel:
    """Return a panel with one line for each method, from its label and entries."""
    lines = tuple(Line((label,), tuple(entries)) for label, entries in rows.items())
    return Panel(title, ("method",), tuple(columns), (lines,))


def document_of(sheets: Iterable[Sheet | None]) -> Document:
    """Return the document of the sheets that are not None."""
    return Document(tuple(sheet for sheet in sheets if sheet is not None))


def bounds(low: float, high: float, decimals: int) -> str:
    """ "[low, high]", or nothing if there is no interval."""
    # z: no minus before a zero that only rounding made negative.
    return "" if math.isnan(low + high) else f"[{low:z.{decimals}f}, {high:z.{decimals}f}]"


def over_seeds(of_seeds: Iterable[float | None], form: str) -> Entry:
    """Return the mean of the known numbers, with the smallest and the largest."""
    values = [value for value in of_seeds if value is not None]
    if not values:
        return NOTHING
    mean, ends = sum(values) / len(values), (min(values), max(values))
    if len(values) == 1:
        return Entry(form.format(mean), mean)
    low, high = map(form.format, ends)
    return Entry(form.format(mean), mean, *ends, note=f"({low} to {high})" if low != high else "")
