"""Whether a method was applied: the share of the way to its push target that is left, from `cost.json`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lensflow.artifacts.layout import Place
from lensflow.presentation.blocks import LEFT, NOT_APPLIED, Block, Row

Method = tuple[str, str, str]  # backbone, setting and method


def not_applied(costs: Mapping[Place, Mapping[str, Any]]) -> frozenset[Method]:
    """Return the methods that, in at least one training, left more than `LEFT` of the way to their push target."""
    return frozenset(place[:3] for place, cost in costs.items() if cost.get("residual", 0.0) > LEFT)


def marked(blocks: Sequence[Block], methods: Collection[Method]) -> list[Block]:
    """Return blocks whose rows say which methods were not applied."""
    return [replace(block, rows=tuple(_marked(block, methods))) for block in blocks]


def _marked(block: Block, methods: Collection[Method]) -> list[Row]:
    return [replace(row, not_applied=(block.backbone, block.setting, row.method) in methods) for row in block.rows]


def label_of(place: Place, methods: Collection[Method]) -> str:
    """Return the name of a training's method, with a sign if it was not applied."""
    return f"{place.method} {NOT_APPLIED}" if place[:3] in methods else place.method
