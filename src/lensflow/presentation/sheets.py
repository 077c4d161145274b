"""The tables beside the main one: methods side by side (the paper's Table 1), ablation, all against one, costs.

    sheet = summary(block)
    files.write_text(path, to_markdown([sheet], "snakemake ..."))

A sheet is of one backbone × setting, with the methods as rows; like those of `tables`, all writers are pure.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from lensflow.artifacts.layout import BASE
from lensflow.measures.catalogue import METRICS, TARGETS
from lensflow.presentation.tables import (
    ARROWS_NOTE,
    HTML_RANKS,
    LATEX_PACKAGES,
    MARKDOWN_RANKS,
    MISSING,
    NOT_APPLIED,
    NOT_APPLIED_NOTE,
    TARGETS_NOTE,
    Block,
    Row,
    bounds,
    escape_csv,
    escape_latex,
    escape_markdown,
    html_legend,
    html_table,
    latex_row,
    latex_tables,
    legend,
    marks_note,
    signs_notes,
)

# What the paper's Table 1 reports, under its headings. A metric of a task that is not known here is of understanding.
UNDERSTANDING = ("accuracy", "exact_match")
GENERATION = ("fidelity", "line_pass_rate", "word_pass_rate", "repetition", "rating")
CENTRAL = (*UNDERSTANDING, "fidelity", "repetition", "rating", "nll")


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


def summary(block: Block) -> Sheet:
    """The methods side by side: understanding and generation in the target languages, and the central language."""

    def entry(row: Row, key: str) -> Entry:
        if (cell := row.cells.get(key)) is None:
            return NOTHING
        decimals = row.spec.decimals
        note = bounds(cell.low, cell.high, decimals)
        text = f"{cell.value:.{decimals}f}"
        return Entry(text, cell.value, cell.low, cell.high, cell.marks, note, block.rank_of(row, key))

    panels = _panels(block, block.rows, entry)
    shown = {row.metric for row in block.rows if row.metric in (*GENERATION, *CENTRAL)}
    caption = f"Methods side by side: {block.caption}"
    return Sheet(block.backbone, block.setting, caption, panels, tuple(legend([block], shown)))


def ablation(
    block: Block, methods: Mapping[str, Mapping[str, Any]], costs: Mapping[tuple[str, int], Mapping[str, Any]]
) -> Sheet | None:
    """The variants of Lens: their settings, whether they were applied, their difference to base; None without any.

    Args:
        block: of the main table.
        methods: name -> its configuration; those of kind lens are shown.
        costs: method and seed -> its cost.json.
    """
    rows = [row for row in block.rows if methods.get(row.method, {}).get("kind") == "lens"]
    if not rows:
        return None
    settings = {label: _flat(methods[method]) for method, label in _labels(rows).items()}
    keys = list(dict.fromkeys(key for of_method in settings.values() for key in of_method))
    keys = [key for key in keys if len({of_method.get(key, MISSING) for of_method in settings.values()}) > 1]
    texts = {label: tuple(Entry(of_method.get(key, MISSING)) for key in keys) for label, of_method in settings.items()}
    differing = (Panel("Settings that differ", tuple(keys), texts),) if keys else ()
    caption = f"Variants of Lens, difference to base: {block.caption}"
    applied = _applied(_labels(rows), costs)
    panels = differing + applied + _panels(block, rows, _difference)
    notes = _difference_notes(block, BASE) + ((APPLIED_NOTE,) if applied else ())
    return Sheet(block.backbone, block.setting, caption, panels, notes)


def _applied(labels: Mapping[str, str], costs: Mapping[tuple[str, int], Mapping[str, Any]]) -> tuple[Panel, ...]:
    """A panel of what trainings did: residual, and shares of the loss before and after; none if no file has them."""
    rows: dict[str, tuple[Entry, ...]] = {}
    for method, label in labels.items():
        seeds = [cost for (of_method, _), cost in costs.items() if of_method == method and "terms" in cost]
        shares = [
            _over_seeds([cost["terms"][when][term].get("share") for cost in seeds], "{:.3f}")
            for term in ("pull", "push", "retain")
            for when in ("before", "after")
        ]
        rows[label] = (_over_seeds([cost.get("residual") for cost in seeds], "{:.2f}"), *shares)
    shown = any(entry is not NOTHING for entries in rows.values() for entry in entries)
    return (Panel("Applied", APPLIED, rows),) if shown else ()


def versus(block: Block, reference: str) -> Sheet:
    """The difference of every method to one of them.

    Args:
        block: of cells that were compared with the reference instead of base.
        reference: the method.
    """
    caption = f"Difference to {reference}: {block.caption}"
    panels = _panels(block, block.rows, _difference)
    return Sheet(block.backbone, block.setting, caption, panels, _difference_notes(block, reference))


def _difference(row: Row, key: str) -> Entry:
    cell = row.cells.get(key)
    if cell is None or "difference" not in cell.compared:
        return NOTHING
    decimals = row.spec.decimals
    value, low, high = (float(cell.compared[f"difference{end}"]) for end in ("", "_low", "_high"))
    return Entry(f"{value:+z.{decimals}f}", value, low, high, cell.marks, bounds(low, high, decimals))


def _difference_notes(block: Block, reference: str) -> tuple[str, ...]:
    first = f"difference to {reference} on the same items, with its 95 % interval"
    means = (TARGETS_NOTE,) if TARGETS in block.columns else ()
    return (first, *means, *marks_note([block], reference), *signs_notes(block.rows), ARROWS_NOTE)


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """A nested mapping as one of texts, with dots in the keys."""
    flat: dict[str, str] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{before}{key}.") if isinstance(inner, Mapping) else {f"{before}{key}": str(inner)}
    return flat


def _labels(rows: Iterable[Row]) -> dict[str, str]:
    """Method -> its label, in the order of the rows; of several numbers of seeds it has the largest."""
    of_seeds = sorted(rows, key=lambda row: len(row.seeds))
    labels = {row.method: row.label for row in of_seeds}
    return {row.method: labels[row.method] for row in rows}


def _panels(block: Block, rows: Sequence[Row], entry: Callable[[Row, str], Entry]) -> tuple[Panel, ...]:
    """The panels of Table 1 from the rows of some methods; columns without an entry are left out."""
    targets = TARGETS if TARGETS in block.columns else block.targets[0]
    unknown = [row.metric for row in rows if row.metric not in METRICS]
    wanted = {
        f"Understanding ({targets})": (targets, (*UNDERSTANDING, *unknown)),
        f"Generation ({targets})": (targets, GENERATION),
        f"Central language ({block.central})": (block.central, (*CENTRAL, *unknown)),
    }
    panels = []
    for title, (key, metrics) in wanted.items():
        columns: dict[str, dict[str, Entry]] = {}
        for row in rows:
            if row.metric in metrics and (found := entry(row, key)) is not NOTHING:
                columns.setdefault(row.heading, {})[row.method] = found
        if columns:
            entries = {
                label: tuple(column.get(method, NOTHING) for column in columns.values())
                for method, label in _labels(rows).items()
            }
            panels.append(Panel(title, tuple(columns), entries))
    return tuple(panels)


APPLIED = ("residual", *(f"{term} {when}" for term in ("pull", "push", "retain") for when in ("before", "after")))
APPLIED_NOTE = (
    "applied: residual is what is left of the way to the push target, 1 if untouched and 0 if fully displaced; beside "
    "it the share of each term in the weighted loss; over the dev texts (train texts where there are no dev texts), of "
    "several seeds the mean, the smallest and the largest"
)
# Key of cost.json, or `prepared_seconds` -> heading, what to multiply by, format.
COSTS = {
    "seconds": ("time (s)", 1, "{:,.0f}"),
    "prepared_seconds": ("before (s)", 1, "{:,.0f}"),
    "peak_memory": ("peak memory (GB)", 1e-9, "{:.2f}"),
    "tokens": ("tokens", 1, "{:,.0f}"),
    "trained_parameters": ("trained parameters", 1, "{:,.0f}"),
    "energy_joules": ("energy (Wh)", 1 / 3600, "{:.2f}"),
}


def cost(block: Block, costs: Mapping[tuple[str, int], Mapping[str, Any]]) -> Sheet | None:
    """What training took, the mean over the seeds of a method with the smallest and the largest; None if unknown.

    Args:
        block: of the main table.
        costs: method and seed -> its cost.json with `prepared_seconds`; a number that could not be read is missing.
    """
    seeds: dict[str, list[Mapping[str, Any]]] = {}
    for (method, _), measured in costs.items():
        seeds.setdefault(method, []).append(measured)
    order = list(dict.fromkeys(row.method for row in block.rows if row.method in seeds))
    labels = {
        method: method if len(seeds[method]) == 1 else f"{method} ({len(seeds[method])} seeds)" for method in order
    }
    unapplied = {row.method for row in block.rows if row.not_applied}
    labels |= {method: f"{labels[method]} {NOT_APPLIED}" for method in order if method in unapplied}
    rows = {labels[method]: tuple(_cost(seeds[method], key) for key in COSTS) for method in order}
    if not rows:
        return None
    devices = sorted(
        {str(measured["device"]) for of_method in seeds.values() for measured in of_method if "device" in measured}
    )
    notes = [
        "of the training alone; before: the hidden states and subspaces that it read, once for all methods and seeds",
        "time and memory are of the machine they were measured on" + (f" ({', '.join(devices)})" if devices else ""),
        f"energy is of the processors alone, with all that runs on them; {MISSING} not measured: energy needs counters "
        "that Linux lets one read (RAPL)",
    ]
    if any(len(of_method) > 1 for of_method in seeds.values()):
        notes.insert(0, "mean over seeds, with the smallest and the largest")
    notes += [NOT_APPLIED_NOTE] if unapplied & set(order) else []
    panel = Panel("Training", tuple(heading for heading, _, _ in COSTS.values()), rows)
    caption = f"What training takes: {block.caption}"
    return Sheet(block.backbone, block.setting, caption, (panel,), tuple(notes))


def _cost(measured: Iterable[Mapping[str, Any]], key: str) -> Entry:
    _, factor, form = COSTS[key]
    found = [of_seed.get(key) for of_seed in measured]
    return _over_seeds([None if value is None else factor * float(value) for value in found], form)


def _over_seeds(of_seeds: Iterable[float | None], form: str) -> Entry:
    """The mean of those numbers that are known, with the smallest and the largest."""
    values = [value for value in of_seeds if value is not None]
    if not values:
        return NOTHING
    mean, ends = sum(values) / len(values), (min(values), max(values))
    if len(values) == 1:
        return Entry(form.format(mean), mean)
    low, high = map(form.format, ends)
    return Entry(form.format(mean), mean, *ends, note=f"({low} to {high})" if low != high else "")


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
