"""Tables as Markdown, as GitHub reads it."""

from collections.abc import Iterable

from lensflow.presentation.sheets import Document, Entry, Panel

RANKS = {1: "**{}**", 2: "<ins>{}</ins>"}  # the best and the second best of a column
_ESCAPED = {ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|&~$#"} | {ord("\n"): " "}


def to_markdown(document: Document) -> str:
    """Return one table per panel. The notes are below each sheet, or at the end if all sheets share them."""
    lines: list[str] = []
    for sheet in document.sheets:
        lines += [f"### {escape(sheet.caption)}", ""]
        lines += [line for panel in sheet.panels for line in _panel(panel)]
        lines += [] if document.shared else _notes(sheet.notes)
    lines += _notes(document.shared)
    text = "\n".join(lines) or "Nothing to show.\n"
    return f"{text}\nMade by `{document.made_by}`\n" if document.made_by else text


def _panel(panel: Panel) -> list[str]:
    table = [[*panel.heads, *map(escape, panel.columns)]]
    table.append([*["---"] * len(panel.heads), *["---:"] * len(panel.columns)])
    table += [[*map(escape, line.heads), *map(_entry, line.entries)] for line in panel.lines]
    title = [f"**{escape(panel.title)}**", ""] if panel.title else []
    return [*title, *(f"| {' | '.join(row)} |" for row in table), ""]


def _entry(entry: Entry) -> str:
    text = RANKS.get(entry.rank, "{}").format(escape(entry.text))
    return " ".join(part for part in (text, entry.marks, entry.small) if part)


def _notes(notes: Iterable[str]) -> list[str]:
    lines = [f"- {escape(note)}" for note in notes]
    return [*lines, ""] if lines else []


def escape(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return text.translate(_ESCAPED)
