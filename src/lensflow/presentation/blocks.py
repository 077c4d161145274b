"""The blocks of a run's results for tables and figures: scores arranged by metric, method and language.

    blocks = main_table(cells, settings, methods)

A block is one backbone × setting.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lensflow.artifacts.layout import BASE, Place
from lensflow.errors import LensflowError
from lensflow.measures.catalogue import CELL, COLUMNS, COMPARED, METRICS, TARGETS, UNKNOWN_METRIC, Metric
from lensflow.presentation.decisions import Decision
from lensflow.schema.setting import Setting

if TYPE_CHECKING:  # the Snakefile reads the list of tables, and has no use for pandas
    import pandas as pd

MARKS = {"better": "+", "worse": "−", "differs": "≠"}
TOLD = "†"
LEFT = 0.3  # of the way to the push target, above which a method was not applied
NOT_APPLIED = "‡ not applied"
RETENTION = {"kept": "✓", "not shown": "?"}


@dataclass(frozen=True)
class Cell:
    """One score with its 95 % interval [low, high] (nan if there is none) over n items.

    `compared` maps the known columns of `COMPARED` to their values; it is empty for base.
    """

    value: float
    low: float
    high: float
    n: int
    compared: Mapping[str, Any]

    @property
    def marks(self) -> str:
        """The comparison of the cell with base, in the legend's signs."""
        return MARKS.get(self.compared.get("mark", ""), "") + RETENTION.get(self.compared.get("retention", ""), "")

    @property
    def difference(self) -> tuple[float, float, float]:
        """The difference and its interval: low, middle, high; nan if there is none, because one item has no
        interval."""
        low, middle, high = (self.compared.get(f"difference{end}", math.nan) for end in ("_low", "", "_high"))
        return float(low), float(middle), float(high)


@dataclass(frozen=True)
class Row:
    """The scores of one method on one metric; `cells` maps language (and "targets") to the scores."""

    benchmark: str
    metric: str
    method: str
    seeds: tuple[int, ...]
    cells: Mapping[str, Cell]
    told_language: bool = False
    not_applied: bool = False

    @property
    def spec(self) -> Metric:
        """The display of the metric; metrics of added benchmarks have no known direction or definition."""
        return METRICS.get(self.metric, UNKNOWN_METRIC)

    @property
    def name(self) -> str:
        """The metric's name, with its benchmark if this is not the metric's usual one."""
        return self.metric if self.benchmark == self.spec.benchmark else f"{self.metric} ({self.benchmark})"

    @property
    def is_compared(self) -> bool:
        """Whether a cell has a difference to base."""
        return any("difference" in cell.compared for cell in self.cells.values())

    @property
    def heading(self) -> str:
        """The metric's name and an arrow in the direction that is better."""
        return f"{self.name} {self.spec.better}".strip()

    @property
    def label(self) -> str:
        """The method with its marks, and with the number of seeds if there are several."""
        name = f"{self.method} ({len(self.seeds)} seeds)" if len(self.seeds) > 1 else self.method
        return f"{name}{self.signs}"

    @property
    def signs(self) -> str:
        """The signs for a method that is told the language or was not applied."""
        return (TOLD if self.told_language else "") + (f" {NOT_APPLIED}" if self.not_applied else "")


@dataclass(frozen=True)
class Block:
    """The table of one backbone × setting. Rows of the same metric are together, base first."""

    backbone: str
    setting: str
    central: str
    targets: tuple[str, ...]
    others: tuple[str, ...]  # evaluated, but neither kept nor made better
    rows: tuple[Row, ...]

    @property
    def columns(self) -> dict[str, str]:
        """Column key -> heading.

        With a single target, the mean over targets is left out, because it would be the same.
        """
        names = {self.central: f"{self.central} (central)"} | {target: target for target in self.targets}
        names |= {TARGETS: TARGETS} if len(self.targets) > 1 else {}
        return names | {other: f"{other} (other)" for other in self.others}

    @cached_property
    def ranks(self) -> dict[tuple[str, str, str], dict[str, int]]:
        """(benchmark, metric, column) -> the `rank` of its methods."""
        scores = dict.fromkeys((row.benchmark, row.metric) for row in self.rows)
        return {(*score, key): rank(self.rows, score, key) for score in scores for key in self.columns}

    def rank_of(self, row: Row, key: str) -> int:
        """1 if a cell is the best of its column, 2 if it is the second best, otherwise 0."""
        return self.ranks[row.benchmark, row.metric, key].get(row.method, 0)

    @property
    def caption(self) -> str:
        """One line that names the block."""
        return f"{self.backbone}, setting {self.setting} (central language {self.central})"


