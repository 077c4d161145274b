"""Tables as compact text for the terminal."""

from collections.abc import Sequence

from lensflow.presentation.sheets import Document, Entry, Panel

WIDTH, COLUMN = 140, 40  # characters of a line, and of a column, at most


def to_text(document: Document) -> str:
    """Return aligned text, at most `WIDTH` columns wide, with half of each interval and brief notes.

    Columns that do not fit beside each other continue in a second table below.
    """
    lines: list[str] = []
    for sheet in document.sheets:
        lines.append(_shorten(sheet.caption, WIDTH))
        for panel in sheet.panels:
            lines += [*([panel.title] if panel.title else []), *_panel(panel), ""]
    return "\n".join([*lines, *(_shorten(note, WIDTH) for note in document.brief)]) + "\n"


def _panel(panel: Panel) -> list[str]:
    fixed = [_padded([name, *_heads(panel, place)]) for place, name in enumerate(panel.heads)]
    lines: list[str] = []
    part = fixed
    for place, name in enumerate(panel.columns):
        column = _padded([name, *(_entry(line.entries[place]) for line in panel.lines)])
        if sum(len(cells[0]) + 2 for cells in [*part, column]) > WIDTH:
            lines += [*_joined(part), ""]
            part = fixed
        part = [*part, column]
    return lines + _joined(part)


def _heads(panel: Panel, place: int) -> list[str]:
    """One head of all lines. All heads except the last are printed only on the first line of a group."""
    last = place == len(panel.heads) - 1
    return [line.heads[place] if last or not n else "" for group in panel.groups for n, line in enumerate(group)]


def _entry(entry: Entry) -> str:
    return f"{entry.text}{entry.half} {entry.marks}".rstrip()


def _joined(columns: Sequence[Sequence[str]]) -> list[str]:
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _padded(texts: Sequence[str]) -> list[str]:
    texts = [_shorten(text, COLUMN) for text in texts]
    width = max(map(len, texts))
    return [text.ljust(width) for text in texts]


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
