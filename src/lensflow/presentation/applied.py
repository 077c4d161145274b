"""Was a method applied? What is left of the way to its push target, by the `cost.json` of its trainings."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lensflow.presentation.tables import LEFT, Block, Row

# Backbone, setting, method and seed -> cost.json.
Trainings = Mapping[tuple[str, str, str, int], Mapping[str, Any]]
Method = tuple[str, str, str]  # backbone, setting and method


def not_applied(trainings: Trainings) -> frozenset[Method]:
    """Return the methods that, in one training at least, left more than `LEFT` of the way to their push target."""
    return frozenset(place[:3] for place, cost in trainings.items() if cost.get("residual", 0.0) > LEFT)


def marked(blocks: Sequence[Block], methods: Collection[Method]) -> list[Block]:
    """Return blocks whose rows say which methods were not applied."""
    return [replace(block, rows=tuple(_marked(block, methods))) for block in blocks]


def _marked(block: Block, methods: Collection[Method]) -> list[Row]:
    return [replace(row, not_applied=(block.backbone, block.setting, row.method) in methods) for row in block.rows]
