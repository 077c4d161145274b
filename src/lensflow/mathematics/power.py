"""What a paired test can show at all. The workflow reads the list of tables at every start, so this needs no scipy."""

import math
from statistics import NormalDist

LEVEL = 0.05  # of a two-sided test
POWER = 0.8  # chance that a test shows the smallest detectable difference
_z = NormalDist().inv_cdf


def detectable(half: float, items: int, planned: int) -> float:
    """Return the smallest true difference that `planned` items show with 80 % power, two-sided at 5 %.

    Args:
        half: half the width of the 95 % interval of the difference over `items` items.
        items: > 0.
        planned: > 0.
    """
    return half * (1 + _z(POWER) / _z(1 - LEVEL / 2)) * math.sqrt(items / planned)
