"""The table of training costs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from lensflow.artifacts.layout import Place
from lensflow.presentation.blocks import NOT_APPLIED, Block, TableInputs
from lensflow.presentation.legends import NOT_APPLIED_NOTE
from lensflow.presentation.sheets import MISSING, Document, Entry, Sheet, document_of, method_panel, over_seeds

# Key of cost.json, or `prepared_seconds` -> heading, what to multiply by, format.
COSTS = {
    "seconds": ("time (s)", 1, "{:,.0f}"),
    "prepared_seconds": ("before (s)", 1, "{:,.0f}"),
    "peak_memory": ("peak memory (GB)", 1e-9, "{:.2f}"),
    "tokens": ("tokens", 1, "{:,.0f}"),
    "trained_parameters": ("trained parameters", 1, "{:,.0f}"),
    "energy_joules": ("energy (Wh)", 1 / 3600, "{:.2f}"),
}


def cost(inputs: TableInputs) -> Document:
    """Return the table of training costs: the mean over the seeds of a method, with the smallest and the largest
    value."""
    return document_of(_sheet(block, inputs.costs) for block in inputs.blocks)


def _sheet(block: Block, costs: Mapping[Place, Mapping[str, Any]]) -> Sheet | None:
    """The costs of a block's methods; None if no cost is known."""
    seeds: dict[str, list[Mapping[str, Any]]] = {}
    for place, measured in costs.items():
        if (place.backbone, place.setting) == (block.backbone, block.setting):
            seeds.setdefault(place.method, []).append(measured)
    order = [method for method in dict.fromkeys(row.method for row in block.rows) if method in seeds]
    unapplied = {row.method for row in block.rows if row.not_applied} & set(order)
    labels = {method: _label(method, len(seeds[method]), method in unapplied) for method in order}
    rows = {labels[method]: [_entry(seeds[method], key) for key in COSTS] for method in order}
    if not rows:
        return None
    panel = method_panel("Training", [heading for heading, _, _ in COSTS.values()], rows)
    caption = f"What training takes: {block.caption}"
    notes = [*_notes(seeds.values()), *([NOT_APPLIED_NOTE] if unapplied else [])]
    return Sheet(block.backbone, block.setting, caption, (panel,), tuple(notes))


def _label(method: str, seeds: int, unapplied: bool) -> str:
    name = method if seeds == 1 else f"{method} ({seeds} seeds)"
    return f"{name} {NOT_APPLIED}" if unapplied else name


def _notes(methods: Collection[Sequence[Mapping[str, Any]]]) -> list[str]:
    devices = sorted({str(measured["device"]) for seeds in methods for measured in seeds if "device" in measured})
    several = any(len(seeds) > 1 for seeds in methods)
    return [
        *(["mean over seeds, with the smallest and the largest"] if several else []),
        "time is for the training only; before is for the hidden states and subspaces that all methods and seeds share",
        "time and memory were measured on this run's machine" + (f" ({', '.join(devices)})" if devices else ""),
        f"energy counts the processors only, and everything that runs on them; {MISSING} means not measured, because "
        "no counter (RAPL) could be read",
    ]


def _entry(measured: Iterable[Mapping[str, Any]], key: str) -> Entry:
    _, factor, form = COSTS[key]
    found = [of_seed.get(key) for of_seed in measured]
    return over_seeds([None if value is None else factor * float(value) for value in found], form)
