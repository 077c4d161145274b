"""The tables beside the main one, and how they are written.

    write_text(path, to_markdown([sheet]))

A sheet is of one backbone × setting, with the methods as rows; like those of `tables`, all writers are pure.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from lensflow.presentation.legends import MISSING
from lensflow.presentation.tables import (
    HTML_RANKS,
    LATEX_PACKAGES,
    MARKDOWN_RANKS,
    escape_csv,
    escape_latex,
    escape_markdown,
    html_legend,
    html_table,
    latex_row,
    latex_tables,
)


@dataclass(frozen=True)
class Entry:
    """What stands in a place of a sheet.

    Attributes:
        text: as it is shown, without the marks.
        value: as a number, if it is one.
        low: of its interval.
        high: of the same.
        marks: behind it, `Cell.marks`.
        note: small below it.
        rank: 1 for the best and 2 for the second best of a column, as far as intervals support it.
    """

    text: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    marks: str = ""
    note: str = ""
    rank: int = 0


NOTHING = Entry(MISSING)


@dataclass(frozen=True)
class Panel:
    """Columns that belong together; `rows` maps a method's label to its entries."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Entry, ...]]


@dataclass(frozen=True)
class Sheet:
    """One table of one backbone × setting."""

    backbone: str
    setting: str
    caption: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...]


def to_markdown(sheets: Sequence[Sheet]) -> str:
    """One GitHub table a panel, the notes below each sheet."""
    lines = []
    for sheet in sheets:
        lines += [f"### {escape_markdown(sheet.caption)}", ""]
        for panel in sheet.panels:
            table = [["method", *map(escape_markdown, panel.columns)], ["---", *["---:"] * len(panel.columns)]]
            table += [[escape_markdown(label), *map(_markdown_entry, entries)] for label, entries in panel.rows.items()]
            lines += [f"**{escape_markdown(panel.title)}**", "", *(f"| {' | '.join(row)} |" for row in table), ""]
        lines += [*(f"- {escape_markdown(note)}" for note in sheet.notes), ""]
    return "\n".join(lines)


def _markdown_entry(entry: Entry) -> str:
    text = MARKDOWN_RANKS.get(entry.rank, "{}").format(escape_markdown(entry.text))
    return " ".join(part for part in (text, entry.marks, entry.note) if part)


def to_latex(sheets: Sequence[Sheet]) -> str:
    """Booktabs `table`s, several of a sheet that does not fit on one page, the notes below its last."""
    return "\n".join([LATEX_PACKAGES, *map(_latex_sheet, sheets)])


def _latex_sheet(sheet: Sheet) -> str:
    def tabulars(panels: Sequence[Panel]) -> list[str]:
        return list(map(_latex_panel, panels))

    # Two rows of a panel are its title and its head.
    pieces = [(len(panel.rows) + 2, panel) for panel in sheet.panels]
    return latex_tables(sheet.caption, pieces, tabulars, sheet.notes)


def _latex_panel(panel: Panel) -> str:
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(panel.columns)}}}",
        rf"\rlap{{\textbf{{{escape_latex(panel.title)}}}}} \\",
        r"\toprule",
        " & ".join(map(escape_latex, ["method", *panel.columns])) + r" \\",
        r"\midrule",
    ]
    for label, entries in panel.rows.items():
        lines += latex_row([label], [(entry.text, entry.marks, entry.note, entry.rank) for entry in entries])
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


CSV_COLUMNS = ("backbone", "setting", "panel", "method", "column", "value", "low", "high", "rank")


def to_csv(sheets: Sequence[Sheet]) -> str:
    """One entry a line; `rank` is 1 for the best and 2 for the second best. Text is escaped as in `tables.to_csv`."""
    records = [
        {
            "backbone": escape_csv(sheet.backbone),
            "setting": escape_csv(sheet.setting),
            "panel": escape_csv(panel.title),
            "method": escape_csv(label),
            "column": escape_csv(column),
            "value": escape_csv(entry.text) if math.isnan(entry.value) else f"{entry.value:.10g}",
            "low": entry.low,
            "high": entry.high,
            "rank": entry.rank or None,
        }
        for sheet in sheets
        for panel in sheet.panels
        for label, entries in panel.rows.items()
        for column, entry in zip(panel.columns, entries, strict=True)
        if entry is not NOTHING
    ]
    frame = pd.DataFrame(records, columns=list(CSV_COLUMNS)).astype({"rank": "Int64"})
    return frame.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def to_html(sheet: Sheet) -> str:
    """A sheet as HTML, the notes below it. All escaped."""
    panels = Markup("\n").join(map(_html_panel, sheet.panels))
    return str(Markup('<div class="panels">{}</div>\n').format(panels) + html_legend(sheet.notes))


def _html_panel(panel: Panel) -> Markup:
    cells = pd.DataFrame(
        [list(map(_html_entry, entries)) for entries in panel.rows.values()],
        index=list(panel.rows),
        columns=pd.Index(panel.columns, name="method"),
    )
    return html_table(cells, panel.title)


def _html_entry(entry: Entry) -> Markup:
    value = HTML_RANKS.get(entry.rank, Markup("{}")).format(entry.text)
    return Markup("{} {}<small>{}</small>").format(value, entry.marks, entry.note)
