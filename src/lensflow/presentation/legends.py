"""The notes below tables."""

import math
from collections.abc import Collection, Iterable, Sequence

from lensflow.artifacts.layout import BASE
from lensflow.measures.catalogue import METRICS, SIGNIFICANT, TARGETS
from lensflow.presentation.blocks import LEFT, MARKS, NOT_APPLIED, RETENTION, TOLD, Block, Row
from lensflow.presentation.sheets import MISSING

NOT_APPLIED_NOTE = (
    f"{NOT_APPLIED}: after training, more than {LEFT:g} of the way to the push target is left (with several seeds: for "
    "at least one of them); such scores do not show what the method does"
)
TOLD_NOTE = f"{TOLD} is told the prompt's language at test time: not like-for-like, and so neither best nor second best"
INTERVAL_NOTE = (
    "95 % intervals over items: Wilson for shares, bootstrap for other metrics; for several seeds and for means over "
    "languages, shares have Wilson with the effective number of items, smoothed by half an item, and other metrics "
    "have Student's t over seeds and items; with one seed the interval does not cover other seeds"
)
BEST_NOTE = (
    "the best of all methods is bold and the second best is underlined, but only if its 95 % interval does not overlap "
    "the interval of any worse method (against base: only if the interval of the difference on the same items excludes "
    "0); this is conservative, because scores with overlapping intervals can still differ"
)
ARROWS_NOTE = f"↑ higher is better, ↓ lower is better; {MISSING} not measured"
TARGETS_NOTE = (
    "targets: unweighted mean over the target languages for which the metric is defined; n is the sum over these "
    "languages; the interval and the test count a question in all of its languages as one item"
)


def legend(blocks: Sequence[Block], metrics: Collection[str] = tuple(METRICS)) -> list[str]:
    """The lines below a table: n of each benchmark, intervals, mean over targets, marks, definitions of the metrics."""
    rows = [row for block in blocks for row in block.rows]
    lines = [f"n: items per language; {_sizes(rows)}", INTERVAL_NOTE]
    if any(TARGETS in block.columns for block in blocks):
        lines.append(TARGETS_NOTE)
    lines += marks_note(blocks)
    if any(block.rank_of(row, key) for block in blocks for row in block.rows for key in block.columns):
        lines.append(BEST_NOTE)
    lines += signs_notes(rows)
    lines.append(ARROWS_NOTE)
    return lines + [
        f"{name}: {METRICS[name].definition}"
        for name in METRICS
        if name in metrics and any(row.metric == name for row in rows)
    ]


def signs_notes(rows: Iterable[Row]) -> list[str]:
    """The meaning of the signs after the methods, for the signs that occur."""
    signs = "".join(row.signs for row in rows)
    return [note for sign, note in ((TOLD, TOLD_NOTE), (NOT_APPLIED, NOT_APPLIED_NOTE)) if sign in signs]


def marks_note(blocks: Sequence[Block], reference: str = BASE) -> list[str]:
    """How marks were decided; no line if nothing was tested."""
    rows = [row for block in blocks for row in block.rows]
    lines = _tests(blocks, reference) + _margins(rows)
    differences = ("difference", "difference_low", "difference_high")
    if any([cell.compared.get(key) for key in differences] == [0, 0, 0] for row in rows for cell in row.cells.values()):
        lines.append(
            f"a difference of 0 to {reference} with an interval of [0, 0] is 0 by construction: the method changes "
            "nothing there, as an instruction changes nothing in the likelihood of the prompt alone"
        )
    return lines