@dataclass(frozen=True)
class TableInputs:
    """The content from which the tables of a run are made.

    Attributes:
        blocks: every method against base, in the order of the tables.
        direct: (backbone, setting) -> every method against `reference`.
        reference: the method that all others are also compared with; None if there is none.
        methods: name -> its configuration.
        costs: place of a training -> its cost.json with `prepared_seconds`.
        decisions: the verdict on each claim.
        told_language: the methods that know the prompt's language at test time.
        reported: paper -> the numbers that it reports for these settings.
    """

    blocks: tuple[Block, ...]
    direct: Mapping[tuple[str, str], Block] = field(default_factory=dict)
    reference: str | None = None
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    costs: Mapping[Place, Mapping[str, Any]] = field(default_factory=dict)
    decisions: Sequence[Decision] = ()
    told_language: Sequence[str] = ()
    reported: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def rank(rows: Iterable[Row], score: tuple[str, str], key: str) -> dict[str, int]:
    """Method -> 1 for the best and 2 for the second best in one column of one metric, if intervals support the rank.

    Methods that are told the language are not ranked.

    Args:
        rows: the rows of a block.
        score: benchmark and metric. If the metric has no known direction, no method is the best.
        key: the column.
    """
    better = METRICS.get(score[1], UNKNOWN_METRIC).better
    sign = {"↑": 1, "↓": -1, "": 0}[better]
    mine = [row for row in rows if (row.benchmark, row.metric) == score and not row.told_language]
    cells = {row.method: row.cells[key] for row in mine if key in row.cells}
    ordered = sorted(cells, key=lambda method: -sign * cells[method].value) if sign else []

    def beats(first: str, second: str) -> bool:
        one, other = cells[first], cells[second]
        if BASE in (first, second):
            low, _, high = (one if second == BASE else other).difference
            limits = [sign * low, sign * high]
            return min(limits) > 0 if second == BASE else max(limits) < 0
        return one.low > other.high if sign > 0 else one.high < other.low

    found: dict[str, int] = {}
    for place, method in enumerate(ordered[:2], start=1):
        below = ordered[place:]
        if not below or not all(beats(method, other) for other in below):
            break
        found[method] = place
    return found


def main_table(
    cells: "pd.DataFrame", settings: Mapping[str, Setting], methods: Sequence[str], told_language: Sequence[str] = ()
) -> list[Block]:
    """Arrange the cells into one block for each backbone × setting.

    Args:
        cells: rows of comparisons.csv (the columns `COLUMNS` and `COMPARED`), with seeds as text.
        settings: setting name -> its languages; cells of other settings are not shown.
        methods: the order of the methods, without base; methods that are not listed come last.
        told_language: the methods that know the prompt's language at test time.

    Raises:
        LensflowError: a column is missing, a cell occurs twice, or no cell belongs to the settings.
    """
    if absent := [column for column in (*COLUMNS, *COMPARED) if column not in cells.columns]:
        raise LensflowError(f"comparisons: no column {absent[0]!r}; collect the scores again")
    if (twice := cells.duplicated(list(CELL))).any():
        name = "/".join(str(part) for part in cells.loc[twice, list(CELL)].iloc[0])
        raise LensflowError(f"comparisons: {name} occurs twice; collect the scores again")
    backbones = list(dict.fromkeys(cells["backbone"]))
    blocks = [
        _block(cells, backbone, name, settings[name], methods, told_language)
        for backbone in backbones
        for name in settings
    ]
    if not (blocks := [block for block in blocks if block.rows]):
        raise LensflowError(f"comparisons: no score for the settings {', '.join(settings) or '(none)'}; evaluate first")
    return blocks


def cell_of(row: Mapping[Hashable, Any]) -> Cell:
    """The cell that a row of comparisons.csv holds."""
    compared = {key: row[key] for key in COMPARED if _is_known(row[key])}
    return Cell(float(row["value"]), float(row["low"]), float(row["high"]), int(row["n"]), compared)


def _is_known(value: Any) -> bool:
    """Whether a field of a CSV file is not empty."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _block(
    frame: "pd.DataFrame", backbone: str, name: str, setting: Setting, methods: Sequence[str], told: Sequence[str]
) -> Block:
    targets = setting.targets
    chosen = frame[(frame["backbone"] == backbone) & (frame["setting"] == name)]
    others = [key for key in dict.fromkeys(chosen["language"]) if key not in (setting.central, *targets, TARGETS)]
    cells: dict[tuple[str, str], dict[str, dict[str, Cell]]] = {}
    seeds: dict[tuple[str, str, str], dict[int, None]] = {}
    for cell in chosen.to_dict("records"):
        of_metric = cells.setdefault((cell["benchmark"], cell["metric"]), {})
        of_metric.setdefault(cell["method"], {})[cell["language"]] = cell_of(cell)
        trained = seeds.setdefault((cell["benchmark"], cell["metric"], cell["method"]), {})
        trained |= dict.fromkeys(map(int, cell["seeds"].split()))
    order = list(dict.fromkeys([BASE, *methods, *chosen["method"]]))
    shown = sorted({method for of_metric in cells.values() for method in of_metric}, key=order.index)
    known = list(METRICS)
    # Stable: metrics of added benchmarks stay in their order of appearance, behind the known ones.
    scores = sorted(cells, key=lambda pair: known.index(pair[1]) if pair[1] in known else len(known))
    rows = [
        Row(*score, method, tuple(seeds.get((*score, method), ())), cells[score].get(method, {}), method in told)
        for score in scores
        for method in shown
        if cells[score].get(method) or not METRICS.get(score[1], UNKNOWN_METRIC).of_items
    ]
    return Block(backbone, name, setting.central, targets, tuple(others), tuple(rows))
