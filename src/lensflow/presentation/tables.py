"""The result tables: from cells (`comparisons.compare`) to blocks, and from blocks to text in several formats.

    blocks = main_table(cells, settings, methods)
    files.write_text(path, to_markdown(blocks))

A block is one backbone × setting. All writers are pure: they take the blocks and return text.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol, TypeVar

import pandas as pd
from markupsafe import Markup, escape

from lensflow.artifacts.layout import BASE
from lensflow.errors import LensflowError
from lensflow.mathematics import statistics
from lensflow.measures.catalogue import COLUMNS, COMPARED, METRICS, SIGNIFICANT, TARGETS, UNKNOWN_METRIC, Metric

MISSING = "–"
TERMINAL_WIDTH = 140
LATEX_ROWS, LATEX_LEGEND = 20, 10  # two-line rows that fit on a page in LaTeX, and as how many the legend counts
MARKS = {"better": "+", "worse": "−", "differs": "≠"}
TOLD = "†"
TOLD_NOTE = f"{TOLD} is told the prompt's language at test time: not like-for-like, and so neither best nor second best"
LEFT = 0.3  # of the way to the push target, above which a method was not applied
NOT_APPLIED = "‡ not applied"
NOT_APPLIED_NOTE = (
    f"{NOT_APPLIED}: after training, more than {LEFT:g} of the way to the push target is left (of several seeds, in "
    "one at least); such scores do not show what the method does"
)
RETENTION = {"kept": "✓", "not shown": "?"}
INTERVAL_NOTE = (
    "95 % intervals: Wilson for shares, bootstrap over items else; of several seeds and of means over languages "
    "Student's t over seeds and items, for shares Wilson with the number of items that has the same variance, smoothed "
    "by half an item; an interval of one seed does not cover other seeds"
)
BEST_NOTE = (
    "best in bold, second best underlined, of all methods: only where its 95 % interval overlaps that of none that is "
    "worse (against base: where that of the difference on the same items excludes 0); conservative, since scores whose "
    "intervals overlap can differ all the same"
)
ARROWS_NOTE = f"↑ higher is better, ↓ lower is better; {MISSING} not measured"
TARGETS_NOTE = (
    "targets: unweighted mean over the target languages that the metric is defined for, n added up; for its interval "
    "and its test a question in all of its languages is one item"
)


class Setting(Protocol):
    """What a table needs to know of a setting: the central language and all languages in order."""

    @property
    def central(self) -> str:
        """Code of the central language."""

    @property
    def languages(self) -> Sequence[str]:
        """Codes of the languages in the order of the columns; the central one may be among them."""


@dataclass(frozen=True)
class Cell:
    """One score with its 95 % interval [low, high] (nan where there is none) over n items.

    `compared` maps those of `COMPARED` that are known to their values; it is empty for base.
    """

    value: float
    low: float
    high: float
    n: int
    compared: Mapping[str, Any]

    @property
    def marks(self) -> str:
        """How the cell stands to base, in the legend's signs."""
        return MARKS.get(self.compared.get("mark", ""), "") + RETENTION.get(self.compared.get("retention", ""), "")


@dataclass(frozen=True)
class Row:
    """The scores of one method on one metric; `cells` maps language (and "targets") to what is known."""

    benchmark: str
    metric: str
    method: str
    seeds: tuple[int, ...]
    cells: Mapping[str, Cell]
    told_language: bool = False
    not_applied: bool = False

    @property
    def spec(self) -> Metric:
        """How the metric is shown; metrics of added benchmarks have no known direction or definition."""
        return METRICS.get(self.metric, UNKNOWN_METRIC)

    @property
    def name(self) -> str:
        """The metric's name, with its benchmark unless that is the metric's usual one."""
        return self.metric if self.benchmark == self.spec.benchmark else f"{self.metric} ({self.benchmark})"

    @property
    def heading(self) -> str:
        """The metric's name and an arrow towards better."""
        return f"{self.name} {self.spec.better}".strip()

    @property
    def label(self) -> str:
        """The method, with the number of its seeds if they are several, and its marks."""
        name = f"{self.method} ({len(self.seeds)} seeds)" if len(self.seeds) > 1 else self.method
        return f"{name}{self.signs}"

    @property
    def signs(self) -> str:
        """Whether the method is told the language, and whether it was not applied."""
        return (TOLD if self.told_language else "") + (f" {NOT_APPLIED}" if self.not_applied else "")


