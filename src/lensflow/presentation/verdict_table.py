"""The table of claims: what a run has shown."""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from itertools import chain

from lensflow.measures.catalogue import ABSENT, NOT_SHOWN, SHOWN
from lensflow.presentation.applied import not_applied
from lensflow.presentation.blocks import NOT_APPLIED, TOLD, TableInputs
from lensflow.presentation.decisions import Decision
from lensflow.presentation.legends import NOT_APPLIED_NOTE, TOLD_NOTE
from lensflow.presentation.sheets import MISSING, Document, Entry, Line, Panel, Sheet, bounds, document_of

STUDY_NOTE = (
    "the claims are tested in this order, each at a two-sided level of 5 % (non-inferiority: one-sided 2.5 %); a claim "
    "counts as shown only if all claims before it are shown"
)
DEFAULT_NOTE = (
    "more usable answers: two-sided p after Holm's correction over the methods; the central language is kept: "
    "one-sided test of non-inferiority at 2.5 %, each by itself"
)
VERDICT_NOTE = (
    f"{SHOWN}: the test and the 95 % interval support the claim; {ABSENT}: the 95 % interval excludes a gain as "
    "large as the margin (for a language that is to be kept: all of it is a loss larger than the margin); "
    f"{NOT_SHOWN}: neither, so that more items are needed"
)


def verdict(inputs: TableInputs) -> Document:
    """Return the claims of each block: estimate with interval, p and verdict. A claim without scores has no line."""
    unapplied = not_applied(inputs.costs)
    of_blocks = [
        [one for one in inputs.decisions if (one.backbone, one.setting) == (block.backbone, block.setting)]
        for block in inputs.blocks
    ]
    sheets = document_of(
        _sheet(decisions, f"Verdict: {block.caption}", unapplied, inputs.told_language)
        for block, decisions in zip(inputs.blocks, of_blocks, strict=True)
    )
    return replace(sheets, records=tuple(map(asdict, chain(*of_blocks))))


def _sheet(
    decisions: Sequence[Decision], caption: str, unapplied: Collection[tuple[str, str, str]], told: Collection[str]
) -> Sheet | None:
    if not decisions:
        return None
    of_claim: dict[str, list[Line]] = {}
    for one in decisions:
        signs = (TOLD if one.method in told else "") + (f" {NOT_APPLIED}" if one.place in unapplied else "")
        of_claim.setdefault(one.says, []).append(Line((one.says, f"{one.method}{signs}"), _entries(one)))
    columns = ("compared with", "measure", "difference", "margin", "p", "measure is", "claim is")
    panel = Panel("", ("claim", "method"), columns, tuple(map(tuple, of_claim.values())))
    note = STUDY_NOTE if decisions[0].of_study else DEFAULT_NOTE
    signs = "".join(line.heads[1] for line in panel.lines)
    notes = [text for sign, text in ((TOLD, TOLD_NOTE), (NOT_APPLIED, NOT_APPLIED_NOTE)) if sign in signs]
    return Sheet(decisions[0].backbone, decisions[0].setting, caption, (panel,), (VERDICT_NOTE, note, *notes))


def _entries(one: Decision) -> tuple[Entry, ...]:
    low, high = one.difference_low, one.difference_high
    estimate = Entry(f"{one.difference:+z.3f}", one.difference, low, high, note=bounds(low, high, 3), n=one.questions)
    p = Entry(MISSING if math.isnan(one.p_adjusted) else f"{one.p_adjusted:.2g}", one.p_adjusted)
    texts = map(Entry, (one.comparator, one.measure))
    return *texts, estimate, Entry(f"{one.margin:g}", one.margin), p, Entry(one.endpoint_verdict), Entry(one.verdict)
