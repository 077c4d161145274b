"""Methods side by side (the paper's Table 1), and their differences: ablation, and all against one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lensflow.measures.catalogue import BASE, METRICS, TARGETS
from lensflow.presentation.blocks import Block, Row
from lensflow.presentation.legends import ARROWS_NOTE, MISSING, TARGETS_NOTE, TOLD_NOTE, legend, marks_note
from lensflow.presentation.sheets import NOTHING, Entry, Panel, Sheet
from lensflow.presentation.tables import bounds

# What the paper's Table 1 reports, under its headings. A metric of a task that is not known here is of understanding.
UNDERSTANDING = ("accuracy", "exact_match")
GENERATION = ("fidelity", "line_pass_rate", "word_pass_rate", "repetition", "rating")
CENTRAL = (*UNDERSTANDING, "fidelity", "repetition", "rating", "nll")


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


def ablation(block: Block, methods: Mapping[str, Mapping[str, Any]]) -> Sheet | None:
    """The variants of Lens: what their settings differ in, and the difference of each to base; None if there are none.

    Args:
        block: of the main table.
        methods: name -> its configuration; those of kind lens are shown.
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
    panels = differing + _panels(block, rows, _difference)
    return Sheet(block.backbone, block.setting, caption, panels, _difference_notes(block, BASE))


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
    told = (TOLD_NOTE,) if any(row.told_language for row in block.rows) else ()
    return (first, *means, *marks_note([block], reference), *told, ARROWS_NOTE)


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