@dataclass(frozen=True)
class Block:
    """The table of one backbone × setting. Rows of one metric stand together, base first."""

    backbone: str
    setting: str
    central: str
    targets: tuple[str, ...]
    others: tuple[str, ...]  # evaluated, but neither kept nor made better
    rows: tuple[Row, ...]

    @property
    def columns(self) -> dict[str, str]:
        """Column key -> heading. With a single target the mean over targets would only repeat it, and is left out."""
        names = {self.central: f"{self.central} (central)"} | {target: target for target in self.targets}
        names |= {TARGETS: TARGETS} if len(self.targets) > 1 else {}
        return names | {other: f"{other} (other)" for other in self.others}

    @cached_property
    def ranks(self) -> dict[tuple[str, str, str], dict[str, int]]:
        """(benchmark, metric, column) -> `rank` of its methods."""
        scores = dict.fromkeys((row.benchmark, row.metric) for row in self.rows)
        return {(*score, key): rank(self.rows, score, key) for score in scores for key in self.columns}

    def rank_of(self, row: Row, key: str) -> int:
        """1 if a cell is the best of its column, 2 if it is the second best, else 0."""
        return self.ranks[row.benchmark, row.metric, key].get(row.method, 0)

    @property
    def caption(self) -> str:
        """One line that names the block."""
        return f"{self.backbone}, setting {self.setting} (central language {self.central})"


def rank(rows: Iterable[Row], score: tuple[str, str], key: str) -> dict[str, int]:
    """Method -> 1 for the best and 2 for the second best, in one column of one metric, as far as intervals support it.

    Methods that are told the language do not compete.

    Args:
        rows: of a block.
        score: benchmark and metric; of one without a known direction no method is the best.
        key: the column.
    """
    better = METRICS.get(score[1], UNKNOWN_METRIC).better
    sign = {"↑": 1, "↓": -1, "": 0}[better]
    mine = [row for row in rows if (row.benchmark, row.metric) == score and not row.told_language]
    cells = {row.method: row.cells[key] for row in mine if key in row.cells}
    ordered = sorted(cells, key=lambda method: -sign * cells[method].value) if sign else []

    def beats(first: str, second: str) -> bool:
        one, other = cells[first], cells[second]
        if BASE in (first, second):
            compared = (one if second == BASE else other).compared
            limits = [sign * float(compared.get(f"difference_{end}", math.nan)) for end in ("low", "high")]
            return min(limits) > 0 if second == BASE else max(limits) < 0
        return one.low > other.high if sign > 0 else one.high < other.low

    found: dict[str, int] = {}
    for place, method in enumerate(ordered[:2], start=1):
        below = ordered[place:]
        if not below or not all(beats(method, other) for other in below):
            break
        found[method] = place
    return found


def main_table(
    cells: pd.DataFrame, settings: Mapping[str, Setting], methods: Sequence[str], told_language: Sequence[str] = ()
) -> list[Block]:
    """Arrange the cells into one block for each backbone × setting.

    Args:
        cells: rows of comparisons.csv (the columns `COLUMNS` and `COMPARED`), seeds as text.
        settings: setting name -> its languages; cells of other settings are not shown.
        methods: the methods in order, base not needed; methods that are not listed come last.
        told_language: the methods that know the prompt's language at test time.

    Raises:
        LensflowError: a column is missing, a cell occurs twice, or no cell belongs to the settings.
    """
    if absent := [column for column in (*COLUMNS, *COMPARED) if column not in cells.columns]:
        raise LensflowError(f"comparisons: no column {absent[0]!r}; collect the scores again")
    key = ["backbone", "setting", "method", "benchmark", "metric", "language"]
    if (twice := cells.duplicated(key)).any():
        name = "/".join(str(part) for part in cells.loc[twice, key].iloc[0])
        raise LensflowError(f"comparisons: {name} occurs twice; collect the scores again")
    backbones = list(dict.fromkeys(cells["backbone"]))
    blocks = [
        _block(cells, backbone, name, settings[name], methods, told_language)
        for backbone in backbones
        for name in settings
    ]
    if not (blocks := [block for block in blocks if block.rows]):
        raise LensflowError(f"comparisons: no score for the settings {', '.join(settings) or '(none)'}; evaluate first")
    return blocks


