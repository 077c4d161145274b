"""What training takes."""

from collections.abc import Iterable, Mapping
from typing import Any

from lensflow.presentation.blocks import Block
from lensflow.presentation.legends import MISSING
from lensflow.presentation.sheets import NOTHING, Entry, Panel, Sheet

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
    panel = Panel("Training", tuple(heading for heading, _, _ in COSTS.values()), rows)
    caption = f"What training takes: {block.caption}"
    return Sheet(block.backbone, block.setting, caption, (panel,), tuple(notes))


def _cost(measured: Iterable[Mapping[str, Any]], key: str) -> Entry:
    _, factor, form = COSTS[key]
    values = [factor * float(of_seed[key]) for of_seed in measured if of_seed.get(key) is not None]
    if not values:
        return NOTHING
    mean, ends = sum(values) / len(values), (min(values), max(values))
    if len(values) == 1:
        return Entry(form.format(mean), mean)
    low, high = map(form.format, ends)
    return Entry(form.format(mean), mean, *ends, note=f"({low} to {high})" if low != high else "")
