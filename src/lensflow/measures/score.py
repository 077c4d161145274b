"""The mean of a cell's items with its interval."""

import math
from collections.abc import Sequence
from typing import Any

from lensflow.mathematics import statistics


def score(metric: str, items: Sequence[float | None], weights: Sequence[float] | None = None) -> dict[str, Any]:
    """Compute the mean of a cell's items.

    Args:
        metric: name of the metric.
        items: the score of every item of the cell, in order; None if the metric is not defined for an item.
        weights: the weights that divide the sum of the items, such as tokens; by default 1 per item.

    Returns:
        The mean with its 95 % interval over the n items that have a score (Wilson if all are 0 or 1, else BCa
        bootstrap; null if there is none), and `items` and `weights` themselves, for tests on the same items.
    """
    kept = [index for index, item in enumerate(items) if item is not None]
    values = [float(items[index] or 0) for index in kept]
    counts = [1.0] * len(kept) if weights is None else [float(weights[index]) for index in kept]
    n, total = len(kept), math.fsum(counts)
    if not total:
        value = low = high = None
    else:
        value = math.fsum(values) / total
        if weights is None and set(values) <= {0.0, 1.0}:
            low, high = statistics.proportion_interval(int(sum(values)), n)
        else:
            low, high = statistics.ratio_interval(values, counts)
    result = {"metric": metric, "n": n, "value": value, "low": low, "high": high, "items": list(items)}
    return result if weights is None else result | {"weights": list(weights)}