def cell_of(row: Mapping[Hashable, Any]) -> Cell:
    """The cell that a row of comparisons.csv holds."""
    compared = {key: row[key] for key in COMPARED if pd.notna(row[key])}
    return Cell(float(row["value"]), float(row["low"]), float(row["high"]), int(row["n"]), compared)


def _block(
    frame: pd.DataFrame, backbone: str, name: str, setting: Setting, methods: Sequence[str], told: Sequence[str]
) -> Block:
    targets = tuple(language for language in setting.languages if language != setting.central)
    chosen = frame[(frame["backbone"] == backbone) & (frame["setting"] == name)]
    others = [key for key in dict.fromkeys(chosen["language"]) if key not in (setting.central, *targets, TARGETS)]
    cells: dict[tuple[str, str], dict[str, dict[str, Cell]]] = {}
    seeds: dict[tuple[str, str, str], dict[int, None]] = {}
    for cell in chosen.to_dict("records"):
        of_metric = cells.setdefault((cell["benchmark"], cell["metric"]), {})
        of_metric.setdefault(cell["method"], {})[cell["language"]] = cell_of(cell)
        trained = seeds.setdefault((cell["benchmark"], cell["metric"], cell["method"]), {})
        trained |= dict.fromkeys(map(int, cell["seeds"].split()))
    order = list(dict.fromkeys([BASE, *methods, *chosen["method"]]))
    shown = sorted({method for of_metric in cells.values() for method in of_metric}, key=order.index)
    known = list(METRICS)
    # Stable: metrics of added benchmarks stay in their order of appearance, behind the known ones.
    scores = sorted(cells, key=lambda pair: known.index(pair[1]) if pair[1] in known else len(known))
    rows = [
        Row(*score, method, tuple(seeds.get((*score, method), ())), cells[score].get(method, {}), method in told)
        for score in scores
        for method in shown
    ]
    return Block(backbone, name, setting.central, targets, tuple(others), tuple(rows))


def legend(blocks: Sequence[Block], metrics: Collection[str] = tuple(METRICS)) -> list[str]:
    """The lines below a table: n of each benchmark, intervals, marks, mean over targets, definitions of the metrics."""
    rows = [row for block in blocks for row in block.rows]
    lines = [f"n: items a language; {_sizes(rows)}", INTERVAL_NOTE]
    if any(TARGETS in block.columns for block in blocks):
        lines.append(TARGETS_NOTE)
    lines += marks_note(blocks)
    if any(block.rank_of(row, key) for block in blocks for row in block.rows for key in block.columns):
        lines.append(BEST_NOTE)
    lines += signs_notes(rows)
    lines.append(ARROWS_NOTE)
    return lines + [
        f"{name}: {METRICS[name].definition}"
        for name in METRICS
        if name in metrics and any(row.metric == name for row in rows)
    ]


def signs_notes(rows: Iterable[Row]) -> list[str]:
    """What the signs behind the methods mean, as far as there are any."""
    signs = "".join(row.signs for row in rows)
    return [note for sign, note in ((TOLD, TOLD_NOTE), (NOT_APPLIED, NOT_APPLIED_NOTE)) if sign in signs]


def marks_note(blocks: Sequence[Block], reference: str = BASE) -> list[str]:
    """How the marks came about: nothing where nothing was tested."""
    rows = [row for block in blocks for row in block.rows]
    lines = _tests(blocks, reference) + _margins(rows)
    differences = ("difference", "difference_low", "difference_high")
    if any([cell.compared.get(key) for key in differences] == [0, 0, 0] for row in rows for cell in row.cells.values()):
        lines.append(
            f"a difference of 0 to {reference} with an interval of [0, 0] is one by construction: the method does "
            "nothing there, as an instruction to the likelihood of the prompt alone"
        )
    return lines


