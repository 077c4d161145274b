"""The methods of a block and the points of sweeps, by likelihood in the central language and usable answers."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from lensflow.artifacts import layout
from lensflow.measures import catalogue
from lensflow.presentation import figures
from lensflow.presentation.applied import Method
from lensflow.presentation.blocks import NOT_APPLIED, Block, Row, cell_of
from lensflow.storage.frames import input_table

GAIN = "usable"  # the metric that a method is to raise
Curves = Mapping[str, Sequence[tuple[str, figures.Point]]]  # as `figures.trade_off` takes them


def points_of(block: Block, scores: pd.DataFrame) -> list[figures.Point]:
    """The methods of a block by likelihood in the central language and usable answers; empty if base lacks one of
    these."""

    def rows(metric: str) -> dict[str, Row]:
        # Of the first benchmark that has it, as in the figure of outcomes.
        benchmark = next((row.benchmark for row in block.rows if row.metric == metric), None)
        return {row.method: row for row in block.rows if (row.benchmark, row.metric) == (benchmark, metric)}

    costs, gains = rows("nll"), rows(GAIN)
    column = _targets(block)
    points = []
    for method in costs:
        cost, gain = (
            costs[method].cells.get(block.central),
            gains[method].cells.get(column) if method in gains else None,
        )
        if cost is None or gain is None:
            continue
        benchmarks = costs[method].benchmark, gains[method].benchmark
        alone = _seeds(block, scores, (block.setting, method), benchmarks)
        seeds = list(alone.values()) if len(alone) > 1 else []
        points.append(figures.Point(f"{method}{costs[method].signs}", cost, gain, seeds))
    return points if points and points[0].method == layout.BASE else []


def axes_of(block: Block) -> tuple[str, str]:
    """Return the names of the two axes."""
    likelihood = f"negative log-likelihood in {block.central}, nats per token"
    several = len(block.targets) > 1
    return likelihood, f"{GAIN}, mean over {catalogue.TARGETS}" if several else f"{GAIN} in {block.targets[0]}"


def _seeds(
    block: Block, scores: pd.DataFrame, of_method: tuple[str, str], benchmarks: tuple[str, str]
) -> dict[int, tuple[float, float]]:
    """Likelihood in the central language and usable answers in the targets by seed.

    Args:
        block: the block whose languages are used.
        scores: scores.csv.
        of_method: setting and method.
        benchmarks: the benchmarks of the likelihood and of the answers.
    """

    def values(benchmark: str, metric: str, languages: Sequence[str]) -> pd.Series:
        keys = scores[["backbone", "setting", "method", "benchmark", "metric"]]
        same = (keys == (block.backbone, *of_method, benchmark, metric)).all(axis=1)
        return scores[same & scores["language"].isin(languages)].groupby("seed")["value"].mean()

    both = values(benchmarks[0], "nll", [block.central]), values(benchmarks[1], GAIN, block.targets)
    alone = pd.concat(both, axis=1).dropna()
    return dict(zip(alone.index, alone.itertuples(index=False, name=None), strict=True))


def sweeps_of(
    block: Block,
    points: Sequence[figures.Point],
    path: Path,
    scores: pd.DataFrame,
    unapplied: Collection[Method],
) -> Iterator[tuple[str, Curves]]:
    """The sweeps for a block's setting: their names, and one curve per value of the second key.

    Their scores come from the same benchmarks and languages as the block's scores. `unapplied` methods are marked.
    """
    frame = input_table(path, ["seeds", "at", "by"])
    frame = frame[(frame["backbone"] == block.backbone) & (frame["of_setting"] == block.setting)]
    frame = frame[frame["method"] != layout.BASE].fillna({"by": ""})
    wanted = {"nll": block.central, GAIN: _targets(block)}
    benchmarks = {row.metric: row.benchmark for row in reversed(block.rows)}
    for name, of_sweep in frame.groupby("sweep", sort=False):
        curves: dict[str, list[tuple[str, figures.Point]]] = {}
        for (at, by, setting, method), of_point in of_sweep.groupby(["at", "by", "setting", "method"], sort=False):
            cells = {
                row["metric"]: cell_of(row)
                for row in of_point.to_dict("records")
                if row["language"] == wanted.get(row["metric"]) and row["benchmark"] == benchmarks.get(row["metric"])
            }
            if len(cells) == len(wanted):
                alone = _seeds(block, scores, (str(setting), str(method)), (benchmarks["nll"], benchmarks[GAIN]))
                named = of_point["seeds"].iloc[0].split()
                seeds = [alone[int(seed)] for seed in named if int(seed) in alone] if len(named) > 1 else []
                sign = f" {NOT_APPLIED}" if (block.backbone, setting, method) in unapplied else ""
                point = figures.Point(str(method), cells["nll"], cells[GAIN], seeds)
                curves.setdefault(f"{name}, {by}" if by else str(name), []).append((f"{at}{sign}", point))
        if points and curves:
            yield str(name), curves


def _targets(block: Block) -> str:
    """The column of the target languages: their mean, or the single target."""
    return catalogue.TARGETS if len(block.targets) > 1 else block.targets[0]
