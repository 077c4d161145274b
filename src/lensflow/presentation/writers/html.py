"""Tables as HTML, for the report. All text is escaped."""

from collections.abc import Iterable

import pandas as pd
from markupsafe import Markup, escape

from lensflow.presentation.sheets import NOTHING, Document, Entry, Panel, Sheet

RANKS = {1: Markup("<b>{}</b>"), 2: Markup("<u>{}</u>")}  # the best and the second best of a column


def to_html(document: Document) -> str:
    """Return a document's sheets as foldable sections, each with its notes below."""
    return str(Markup("\n").join(map(_sheet, document.sheets)))


def _sheet(sheet: Sheet) -> Markup:
    panels = Markup("\n").join(map(_panel, sheet.panels))
    if all(panel.title for panel in sheet.panels):
        panels = Markup('<div class="panels">{}</div>\n').format(panels)
    return panels + _legend(sheet.notes)


def _panel(panel: Panel) -> Markup:
    heads = [line.heads if len(line.heads) > 1 else line.heads[0] for line in panel.lines]
    cells = pd.DataFrame(
        [list(map(_entry, line.entries)) for line in panel.lines],
        index=pd.Index(heads),
        columns=pd.Index(panel.columns, name=panel.heads[-1]),
    )
    return table(cells, panel.title)


def table(cells: pd.DataFrame, caption: str = "") -> Markup:
    """Return a table of texts, made by pandas' Styler. Everything except `Markup` is escaped."""
    styler = cells.style.format(escape="html").format_index(escape="html").format_index(escape="html", axis="columns")
    styler.set_caption(escape(caption))
    # Without Styler's classes and ids, the report's own style sheet is enough.
    return Markup(styler.to_html(exclude_styles=True))


def _entry(entry: Entry) -> Markup:
    if entry is NOTHING:
        return escape(entry.text)
    value = RANKS.get(entry.rank, Markup("{}")).format(entry.text)
    return Markup("{} {}<small>{}</small>").format(value, _marks(entry), entry.small)


def _marks(entry: Entry) -> Markup:
    if not entry.explained:
        return escape(entry.marks)
    return Markup('<span class="{}" title="{}">{}</span> ').format(entry.verdict, entry.explained, entry.marks)


def _legend(notes: Iterable[str]) -> Markup:
    lines = Markup("").join(Markup("<li>{}</li>").format(note) for note in notes)
    return Markup("<details><summary>Legend</summary><ul>{}</ul></details>").format(lines)
