"""Tables as CSV."""

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

from lensflow.presentation.sheets import NOTHING, Document

COLUMNS = ("backbone", "setting", "panel", "method", "column", "value", "low", "high", "rank")
DIGITS, OWN_DIGITS = 10, 6  # significant digits of an entry, and of a document's own records


def to_csv(document: Document) -> str:
    """Return a document's own records, or one line per entry: its place, value, interval, and rank if there is one.

    Text that a spreadsheet would run as a formula gets a leading apostrophe (OWASP, "CSV injection").
    """
    records, digits = document.records or tuple(_entries(document)), OWN_DIGITS if document.records else DIGITS
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(document.records[0] if document.records else COLUMNS)
    writer.writerows([_field(value, digits) for value in record.values()] for record in records)
    return text.getvalue()


def _entries(document: Document) -> Iterator[dict[str, Any]]:
    """The entries of all panels under `COLUMNS`; empty entries are left out."""
    for sheet in document.sheets:
        for panel in sheet.panels:
            for line in panel.lines:
                place = (sheet.backbone, sheet.setting, panel.title, " ".join(line.heads))
                for column, entry in zip(panel.columns, line.entries, strict=True):
                    value = entry.text if math.isnan(entry.value) else entry.value
                    if entry is not NOTHING:
                        fields = (*place, column, value, entry.low, entry.high, entry.rank or None)
                        yield dict(zip(COLUMNS, fields, strict=True))


def _field(value: Any, digits: int) -> str:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{digits}g}"
    return "" if value is None else str(value)


def escape(text: str) -> str:
    """Make text safe that a spreadsheet would run as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
