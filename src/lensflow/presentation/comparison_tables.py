"""Tables of methods side by side (the paper's Table 1) and of their differences: the ablation, and all against one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from lensflow.artifacts.layout import BASE, Place
from lensflow.measures.catalogue import METRICS, TARGETS
from lensflow.presentation.blocks import Block, Row, TableInputs
from lensflow.presentation.legends import ARROWS_NOTE, TARGETS_NOTE, legend, marks_note, signs_notes
from lensflow.presentation.main_table import score
from lensflow.presentation.sheets import (
    MISSING,
    NOTHING,
    Document,
    Entry,
    Panel,
    Sheet,
    bounds,
    document_of,
    method_panel,
    over_seeds,
)

# What the paper's Table 1 reports, under its headings. A metric of a task that is not known here is of understanding.
UNDERSTANDING = ("accuracy", "exact_match", "f1")
GENERATION = ("usable", "wrong_language", "repetition", "copying", "line_pass_rate", "chrf", "rating", "steering")
CENTRAL = (*UNDERSTANDING, "usable", "repetition", "rating", "nll")


TERMS = ("pull", "push", "retain")
APPLIED = ("residual", *(f"{term} {when}" for term in TERMS for when in ("before", "after")))
APPLIED_NOTE = (
    "applied: residual is what is left of the way to the push target, 1 if untouched and 0 if fully displaced; beside "
    "it the share of each term in the weighted loss; over the dev texts (train texts where there are no dev texts), of "
    "several seeds the mean, the smallest and the largest"
)


def summary(inputs: TableInputs) -> Document:
    """Return the table of methods side by side: understanding and generation in the targets, and the central
    language."""
    return document_of(map(_summary, inputs.blocks))


def _summary(block: Block) -> Sheet:
    panels = _panels(block, block.rows, partial(score, block))
    shown = {row.metric for row in block.rows if row.metric in (*GENERATION, *CENTRAL)}
    caption = f"Methods side by side: {block.caption}"
    return Sheet(block.backbone, block.setting, caption, panels, tuple(legend([block], shown)))


def ablation(inputs: TableInputs) -> Document:
    """Return the table of Lens variants: the settings in which they differ, and each variant's difference to base."""
    return document_of(_ablation(block, inputs.methods, inputs.costs) for block in inputs.blocks)


def _ablation(
    block: Block, methods: Mapping[str, Mapping[str, Any]], costs: Mapping[Place, Mapping[str, Any]]
) -> Sheet | None:
    rows = [row for row in block.rows if methods.get(row.method, {}).get("kind") == "lens"]
    if not rows:
        return None
    caption = f"Variants of Lens, difference to base: {block.caption}"
    applied = _applied(block, _labels(rows), costs)
    panels = _settings_that_differ(rows, methods) + applied + _panels(block, rows, _difference)
    notes = _difference_notes(block, BASE) + ((APPLIED_NOTE,) if applied else ())
    return Sheet(block.backbone, block.setting, caption, panels, notes)


def _applied(block: Block, labels: Mapping[str, str], costs: Mapping[Place, Mapping[str, Any]]) -> tuple[Panel, ...]:
    """A panel of what trainings reached: residual, and shares of the loss before and after; None if no file has
    them."""
    rows: dict[str, list[Entry]] = {}
    for method, label in labels.items():
        mine = (block.backbone, block.setting, method)
        seeds = [cost for place, cost in costs.items() if place[:3] == mine and "terms" in cost]
        shares = [
            over_seeds([cost["terms"][when][term].get("share") for cost in seeds], "{:.3f}")
            for term in TERMS
            for when in ("before", "after")
        ]
        rows[label] = [over_seeds([cost.get("residual") for cost in seeds], "{:.2f}"), *shares]
    shown = any(entry is not NOTHING for entries in rows.values() for entry in entries)
    return (method_panel("Applied", APPLIED, rows),) if shown else ()


def _settings_that_differ(rows: Sequence[Row], methods: Mapping[str, Mapping[str, Any]]) -> tuple[Panel, ...]:
    """A panel of the settings that not all methods share; None if there is no such setting."""
    settings = {label: _flat(methods[method]) for method, label in _labels(rows).items()}
    keys = list(dict.fromkeys(key for of_method in settings.values() for key in of_method))
    keys = [key for key in keys if len({of_method.get(key, MISSING) for of_method in settings.values()}) > 1]
    texts = {label: [Entry(of_method.get(key, MISSING)) for key in keys] for label, of_method in settings.items()}
    return (method_panel("Settings that differ", keys, texts),) if keys else ()


def versus(inputs: TableInputs) -> Document:
    """Return the table of every method's difference to the method that all are compared with; empty if there is
    none."""
    places = [(block.backbone, block.setting) for block in inputs.blocks]
    return document_of(
        _versus(inputs.direct[place], str(inputs.reference)) for place in places if place in inputs.direct
    )


def _versus(block: Block, reference: str) -> Sheet:
    caption = f"Difference to {reference}: {block.caption}"
    panels = _panels(block, block.rows, _difference)
    return Sheet(block.backbone, block.setting, caption, panels, _difference_notes(block, reference))


def _difference(row: Row, key: str) -> Entry:
    cell = row.cells.get(key)
    if cell is None or "difference" not in cell.compared:
        return NOTHING
    decimals = row.spec.decimals
    low, value, high = cell.difference
    return Entry(f"{value:+z.{decimals}f}", value, low, high, cell.marks, note=bounds(low, high, decimals))


def _difference_notes(block: Block, reference: str) -> tuple[str, ...]:
    first = f"difference to {reference} on the same items, with its 95 % interval"
    means = (TARGETS_NOTE,) if TARGETS in block.columns else ()
    return (first, *means, *marks_note([block], reference), *signs_notes(block.rows), ARROWS_NOTE)


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Flatten a nested mapping into texts, with dots in the keys."""
    flat: dict[str, str] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{before}{key}.") if isinstance(inner, Mapping) else {f"{before}{key}": str(inner)}
    return flat


def _labels(rows: Iterable[Row]) -> dict[str, str]:
    """Method -> its label, in the order of the rows. If its numbers of seeds differ, the label has the largest."""
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
                label: [column.get(method, NOTHING) for column in columns.values()]
                for method, label in _labels(rows).items()
            }
            panels.append(method_panel(title, tuple(columns), entries))
    return tuple(panels)
