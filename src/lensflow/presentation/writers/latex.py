"""Tables as LaTeX with booktabs."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from lensflow.presentation.sheets import Document, Entry, Line, Panel, Sheet

PACKAGES = r"% \usepackage{booktabs,graphicx}"
ROWS, LEGEND, TITLE = 20, 10, 2  # two-line rows that fit on a page; as how many the legend, or a panel's title, counts
RANKS = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}  # the best and the second best of a column
# The few symbols that the tables use are written as commands.
_ESCAPED = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "\n": " ",
        "–": "--",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "−": "$-$",
        "≠": r"$\neq$",
        "≤": r"$\leq$",
        "✓": r"$\surd$",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
    }
)
Piece = tuple[Panel, tuple[Line, ...]]  # a group of a panel, which stays on one page


def to_latex(document: Document) -> str:
    r"""Return `table`s; a sheet that does not fit on one page becomes several. The notes are below the last one."""
    made_by = [f"% Made by: {' '.join(document.made_by.split())}"] if document.made_by else []
    return "\n".join([*made_by, PACKAGES, *map(_sheet, document.sheets)])


def _sheet(sheet: Sheet) -> str:
    pages = _pages(sheet)
    notes = [r"\raggedright\tiny", *(rf"{escape(note)}.\par" for note in sheet.notes)]
    tables = []
    for number, pieces in enumerate(pages):
        heading = escape(sheet.caption) + (", continued" if number else "")
        lines = [r"\begin{table}[tbp]", r"\centering", r"\footnotesize", rf"\caption{{{heading}}}"]
        for tabular in _tabulars(pieces):
            # Made narrower if it is too wide for the page.
            fitted = [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%", f"{tabular}}}"]
            lines += [*fitted, "", r"\medskip"]
        lines += notes if number == len(pages) - 1 else []
        tables.append("\n".join([*lines, r"\end{table}", ""]))
    return "\n".join(tables)


def _pages(sheet: Sheet) -> list[list[Piece]]:
    """The groups of a sheet by page; the last page is empty if the notes need their own page."""
    pages: list[list[Piece]] = [[]]
    room = ROWS
    for panel in sheet.panels:
        for number, group in enumerate(panel.groups):
            size = len(group) + (TITLE if panel.title and number == 0 else 0)
            if pages[-1] and size > room:
                pages.append([])
                room = ROWS
            pages[-1].append((panel, group))
            room -= size
    return pages if room >= LEGEND else [*pages, []]


def _tabulars(pieces: Sequence[Piece]) -> Iterator[str]:
    """One tabular for each panel of a page."""
    for _, of_panel in groupby(pieces, key=lambda piece: id(piece[0])):
        panels, groups = zip(*of_panel, strict=True)
        yield _tabular(panels[0], groups)


def _tabular(panel: Panel, groups: Iterable[Sequence[Line]]) -> str:
    lines = [rf"\begin{{tabular}}{{{'l' * len(panel.heads)}{'r' * len(panel.columns)}}}"]
    lines += [rf"\rlap{{\textbf{{{escape(panel.title)}}}}} \\"] if panel.title else []
    lines += [r"\toprule", " & ".join(map(escape, [*panel.heads, *panel.columns])) + r" \\"]
    for group in groups:
        lines.append(r"\midrule")
        for number, line in enumerate(group):
            above = [""] * (len(line.heads) - 1) if number else line.heads[:-1]
            lines += _line([*above, line.heads[-1]], line.entries)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _line(heads: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    """One or two lines of a tabular: values with marks, and notes such as intervals in small print below them.

    Beside the values, the intervals of seven languages would be too wide to read.
    """
    values = [
        f"{RANKS.get(entry.rank, '{}').format(escape(entry.text))} {escape(entry.marks)}".rstrip() for entry in entries
    ]
    notes = [rf"{{\tiny {escape(entry.note)}}}" if entry.note else "" for entry in entries]
    lines = [[*map(escape, heads), *values], *([[""] * len(heads) + notes] if any(notes) else [])]
    return [" & ".join(line) + r" \\" for line in lines]


def escape(text: str) -> str:
    """Escape LaTeX's special characters, and write the symbols of the tables as commands."""
    return text.translate(_ESCAPED)