def _tests(blocks: Sequence[Block], reference: str) -> list[str]:
    rows = [row for block in blocks for row in block.rows]
    sizes = [sum("p" in cell.compared for row in block.rows for cell in row.cells.values()) for block in blocks]
    if not sum(sizes):
        return []
    signs = f"{MARKS['better']} better, {MARKS['worse']} worse than {reference} on the same items"
    if not all(row.spec.better for row in rows):
        signs += f", {MARKS['differs']} differs where neither direction is known to be better"
    lines = [
        f"{signs}: exploratory, two-sided p ≤ {SIGNIFICANT} after a step-down maxT correction (Westfall and Young) "
        f"within a family, and a 95 % interval of the difference without 0; a family is one metric of one benchmark, "
        f"all methods and languages against {reference} ({sum(sizes)} tests in {_families(blocks)} families); the test "
        "is a paired permutation of each question's mean over seeds, exact for shares of the same items (McNemar's "
        "test with one seed and language); with one seed a mark says nothing about other seeds"
    ]
    left_out = [cell.compared.get("left_out", 0) for row in rows for key, cell in row.cells.items() if key != TARGETS]
    if sum(left_out):
        lines.append(
            f"{sum(left_out):.0f} scores (one item in one metric and language) are left out of these comparisons: the "
            "other side, or one of the seeds, was not asked"
        )
    lines += [line for block in blocks if (line := _unmarkable(block))]
    return lines


def _families(blocks: Sequence[Block]) -> int:
    return sum(
        len({row.heading for row in block.rows if any("p" in cell.compared for cell in row.cells.values())})
        for block in blocks
    )


def _unmarkable(block: Block) -> str | None:
    """Lines for metrics in which no mark for better is possible with these questions, with the number that would be
    enough."""
    tested = [cell.compared for row in block.rows for cell in row.cells.values() if "needed" in cell.compared]
    sizes = [tuple(int(compared[key]) for key in ("room", "questions", "needed")) for compared in tested]
    if not (short := [size for size in sizes if size[0] < size[2]]):
        return None
    rooms, ns, needed = zip(*short, strict=True)
    # If all that can change do change for the better.
    enough = max((math.ceil(needs * n / room - 1e-9) for room, n, needs in short if room), default=0)
    would_do = f"; n = {enough} would do" if enough else ""
    if enough and 0 in rooms:
        would_do += ", but for what is at its best"
    return (
        f"no mark for better is possible with n = {_range(ns)} in {len(short)} of {len(tested)} tests: "
        f"{_range(needed)} questions must get better and none worse, and {_range(rooms)} can{would_do}"
    )


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _margins(rows: Sequence[Row]) -> list[str]:
    cells = [(row.metric, cell.compared) for row in rows for cell in row.cells.values()]
    margins = {metric: compared["margin"] for metric, compared in cells if "retention" in compared}
    if not margins:
        return []
    named = ", ".join(f"{metric} {margin:g}" for metric, margin in margins.items())
    return [
        f"{RETENTION['kept']} kept, {RETENTION['not shown']} not shown to be kept in the central language: test of "
        f"non-inferiority to base, one-sided at 2.5 %, each by itself; margins: {named}"
    ]


def _sizes(rows: Sequence[Row]) -> str:
    sizes: dict[str, set[int]] = {}
    for row in rows:
        sizes.setdefault(row.benchmark, set()).update(cell.n for key, cell in row.cells.items() if key != TARGETS)
    spans = {name: sorted({min(of), max(of)}) for name, of in sizes.items() if of}
    return ", ".join(f"{name} n = {'–'.join(map(str, span))}" for name, span in spans.items())


def brief_legend(blocks: Sequence[Block]) -> list[str]:
    """The legend in a few words: the marks and signs that occur, n of each benchmark."""
    rows = [row for block in blocks for row in block.rows]
    lines = [signs] if (signs := _signs(rows)) else []
    lines += signs_notes(rows)
    return [*lines, f"± half of the 95 % interval; {_sizes(rows)}"]


def _signs(rows: Sequence[Row]) -> str:
    """The meaning of the marks in the rows, in a few words."""
    said = {word: f"{word} than base" for word in ("better", "worse")}
    said |= {"differs": "differs from base", "not shown": "not shown to be kept"}
    marked = [row.cells[key].compared for row in rows for key in row.cells]
    return ", ".join(
        f"{sign} {said.get(word, word)}"
        for column, signs in (("mark", MARKS), ("retention", RETENTION))
        for word, sign in signs.items()
        if any(compared.get(column) == word for compared in marked)
    )
