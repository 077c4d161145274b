"""The main table as text in several formats.

    write_text(path, to_markdown(blocks))

All writers are pure: they take the blocks and return text.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TypeVar

import pandas as pd
from markupsafe import Markup, escape

from lensflow.measures.catalogue import COMPARED
from lensflow.presentation.blocks import TOLD, Block, Cell, Row
from lensflow.presentation.legends import MISSING, TOLD_NOTE, _signs, _sizes, legend

TERMINAL_WIDTH = 140
LATEX_ROWS, LATEX_LEGEND = 20, 10  # two-line rows that fit on a page in LaTeX, and as how many the legend counts


def bounds(low: float, high: float, decimals: int) -> str:
    """ "[low, high]", or nothing where there is no interval."""
    # z: no minus before a zero that only rounding made negative.
    return "" if math.isnan(low + high) else f"[{low:z.{decimals}f}, {high:z.{decimals}f}]"


def _interval(cell: Cell, decimals: int) -> str:
    """ "[low, high] n=…", without the bounds where there are none."""
    return f"{bounds(cell.low, cell.high, decimals)} n={cell.n}".lstrip()


def _cell(row: Row, key: str) -> tuple[str, str, str]:
    """ "value", its marks, and "[low, high] n=…" of one cell."""
    if (cell := row.cells.get(key)) is None:
        return MISSING, "", ""
    return f"{cell.value:.{row.spec.decimals}f}", cell.marks, _interval(cell, row.spec.decimals)


# How the best and the second best of a column are written.
MARKDOWN_RANKS = {1: "**{}**", 2: "<ins>{}</ins>"}
LATEX_RANKS = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
HTML_RANKS = {1: Markup("<b>{}</b>"), 2: Markup("<u>{}</u>")}


def to_markdown(blocks: Sequence[Block]) -> str:
    """One GitHub table a block under a heading, the legend below."""
    parts = []
    for block in blocks:
        header = ["metric", "method", *block.columns.values()]
        lines = [header, ["---", "---", *["---:"] * len(block.columns)]]
        lines += [
            [
                escape_markdown(row.heading),
                escape_markdown(row.label),
                *(_markdown_cell(block, row, key) for key in block.columns),
            ]
            for row in block.rows
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"### {escape_markdown(block.caption)}\n\n{table}\n")
    notes = "\n".join(f"- {escape_markdown(line)}" for line in legend(blocks))
    return "\n".join([*parts, notes]) + "\n"


def _markdown_cell(block: Block, row: Row, key: str) -> str:
    value, marks, interval = _cell(row, key)
    value = MARKDOWN_RANKS.get(block.rank_of(row, key), "{}").format(value)
    return " ".join(part for part in (value, marks, interval) if part)


def escape_markdown(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return text.translate({ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|&~$#"} | {ord("\n"): " "})


def to_latex(blocks: Sequence[Block]) -> str:
    r"""Booktabs `table`s, several of a block that does not fit on one page, the legend below its last."""
    return "\n".join([LATEX_PACKAGES, *map(_latex_block, blocks)])


LATEX_PACKAGES = r"% \usepackage{booktabs,graphicx}"


def _latex_block(block: Block) -> str:
    by_metric = [list(rows) for _, rows in groupby(block.rows, key=lambda row: row.heading)]

    def tabulars(metrics: Sequence[list[Row]]) -> list[str]:
        return [_latex_tabular(block, metrics)]

    return latex_tables(block.caption, [(len(rows), rows) for rows in by_metric], tabulars, legend([block]))


def _latex_tabular(block: Block, metrics: Sequence[Sequence[Row]]) -> str:
    lines = [
        rf"\begin{{tabular}}{{ll{'r' * len(block.columns)}}}",
        r"\toprule",
        " & ".join(map(escape_latex, ["metric", "method", *block.columns.values()])) + r" \\",
    ]
    for rows in metrics:
        lines.append(r"\midrule")
        for number, row in enumerate(rows):
            cells = []
            for key in block.columns:
                value, marks, _ = _cell(row, key)
                interval = bounds(cell.low, cell.high, row.spec.decimals) if (cell := row.cells.get(key)) else ""
                cells.append((value, marks, interval, block.rank_of(row, key)))
            lines += latex_row(["" if number else row.heading, row.label], cells)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def latex_row(heads: Sequence[str], cells: Iterable[tuple[str, str, str, int]]) -> list[str]:
    """One or two lines of a tabular: values with marks, and small below them the notes, such as intervals, if any.

    Beside the values, the intervals of seven languages would be too wide to read.
    """
    values, notes = [], []
    for value, marks, note, place in cells:
        number = LATEX_RANKS.get(place, "{}").format(escape_latex(value))
        values.append(f"{number} {escape_latex(marks)}".rstrip())
        notes.append(rf"{{\tiny {escape_latex(note)}}}" if note else "")
    lines = [[*map(escape_latex, heads), *values], *([[""] * len(heads) + notes] if any(notes) else [])]
    return [" & ".join(line) + r" \\" for line in lines]


T = TypeVar("T")


def latex_tables(
    caption: str, pieces: Sequence[tuple[int, T]], tabulars: Callable[[Sequence[T]], list[str]], notes: Sequence[str]
) -> str:
    """As many `table`s as are needed for each to fit on a page, the notes below the last, or by themselves.

    Args:
        caption: of all of them.
        pieces: number of rows, and what is not to be parted.
        tabulars: makes tabulars of pieces; each is made narrower if it is too wide for the page.
        notes: lines below.
    """
    parts: list[list[T]] = [[]]
    room = LATEX_ROWS
    for size, piece in pieces:
        if parts[-1] and size > room:
            parts.append([])
            room = LATEX_ROWS
        parts[-1].append(piece)
        room -= size
    if room < LATEX_LEGEND:
        parts.append([])
    tables = []
    for number, part in enumerate(parts):
        heading = escape_latex(caption) + (", continued" if number else "")
        lines = [r"\begin{table}[tbp]", r"\centering", r"\footnotesize", rf"\caption{{{heading}}}"]
        for tabular in tabulars(part) if part else []:
            lines += [
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                f"{tabular}}}",
                "",
                r"\medskip",
            ]
        if number == len(parts) - 1:
            lines += [r"\raggedright\scriptsize", *(rf"{escape_latex(note)}.\par" for note in notes)]
        tables.append("\n".join([*lines, r"\end{table}", ""]))
    return "\n".join(tables)


_LATEX = str.maketrans(
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
        TOLD: r"$\dagger$",
    }
)


def escape_latex(text: str) -> str:
    """Escape LaTeX's special characters and write the few symbols that the tables use as commands."""
    return text.translate(_LATEX)


