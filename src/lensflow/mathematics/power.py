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


def needed_changes(tests: int, alpha: float = 0.05) -> int:
    """How many questions must change, all for the better, so that the smallest p of a family can be significant.

    With k changed questions that all go the same way, the exact test has p = 2^(1 - k). Holm's smallest threshold is
    alpha / tests.
    """
    return math.ceil(1 + math.log2(tests / alpha) - 1e-9)


def needed_n(tests: int, alpha: float = 0.05, room: float = 1.0) -> int:
    """How many questions are enough for a mark if all that can change do change for the better.

    Args:
        tests: number of tests that Holm's correction is over.
        alpha: family-wise level.
        room: share of the questions that can change, > 0: those that base has wrong.
    """
    return math.ceil(needed_changes(tests, alpha) / room - 1e-9)
