"""The result tables: from the tidy scores to blocks, and from blocks to Markdown, LaTeX, CSV, HTML and terminal text.

    blocks = main_table(scores, settings, methods)
    files.write_text(path, to_markdown(blocks))

A block is one backbone × setting. All writers are pure: they take the blocks and return text.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import pandas as pd
from markupsafe import Markup

from lensflow.errors import LensflowError

BASE = "base"  # the untouched backbone's method …
NO_SETTING = "none"  # … and the setting it is evaluated under, once for all languages
TARGETS = "targets"  # the column of the mean over the target languages
MISSING = "–"
TERMINAL_WIDTH = 140


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: its benchmark, which direction is better, decimals, definition."""

    benchmark: str
    better: str
    decimals: int
    definition: str


# In the order of the table.
METRICS: Mapping[str, Metric] = {
    "fidelity": Metric("generation", "↑", 2, "share of answers identified as the language of the prompt"),
    "script_mass": Metric(
        "likelihood",
        "↑",
        2,
        "mean over prompts of the next-token probability of the language's own script, as a share of own script plus "
        "Latin, where the answer begins; not defined for languages written in Latin script",
    ),
    "repetition": Metric("generation", "↓", 2, "share of answers that repeat themselves"),
    "copying": Metric("generation", "↓", 2, "share of answers that copy the prompt"),
    "empty": Metric("generation", "↓", 2, "share of answers without text"),
    "accuracy": Metric("cldr", "↑", 2, "share of multiple-choice questions whose right choice scores highest"),
    "nll": Metric("likelihood", "↓", 3, "mean negative log-likelihood of held-out prompts, nats a token"),
}
UNKNOWN_METRIC = Metric("", "", 3, "")
COLUMNS = ("backbone", "setting", "method", "seed", "benchmark", "metric", "language", "n", "value", "low", "high")
INTERVAL_NOTE = (
    "95 % intervals: Wilson for shares, bootstrap over items for script_mass and nll; an added benchmark brings its own"
)
TARGETS_NOTE = (
    "targets: unweighted mean over the target languages that the metric is defined for, n added up; its interval is "
    "√(Σ half-width²)/k on either side, as for independent items (parallel prompts are not quite that, so read it as "
    "a lower bound of the width)"
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
    """One score with its 95 % interval [low, high] (nan where there is none) over n items."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Row:
    """The scores of one method and seed on one metric; `cells` maps language (and "targets") to what is known."""

    benchmark: str
    metric: str
    method: str
    seed: int
    label: str
    cells: Mapping[str, Cell]

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


@dataclass(frozen=True)
class Block:
    """The table of one backbone × setting. Rows of one metric stand together, base first."""

    backbone: str
    setting: str
    central: str
    targets: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def columns(self) -> dict[str, str]:
        """Column key -> heading. With a single target the mean over targets would only repeat it, and is left out."""
        names = {self.central: f"{self.central} (central)"} | {target: target for target in self.targets}
        return names | ({TARGETS: TARGETS} if len(self.targets) > 1 else {})

    @property
    def caption(self) -> str:
        """One line that names the block."""
        return f"{self.backbone}, setting {self.setting} (central language {self.central})"


def main_table(scores: pd.DataFrame, settings: Mapping[str, Setting], methods: Sequence[str]) -> list[Block]:
    """Arrange the scores into one block for each backbone × setting.

    Args:
        scores: rows of scores.csv (at least the columns in `COLUMNS`); one row a score.
        settings: setting name -> its languages; scores of other settings are not shown.
        methods: the methods in order, base not needed; methods that are not listed come last.

    Raises:
        LensflowError: a column is missing, a score occurs twice, or no score belongs to the settings.
    """
    if absent := [column for column in COLUMNS if column not in scores.columns]:
        raise LensflowError(f"scores: no column {absent[0]!r}; collect the scores again")
    key = ["backbone", "setting", "method", "seed", "benchmark", "metric", "language"]
    if (twice := scores.duplicated(key)).any():
        name = "/".join(str(part) for part in scores.loc[twice, key].iloc[0])
        raise LensflowError(f"scores: {name} occurs twice; keep one engine and dtype a table")
    backbones = list(dict.fromkeys(scores["backbone"]))
    blocks = [_block(scores, backbone, name, settings[name], methods) for backbone in backbones for name in settings]
    if not (blocks := [block for block in blocks if block.rows]):
        raise LensflowError(f"scores: no score for the settings {', '.join(settings) or '(none)'}; evaluate first")
    return blocks


def _block(scores: pd.DataFrame, backbone: str, name: str, setting: Setting, methods: Sequence[str]) -> Block:
    targets = tuple(language for language in setting.languages if language != setting.central)
    is_base = (scores["setting"] == NO_SETTING) & (scores["method"] == BASE)
    is_own = (scores["setting"] == name) & (scores["method"] != BASE)
    is_shown = scores["language"].isin([setting.central, *targets]) & scores["value"].notna()
    chosen = scores[(scores["backbone"] == backbone) & (is_base | is_own) & is_shown]
    cells: dict[tuple[str, str], dict[tuple[str, int], dict[str, Cell]]] = {}
    score: Any  # a named tuple with the columns as its fields
    for score in chosen.itertuples(index=False):
        of_metric = cells.setdefault((score.benchmark, score.metric), {})
        of_method = of_metric.setdefault((score.method, int(score.seed)), {})
        of_method[score.language] = Cell(float(score.value), float(score.low), float(score.high), int(score.n))
    order = list(dict.fromkeys([BASE, *methods, *chosen["method"]]))
    runs = sorted(
        {run for of_metric in cells.values() for run in of_metric}, key=lambda run: (order.index(run[0]), run[1])
    )
    trained = [method for method, _ in runs]
    known = list(METRICS)
    rows = []
    # Stable: metrics of added benchmarks stay in their order of appearance, behind the known ones.
    for benchmark, metric in sorted(cells, key=lambda pair: known.index(pair[1]) if pair[1] in known else len(known)):
        of_metric = cells[benchmark, metric]
        defined = [target for target in targets if any(target in languages for languages in of_metric.values())]
        for method, seed in runs:
            languages = of_metric.get((method, seed), {})
            # A mean over fewer languages than the other rows' would not compare with them: better none.
            if defined and all(target in languages for target in defined):
                languages = languages | {TARGETS: mean_cell([languages[target] for target in defined])}
            label = f"{method} (seed {seed})" if trained.count(method) > 1 else method
            rows.append(Row(benchmark, metric, method, seed, label, languages))
    return Block(backbone, name, setting.central, targets, tuple(rows))


def mean_cell(cells: Sequence[Cell]) -> Cell:
    """Unweighted mean of independent scores, n added up.

    Each side of the interval is propagated by itself: mean - √Σ(value - low)²/k and mean + √Σ(high - value)²/k
    (square-and-add: Zou and Donner, Statistics in Medicine 27, 2008).
    """
    k = len(cells)
    value = math.fsum(cell.value for cell in cells) / k
    return Cell(
        value,
        value - math.hypot(*(cell.value - cell.low for cell in cells)) / k,
        value + math.hypot(*(cell.high - cell.value for cell in cells)) / k,
        sum(cell.n for cell in cells),
    )


def legend(blocks: Iterable[Block]) -> list[str]:
    """The lines below a table: n of each benchmark, the intervals, the mean over targets, each metric's definition."""
    blocks = list(blocks)
    rows = [row for block in blocks for row in block.rows]
    lines = [f"n: items a language; {_sizes(rows)}", INTERVAL_NOTE]
    if any(TARGETS in block.columns for block in blocks):
        lines.append(TARGETS_NOTE)
    lines.append(f"↑ higher is better, ↓ lower is better; {MISSING} not measured")
    return lines + [
        f"{name}: {METRICS[name].definition}" for name in METRICS if any(row.metric == name for row in rows)
    ]


def _sizes(rows: Sequence[Row]) -> str:
    sizes: dict[str, set[int]] = {}
    for row in rows:
        sizes.setdefault(row.benchmark, set()).update(cell.n for key, cell in row.cells.items() if key != TARGETS)
    spans = {name: sorted({min(of), max(of)}) for name, of in sizes.items() if of}
    return ", ".join(f"{name} n = {'–'.join(map(str, span))}" for name, span in spans.items())


def _interval(cell: Cell, decimals: int) -> str:
    """ "[low, high] n=…", without the bounds where there are none."""
    # z: no minus before a zero that only rounding made negative.
    bounds = "" if math.isnan(cell.low + cell.high) else f"[{cell.low:z.{decimals}f}, {cell.high:z.{decimals}f}] "
    return f"{bounds}n={cell.n}"


def _cell(row: Row, key: str) -> str:
    """ "value [low, high] n=…" of one cell."""
    if (cell := row.cells.get(key)) is None:
        return MISSING
    return f"{cell.value:.{row.spec.decimals}f} {_interval(cell, row.spec.decimals)}"


def to_markdown(blocks: Sequence[Block]) -> str:
    """One GitHub table a block under a heading, the legend below."""
    parts = []
    for block in blocks:
        header = ["metric", "method", *block.columns.values()]
        lines = [header, ["---", "---", *["---:"] * len(block.columns)]]
        lines += [
            [_markdown(row.heading), _markdown(row.label), *(_cell(row, key) for key in block.columns)]
            for row in block.rows
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"### {_markdown(block.caption)}\n\n{table}\n")
    notes = "\n".join(f"- {_markdown(line)}" for line in legend(blocks))
    return "\n".join([*parts, notes]) + "\n"


def _markdown(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return text.translate({ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|&~$#"} | {ord("\n"): " "})


def to_latex(blocks: Sequence[Block]) -> str:
    r"""One booktabs `table` a block (needs the packages booktabs and adjustbox), the legend below each."""
    return "\n".join(["% \\usepackage{booktabs,adjustbox}", *map(_latex_block, blocks)])


def _latex_block(block: Block) -> str:
    lines = [
        r"\begin{table}[tbp]",
        r"\centering",
        rf"\caption{{{_latex(block.caption)}}}",
        r"\begin{adjustbox}{max width=\linewidth}",
        rf"\begin{{tabular}}{{ll{'r' * len(block.columns)}}}",
        r"\toprule",
        " & ".join(map(_latex, ["metric", "method", *block.columns.values()])) + r" \\",
    ]
    for heading, rows in groupby(block.rows, key=lambda row: row.heading):
        lines.append(r"\midrule")
        for first, row in zip([heading] + [""] * len(block.rows), rows, strict=False):
            # The intervals stand small under the values: beside them, seven languages would be too wide to read.
            texts = [_cell(row, key).partition(" ") for key in block.columns]
            lines.append(" & ".join(map(_latex, [first, row.label, *(value for value, _, _ in texts)])) + r" \\")
            bounds = [rf"{{\tiny {_latex(interval)}}}" for _, _, interval in texts]
            lines.append(" & ".join(["", "", *bounds]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}", "", r"\raggedright\footnotesize"]
    lines += [rf"{_latex(line)}.\par" for line in legend([block])]
    return "\n".join([*lines, r"\end{table}", ""])


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
        "√": r"$\surd$",
        "Σ": r"$\Sigma$",
        "²": "$^2$",
    }
)


def _latex(text: str) -> str:
    """Escape LaTeX's special characters and write the few symbols that the tables use as commands."""
    return text.translate(_LATEX)


def to_csv(blocks: Sequence[Block]) -> str:
    """Long form, one cell a line: backbone,setting,method,seed,benchmark,metric,language,value,low,high,n.

    The base rows stand under the setting they are compared in. Text that a spreadsheet would run as a formula gets a
    leading apostrophe (OWASP, "CSV injection"); numbers have six significant digits.
    """
    records = [
        {
            "backbone": _csv(block.backbone),
            "setting": _csv(block.setting),
            "method": _csv(row.method),
            "seed": row.seed,
            "benchmark": _csv(row.benchmark),
            "metric": _csv(row.metric),
            "language": _csv(key),
            "value": cell.value,
            "low": cell.low,
            "high": cell.high,
            "n": cell.n,
        }
        for block in blocks
        for row in block.rows
        for key in block.columns
        if (cell := row.cells.get(key)) is not None
    ]
    return pd.DataFrame(records).to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _csv(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def to_html(blocks: Sequence[Block]) -> list[tuple[str, str]]:
    """(caption, HTML table) of each block, the legend below the last: what `report.build_report` takes. All escaped."""
    pages = [_html_block(block) for block in blocks]
    notes = Markup("").join(Markup("<li>{}</li>").format(line) for line in legend(blocks))
    pages[-1] += Markup("<details open><summary>Legend</summary><ul>{}</ul></details>").format(notes)
    return [(block.caption, str(page)) for block, page in zip(blocks, pages, strict=True)]


def _html_block(block: Block) -> Markup:
    heads = ["metric, method", *block.columns.values()]
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(text) for text in heads)
    bodies = []
    for heading, rows in groupby(block.rows, key=lambda row: row.heading):
        metric = Markup('<tr><th scope="rowgroup" colspan="{}">{}</th></tr>').format(len(heads), heading)
        lines = [
            Markup('<tr><th scope="row">{}</th>{}</tr>').format(
                row.label, Markup("").join(_html_cell(row, key) for key in block.columns)
            )
            for row in rows
        ]
        bodies.append(Markup("<tbody>{}</tbody>").format(Markup("\n").join([metric, *lines])))
    table = Markup('<table class="scores">\n<thead><tr>{}</tr></thead>\n{}\n</table>\n')
    return table.format(head, Markup("\n").join(bodies))


def _html_cell(row: Row, key: str) -> Markup:
    if (cell := row.cells.get(key)) is None:
        return Markup("<td>{}</td>").format(MISSING)
    value = f"{cell.value:.{row.spec.decimals}f}"
    return Markup("<td><b>{}</b> <small>{}</small></td>").format(value, _interval(cell, row.spec.decimals))


def to_text(blocks: Sequence[Block]) -> str:
    """Compact text for the terminal: value±half width of the interval, aligned, at most 140 columns wide.

    Languages that do not fit beside one another continue in a second table below.
    """
    lines = []
    for block in blocks:
        lines += [_shorten(block.caption, TERMINAL_WIDTH), *_text_lines(block), ""]
    sizes = _sizes([row for block in blocks for row in block.rows])
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
    return f"{cell.value:.{decimals}f}" + ("" if math.isnan(half) else f"±{half:.{decimals}f}")


def _padded(texts: Sequence[str]) -> list[str]:
    texts = [_shorten(text, 40) for text in texts]
    width = max(map(len, texts))
    return [text.ljust(width) for text in texts]


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