def to_csv(blocks: Sequence[Block]) -> str:
    """Long form, one cell a line: place, value, low, high, n, and the comparison with base (`COMPARED`).

    The base rows stand under the setting they are compared in. Text that a spreadsheet would run as a formula gets a
    leading apostrophe (OWASP, "CSV injection"); numbers have six significant digits.
    """
    records = [
        {
            "backbone": escape_csv(block.backbone),
            "setting": escape_csv(block.setting),
            "method": escape_csv(row.method),
            "seeds": " ".join(map(str, row.seeds)),
            "benchmark": escape_csv(row.benchmark),
            "metric": escape_csv(row.metric),
            "language": escape_csv(key),
            "value": cell.value,
            "low": cell.low,
            "high": cell.high,
            "n": cell.n,
            "told_language": row.told_language,
        }
        | {key: cell.compared.get(key) for key in COMPARED}
        for block in blocks
        for row in block.rows
        for key in block.columns
        if (cell := row.cells.get(key)) is not None
    ]
    return pd.DataFrame(records).to_csv(index=False, float_format="%.6g", lineterminator="\n")


def escape_csv(text: str) -> str:
    """Take from text what a spreadsheet would run as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def to_html(block: Block) -> str:
    """A block as an HTML table, the legend below it. All escaped."""
    rows = [(row.heading, row.label) for row in block.rows]
    cells = pd.DataFrame(
        [[_html_cell(block, row, key) for key in block.columns] for row in block.rows],
        index=pd.MultiIndex.from_tuples(rows),
        columns=pd.Index(block.columns.values(), name="method"),
    )
    return str(html_table(cells) + html_legend(legend([block])))


def html_table(cells: pd.DataFrame, caption: str = "") -> Markup:
    """An HTML table of texts, by pandas' Styler. All escaped but what is `Markup`."""
    styler = cells.style.format(escape="html").format_index(escape="html").format_index(escape="html", axis="columns")
    styler.set_caption(escape(caption))
    # Without Styler's classes and ids, the report's own style sheet is enough.
    return Markup(styler.to_html(exclude_styles=True))