def _tests(blocks: Sequence[Block], reference: str) -> list[str]:
    rows = [row for block in blocks for row in block.rows]
    sizes = [sum("p" in cell.compared for row in block.rows for cell in row.cells.values()) for block in blocks]
    if not sum(sizes):
        return []
    signs = f"{MARKS['better']} better, {MARKS['worse']} worse than {reference} on the same items"
    if not all(row.spec.better for row in rows):
        signs += f", {MARKS['differs']} differs where neither direction is known to be better"
    family = f"all {sizes[0]} tests" if len(blocks) == 1 else f"all tests of a block ({', '.join(map(str, sizes))})"
    lines = [
        f"{signs}: two-sided p ≤ {SIGNIFICANT} after Holm's correction over {family}, and a 95 % interval of "
        "the difference without 0; paired permutation of each question's mean over seeds, exact for shares (with one "
        "seed McNemar's test); a mark of one seed says nothing of other seeds, which the interval of several covers"
    ]
    lines += [line for block in blocks if (line := _unmarkable(block))]
    left_out = [cell.compared.get("left_out", 0) for row in rows for key, cell in row.cells.items() if key != TARGETS]
    if sum(left_out):
        lines.append(
            f"{sum(left_out):.0f} scores (one item in one metric and language) are left out of these comparisons: the "
            "other side, or one of the seeds, was not asked"
        )
    return lines


def _unmarkable(block: Block) -> str | None:
    """Where no mark for better is possible at this number of questions and tests, and how many would do."""
    tested = [cell.compared for row in block.rows for cell in row.cells.values() if "p" in cell.compared]
    sizes = [(int(compared["room"]), int(compared["questions"])) for compared in tested if "room" in compared]
    needed = statistics.needed_changes(len(tested), SIGNIFICANT)
    if not (short := [(room, questions) for room, questions in sizes if room < needed]):
        return None
    rooms, ns = zip(*short, strict=True)
    enough = max((statistics.needed_n(len(tested), SIGNIFICANT, room / n) for room, n in short if room), default=0)
    would_do = f"; n = {enough} would do" if enough else ""
    if enough and 0 in rooms:
        would_do += ", but for what is at its best"
    return (
        f"no mark for better is possible with n = {_range(ns)} and {len(tested)} tests in {len(short)} of them: "
        f"{needed} questions must get better and none worse, and {_range(rooms)} can{would_do}"
    )


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _margins(rows: Sequence[Row]) -> list[str]:
    cells = [(row.metric, cell.compared) for row in rows for cell in row.cells.values()]
    margins = {metric: compared["margin"] for metric, compared in cells if "retention" in compared}
    if not margins:
        return []
    named = ", ".join(f"{metric} {margin:g}" for metric, margin in margins.items())
    return [
        f"{RETENTION['kept']} kept, {RETENTION['not shown']} not shown to be kept in the central language: test of "
        f"non-inferiority to base, one-sided at 2.5 %, each by itself; margins: {named}"
    ]


def _sizes(rows: Sequence[Row]) -> str:
    sizes: dict[str, set[int]] = {}
    for row in rows:
        sizes.setdefault(row.benchmark, set()).update(cell.n for key, cell in row.cells.items() if key != TARGETS)
    spans = {name: sorted({min(of), max(of)}) for name, of in sizes.items() if of}
    return ", ".join(f"{name} n = {'–'.join(map(str, span))}" for name, span in spans.items())


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
        "‡": r"$\ddagger$",
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
            "not_applied": row.not_applied,
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
    lines += signs_notes(rows)
    sizes = _sizes(rows)
    return "\n".join([*lines, _shorten(f"± half of the 95 % interval; {sizes}", TERMINAL_WIDTH)]) + "\n"


def _signs(rows: Sequence[Row]) -> str:
    """The marks that stand in the rows, in a few words."""
    said = {word: f"{word} than base" for word in ("better", "worse")}
    said |= {"differs": "differs from base", "not shown": "not shown to be kept"}
    marked = [row.cells[key].compared for row in rows for key in row.cells]
    return ", ".join(
        f"{sign} {said.get(word, word)}"
        for column, signs in (("mark", MARKS), ("retention", RETENTION))
        for word, sign in signs.items()
        if any(compared.get(column) == word for compared in marked)
    )


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
