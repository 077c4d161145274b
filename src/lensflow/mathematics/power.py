"""The smallest difference that a paired test can show.

This module avoids scipy, because the workflow reads it at every start.
"""

import math
from statistics import NormalDist

LEVEL = 0.05  # of a two-sided test
POWER = 0.8  # chance that a test shows the smallest detectable difference
_z = NormalDist().inv_cdf


def detectable(half: float, items: int, planned: int) -> float:
    """Return the smallest true difference that a test with `planned` items shows with 80 % power, two-sided at 5 %.

    Args:
        half: half the width of the 95 % interval of the difference over `items` items.
        items: > 0.
        planned: > 0.
    """
    return half * (1 + _z(POWER) / _z(1 - LEVEL / 2)) * math.sqrt(items / planned)