def html_legend(notes: Iterable[str]) -> Markup:
    """The lines below a table, to be unfolded."""
    lines = Markup("").join(Markup("<li>{}</li>").format(note) for note in notes)
    return Markup("<details><summary>Legend</summary><ul>{}</ul></details>").format(lines)


def _html_cell(block: Block, row: Row, key: str) -> Markup:
    if (cell := row.cells.get(key)) is None:
        return Markup(MISSING)
    decimals, compared = row.spec.decimals, cell.compared
    marks = Markup("")
    if cell.marks:
        words = [f"{compared['mark']} than base"] if compared.get("mark") in ("better", "worse") else []
        interval = bounds(compared["difference_low"], compared["difference_high"], decimals)
        words.append(f"difference {compared['difference']:+z.{decimals}f} {interval}")
        if "p_holm" in compared:
            words.append(f"adjusted p {compared['p_holm']:.2g}")
        if "retention" in compared:
            verdict = {"not shown": "not shown to be kept"}.get(compared["retention"], compared["retention"])
            words.append(f"{verdict} within {compared['margin']:g}")
        title = ", ".join(words)
        marks = Markup('<span class="{}" title="{}">{}</span> ').format(compared.get("mark", ""), title, cell.marks)
    value = HTML_RANKS.get(block.rank_of(row, key), Markup("{}")).format(f"{cell.value:.{decimals}f}")
    return Markup("{} {}<small>{}</small>").format(value, marks, _interval(cell, decimals))


def to_text(blocks: Sequence[Block]) -> str:
    """Compact text for the terminal: value±half width of the interval, aligned, at most 140 columns wide.

    Languages that do not fit beside one another continue in a second table below.
    """
    lines = []
    for block in blocks:
        lines += [_shorten(block.caption, TERMINAL_WIDTH), *_text_lines(block), ""]
    rows = [row for block in blocks for row in block.rows]
    if signs := _signs(rows):
        lines.append(signs)
    if any(row.told_language for row in rows):
        lines.append(TOLD_NOTE)
    sizes = _sizes(rows)
    return "\n".join([*lines, _shorten(f"± half of the 95 % interval; {sizes}", TERMINAL_WIDTH)]) + "\n"


def _text_lines(block: Block) -> list[str]:
    names = [row.heading for row in block.rows]
    # The metric is named on its first row only.
    names = [name if i == 0 or name != names[i - 1] else "" for i, name in enumerate(names)]
    fixed = [_padded(["metric", *names]), _padded(["method", *(row.label for row in block.rows)])]
    lines: list[str] = []
    part = fixed
    for key, heading in block.columns.items():
        column = _padded([heading, *(_text_cell(row, key) for row in block.rows)])
        if sum(len(cells[0]) + 2 for cells in [*part, column]) > TERMINAL_WIDTH:
            lines += ["  ".join(cells).rstrip() for cells in zip(*part, strict=True)] + [""]
            part = fixed
        part = [*part, column]
    return lines + ["  ".join(cells).rstrip() for cells in zip(*part, strict=True)]


def _text_cell(row: Row, key: str) -> str:
    if (cell := row.cells.get(key)) is None:
        return MISSING
    decimals, half = row.spec.decimals, (cell.high - cell.low) / 2
    interval = "" if math.isnan(half) else f"±{half:.{decimals}f}"
    return f"{cell.value:.{decimals}f}{interval} {cell.marks}".rstrip()


def _padded(texts: Sequence[str]) -> list[str]:
    texts = [_shorten(text, 40) for text in texts]
    width = max(map(len, texts))
    return [text.ljust(width) for text in texts]


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
