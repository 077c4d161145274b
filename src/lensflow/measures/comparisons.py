"""Every cell of the tables with its interval, and its method's comparison with another method on the same items.

    cells = compare(runs, blocks, settings, margins)

One row is one backbone × setting × method × benchmark × metric × language, with all seeds of the method. The language
"targets" stands for the mean over the target languages. `runs` holds the cells of the scores.json files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensflow.artifacts.layout import BASE, NO_SETTING
from lensflow.errors import LensflowError
from lensflow.mathematics import statistics
from lensflow.mathematics.statistics import Floats, Sample
from lensflow.measures.catalogue import (
    COLUMNS,
    COMPARED,
    METRICS,
    SIGNIFICANT,
    TARGETS,
    UNKNOWN_METRIC,
)
from lensflow.schema.setting import Setting

Place = tuple[str, str, str, int]  # backbone, setting, method, seed
# Of all swaps within items, or of random ones.
EXACT, PERMUTATION = "exact permutation", "permutation"


@dataclass(frozen=True)
class Answers:
    """One metric of one cell of one checkpoint. `items` and `weights` use an axis that all cells of a benchmark share.

    Attributes:
        digest: digest of the cell; equal digests mean equal weights and tasks.
        score: n, value, low and high, as `evaluation.score` gives them.
        numerators: (N,).
        denominators: (N,), 0 for items that the cell lacks, or for which the metric is not defined.
        asked: (N,), the items of the cell. Which of them count is part of the method's result.
    """

    digest: str
    score: Mapping[str, Any]
    numerators: Floats
    denominators: Floats
    asked: NDArray[np.bool_]


Cells = Sequence[Mapping[str, Any]]  # benchmark, language, cell (digest), ids and scores each
Bools = NDArray[np.bool_]
Grid = Sequence[Sequence[Answers]]  # L languages × S seeds


@dataclass(frozen=True)
class Test:
    """A comparison that has no p-value yet: its row, and both sides."""

    row: dict[str, Any]
    base: Sample
    other: Sample


def compare(
    runs: Mapping[Place, Cells],
    blocks: Iterable[tuple[str, str]],
    settings: Mapping[str, Setting],
    margins: Mapping[str, float],
    reference: str = BASE,
) -> pd.DataFrame:
    """Compute the cells of each block's table.

    The comparisons are exploratory. A family of tests is one benchmark and one metric of a block: its methods ×
    languages, with the mean over the targets, against one reference. Its p-values are adjusted together (`_judge`). A
    metric with a margin also gets a test of equivalence, and in the central language a test of non-inferiority. Each of
    these tests stands by itself.

    Args:
        runs: place -> its cells, in the form of scores.json and judged.json. base has the setting "none" and is
            compared in every setting.
        blocks: (backbone, setting), one table each.
        settings: setting name -> its languages.
        margins: metric -> by how much it may get worse in the central language and still count as kept.
        reference: the method that all others are compared with. If both methods have several seeds, the seeds that both
            have count.

    Returns:
        The columns `tables.COLUMNS` and `tables.COMPARED`. The latter are empty for the reference, and if the reference
        lacks the
        score.

    Raises:
        LensflowError: a cell has two items with the same id.
    """
    rows = []
    for backbone, name in blocks:
        places = {
            place: cells
            for place, cells in runs.items()
            if place[0] == backbone and (place[1] == name or place[1:3] == (NO_SETTING, BASE))
        }
        of_block = _block(places, settings[name], margins, reference)
        rows += [{"backbone": backbone, "setting": name} | row for row in of_block]
    return pd.DataFrame(rows, columns=[*COLUMNS, *COMPARED])


def _block(
    places: Mapping[Place, Cells], setting: Setting, margins: Mapping[str, float], reference: str
) -> list[dict[str, Any]]:
    targets = setting.targets
    # Base is evaluated once for all settings; this one has the languages that its methods are evaluated in.
    evaluated = [cell["language"] for place, cells in places.items() if place[2] != BASE for cell in cells]
    languages = list(dict.fromkeys([setting.central, *targets, *evaluated]))
    scores = dict.fromkeys(
        (cell["benchmark"], score["metric"])
        for cells in places.values()
        for cell in cells
        for score in cell["scores"]
        if cell["language"] in languages
    )
    rows: list[dict[str, Any]] = []
    for benchmark, metric in scores:
        family: list[Test] = []
        answers, spec = _answers(places, benchmark, metric), METRICS.get(metric, UNKNOWN_METRIC)
        defined = [target for target in targets if any(target in of_method for of_method in answers.values())]
        groups = {language: [language] for language in languages}
        # With a single target the mean would only repeat it; over fewer languages than another row's it would not
        # compare with that.
        if len(targets) > 1 and defined:
            groups[TARGETS] = defined
        for method, of_method in answers.items():
            for language, members in groups.items():
                seeds = _seeds(of_method, members)
                if not seeds or (spec.of_items and method != reference):
                    continue
                place = {"method": method, "benchmark": benchmark, "metric": metric, "language": language}
                row = place | {"seeds": " ".join(map(str, seeds))} | _estimate(_grid(of_method, members, seeds))
                rows.append(row)
                its = answers.get(reference, {})
                seeds, theirs = _shared(seeds, _seeds(its, members))
                if method == reference or not theirs:
                    continue
                test = _compare(row, _grid(its, members, theirs), _grid(of_method, members, seeds))
                if test is not None and spec.tested:
                    family.append(test)
                if metric in margins and "difference" in row:
                    row |= _within(row, test, margins[metric], language == setting.central)
        _judge(family)
    return rows


def contrast(
    runs: Mapping[Place, Cells], score: tuple[str, str], methods: tuple[str, str], languages: Sequence[str]
) -> tuple[dict[str, Any], Test | None]:
    """Compare one method with another in one score, the mean over languages, on the same items.

    Args:
        runs: place -> its cells, for one backbone, and for one setting and base.
        score: benchmark and metric.
        methods: the method, and the method that it is compared with.
        languages: the languages; those in which neither method has the score are left out.

    Returns:
        The seeds of both sides and the comparison, as in `compare` but without p. Empty if one side lacks the
        score.
        The test; None if both sides have the same weights or nothing can be compared.
    """
    answers = _answers(runs, *score)
    ours, theirs = (answers.get(method, {}) for method in methods)
    if not (defined := [language for language in languages if language in ours or language in theirs]):
        return {}, None
    seeds, others = _shared(_seeds(ours, defined), _seeds(theirs, defined))
    if not (seeds and others):
        return {}, None
    row: dict[str, Any] = {"metric": score[1]}
    row |= {"seeds": " ".join(map(str, seeds)), "comparator_seeds": " ".join(map(str, others))}
    return row, _compare(row, _grid(theirs, defined, others), _grid(ours, defined, seeds))


def _shared(seeds: list[int], others: list[int]) -> tuple[list[int], list[int]]:
    """The seeds that count on both sides: if both methods have several seeds, the seeds that both have."""
    if len(seeds) > 1 and len(others) > 1:
        both = [seed for seed in others if seed in seeds]
        return both, both
    return seeds, others


def _within(row: Mapping[str, Any], test: Test | None, margin: float, is_central: bool) -> dict[str, Any]:
    """Whether a difference was shown to be absent, and for the central language that it did not get worse.

    If there is no test, both sides have the same weights.
    """
    limits = row["difference_low"], row["difference_high"]
    absent = {"margin": margin, "equivalence": "shown" if statistics.is_equivalent(*limits, margin) else "not shown"}
    if not is_central:
        return absent
    kept = test is None or statistics.is_kept(test.base, test.other, margin, _better(row["metric"]))
    return absent | {"retention": "kept" if kept else "not shown"}


def _better(metric: str) -> str:
    return METRICS.get(metric, UNKNOWN_METRIC).better


def _answers(places: Mapping[Place, Cells], benchmark: str, metric: str) -> dict[str, dict[str, dict[int, Answers]]]:
    """Method -> language -> seed -> its scores, on one axis of item ids; scores without items are left out."""
    cells = [(place, cell) for place, its in places.items() for cell in its if cell["benchmark"] == benchmark]
    axis = {key: index for index, key in enumerate(dict.fromkeys(chain(*(cell["ids"] for _, cell in cells))))}
    found: dict[str, dict[str, dict[int, Answers]]] = {}
    for (_, _, method, seed), cell in cells:
        score = next((score for score in cell["scores"] if score["metric"] == metric), None)
        if score is None or pd.isna(score["value"]):
            continue
        where = [axis[key] for key in cell["ids"]]
        if len(set(where)) < len(where):
            raise LensflowError(
                f"scores: {benchmark} has two items of one id in {cell['language']}; give its items ids of their own"
            )
        items = np.array(score["items"], dtype=float)  # None becomes nan
        weights = np.array(score.get("weights") or np.ones(len(items)), dtype=float)
        is_defined = ~np.isnan(items)
        numerators, denominators = np.zeros((2, len(axis)))
        numerators[where], denominators[where] = np.where(is_defined, [items, weights], 0)
        asked = np.zeros(len(axis), dtype=bool)
        asked[where] = True
        answers = Answers(cell["cell"], score, numerators, denominators, asked)
        found.setdefault(method, {}).setdefault(cell["language"], {})[seed] = answers
    return found


def _seeds(of_method: Mapping[str, Mapping[int, Answers]], languages: Sequence[str]) -> list[int]:
    """The seeds that have scores in all of these languages."""
    return sorted(set.intersection(*(set(of_method.get(language, {})) for language in languages)))


def _grid(of_method: Mapping[str, Mapping[int, Answers]], languages: Sequence[str], seeds: Sequence[int]) -> Grid:
    """The scores of these seeds in these languages."""
    return [[of_method[language][seed] for seed in seeds] for language in languages]


def _sample(grid: Grid, kept: Bools | None = None) -> Sample:
    """The items of L × S cells; with `kept`, (L, N), only the kept items."""
    numerators = np.array([[answers.numerators for answers in of_language] for of_language in grid])
    denominators = np.array([[answers.denominators for answers in of_language] for of_language in grid])
    if kept is not None:
        numerators, denominators = numerators * kept[:, None], denominators * kept[:, None]
    return Sample(numerators, denominators)


def _estimate(grid: Grid) -> dict[str, Any]:
    """n, value and interval; a single cell keeps the interval of its score."""
    if len(grid) == len(grid[0]) == 1:
        return {key: grid[0][0].score[key] for key in ("n", "value", "low", "high")}
    sample = _sample(grid)
    low, high = statistics.interval(sample)
    return {"n": int(sample.sizes.sum()), "value": sample.value, "low": low, "high": high}


def _asked(grid: Grid) -> Bools:
    """The items that all seeds were asked, (L, N)."""
    return np.array([np.logical_and.reduce([answers.asked for answers in of_language]) for of_language in grid])


def _compare(row: dict[str, Any], base: Grid, grid: Grid) -> Test | None:
    """Add to a row its difference to the reference (usually base), on the items that both were asked.

    Some items may count on one side only, if the metric is computed only on answers that passed another one. Such items
    stay in: a comparison of only the items that count on both sides would condition on the method's effect.

    Returns:
        The test; None if both sides have the same weights.
    """
    kept: Bools = _asked(grid) & _asked(base)
    before, after = _sample(base, kept), _sample(grid, kept)
    if not (before.counts.all() and after.counts.all()):
        return None
    counted = _counted(_sample(grid)) | _counted(_sample(base))
    row["base"], row["paired"] = before.value, int((counted & kept).sum())
    row["left_out"] = int(counted.sum()) - row["paired"]
    row["questions"], row["room"] = int(kept.any(0).sum()), _room(before, kept, _better(row["metric"]))
    row["difference"] = after.value - before.value
    if all(len({answers.digest for answers in (*ours, *theirs)}) == 1 for ours, theirs in zip(grid, base, strict=True)):
        row["difference_low"] = row["difference_high"] = row["difference"]
        return None
    row["difference_low"], row["difference_high"] = statistics.difference_interval(before, after)
    return Test(row, before, after)


def _counted(sample: Sample) -> Bools:
    """The items that count for at least one seed, (L, N)."""
    return np.asarray((sample.denominators > 0).any(1))


def _room(base: Sample, kept: Bools, better: str) -> int:
    """Number of questions whose score can become better; all questions if a score has no best value."""
    if not base.is_share:
        return int(kept.any(0).sum())
    is_open = kept & ~_counted(base)
    can_rise, can_fall = base.numerators < base.denominators, base.numerators > 0
    room = {
        direction: int((is_open | can_change.any(1)).any(0).sum())
        for direction, can_change in (("↑", can_rise), ("↓", can_fall))
    }
    return room.get(better, max(room.values()))


def _judge(family: Sequence[Test]) -> None:
    """Add to the rows of a family which test was used, its p, the p adjusted for the family, and the mark.

    The same rule holds for all methods, with one seed or with several. A mark needs a significant adjusted p and a 95 %
    interval of the difference that excludes 0. With several seeds, the interval covers other seeds. A mark of a method
    with one seed says nothing about other seeds. The adjusted p comes from `statistics.max_t`: a question changes sides
    in all methods and languages together. The unadjusted p is exact if possible (`statistics.exact_p`).
    """
    if not family:
        return
    sides = [np.array(statistics.null_deviations(test.base, test.other)) for test in family]
    tested = statistics.max_t(np.stack([other - base for base, other in sides], axis=1))
    for test, p, adjusted in zip(family, tested.p, tested.adjusted, strict=True):
        row, exact = test.row, statistics.exact_p(test.base, test.other)
        row["test"], row["p"] = (PERMUTATION, float(p)) if exact is None else (EXACT, exact)
        row["p_adjusted"], row["needed"] = float(max(adjusted, row["p"])), tested.needed
        if row["p_adjusted"] <= SIGNIFICANT and (row["difference_low"] > 0 or row["difference_high"] < 0):
            better = {"↑": 1, "↓": -1}.get(_better(row["metric"]), 0) * row["difference"]
            row["mark"] = "better" if better > 0 else "worse" if better < 0 else "differs"
