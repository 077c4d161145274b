"""The smallest difference that each claim of a protocol can show, from dev data."""

from collections.abc import Sequence

from lensflow.mathematics.power import detectable
from lensflow.presentation.decisions import Decision
from lensflow.presentation.sheets import Document, Entry, Line, Panel, Sheet

NOTE = (
    "detectable: the smallest true difference that the test shows with 80 % power at a two-sided level of 5 %, from "
    "the width of the 95 % interval on the dev split; it assumes that test items vary as dev items do"
)
ENOUGH_NOTE = "items for the margin: items per language with which the margin itself is detectable"


def power(decisions: Sequence[Decision], items: int) -> Document:
    """Return the table of the smallest detectable differences.

    Args:
        decisions: verdicts on the claims on dev.
        items: number of test items per language.
    """
    lines = tuple(Line((f"{one.claim}: {one.measure}",), _entries(one, items)) for one in decisions)
    columns = ("dev items", f"detectable with {items} items", "margin", "items for the margin")
    panel = Panel("", ("claim and measure",), columns, (lines,))
    first = decisions[0]
    caption = f"Smallest detectable differences: {first.backbone}, setting {first.setting}"
    sheet = Sheet(first.backbone, first.setting, caption, (panel,), (NOTE, ENOUGH_NOTE))
    return Document((sheet,))


def _entries(one: Decision, items: int) -> tuple[Entry, ...]:
    half = (one.difference_high - one.difference_low) / 2
    smallest = detectable(half, one.questions, items)
    texts = (str(one.questions), f"{smallest:.3f}", f"{one.margin:g}", str(one.enough))
    return tuple(map(Entry, texts))
