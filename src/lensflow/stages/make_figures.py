"""The figures of one backbone and setting (stage `make_figures`)."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from safetensors.torch import load_file

from lensflow.artifacts import language_subspaces, layout
from lensflow.artifacts.layout import by_language
from lensflow.artifacts.states import load
from lensflow.mathematics import analysis
from lensflow.measures import catalogue
from lensflow.presentation import figures, state_figures, tables
from lensflow.presentation.applied import Method, not_applied
from lensflow.presentation.inputs import blocks_of, settings_of, trainings_of
from lensflow.schema.setting import Setting
from lensflow.schema.stages import Presenting
from lensflow.storage.integrity import checked
from lensflow.storage.verified import read_jsonl

Curves = Mapping[str, Sequence[tuple[str, figures.Point]]]  # as `figures.trade_off` takes them


@dataclass(frozen=True)
class Inputs:
    """The files that the figures of one backbone and setting are drawn from.

    Attributes:
        scores: scores.csv.
        comparisons: comparisons.csv.
        sweeps: sweeps.csv.
        subspaces: of the setting; None if no method of it needs them.
        states: for each language, what `extract_hidden_states` wrote of a parallel corpus.
        histories: history.jsonl of each training, dev_states.safetensors beside it; either may be empty or missing.
        costs: cost.json of each training, also of those that only sweeps ask for.
    """

    scores: Path
    comparisons: Path
    sweeps: Path
    subspaces: Path | None
    states: Mapping[str, Path]
    histories: Sequence[Path]
    costs: Sequence[Path]


def write_figures(config: Mapping[str, Any], backbone: str, setting_name: str, inputs: Inputs, folder: Path) -> None:
    """Draw the figures of one backbone and setting into `folder`.

    They are `FIGURES`, sweep.{name} of each sweep, and states.{method}.seed{seed} of each training.
    """
    setting = settings_of(config)[setting_name]
    blocks = blocks_of(config, inputs.comparisons, inputs.costs)
    unapplied = not_applied(trainings_of(inputs.costs))
    block = next(b for b in blocks if (b.backbone, b.setting) == (backbone, setting_name))
    folder.mkdir(parents=True, exist_ok=True)
    if any(row.metric == "fidelity" for row in block.rows):
        figures.save(figures.fidelity(block), folder / "fidelity")
    scores = pd.read_csv(checked(inputs.scores))
    points = _points(block, scores)
    axes = (
        f"negative log-likelihood in {block.central}, nats a token",
        f"fidelity, mean over {catalogue.TARGETS}" if len(block.targets) > 1 else f"fidelity in {block.targets[0]}",
    )
    if len(points) > 1:
        figures.save(figures.trade_off(points, axes, {}), folder / "front")
    for name, curves in _sweeps(block, points, inputs.sweeps, scores, unapplied):
        figures.save(figures.trade_off(points[:1], axes, curves), folder / f"sweep.{name}")
    histories: dict[str, list[figures.History]] = {}
    for path in inputs.histories:
        if path.is_file() and (rows := read_jsonl(path)):
            method = path.parts[-3]
            sign = f" {tables.NOT_APPLIED}" if (backbone, setting_name, method) in unapplied else ""
            histories.setdefault(f"{method}{sign}", []).append(rows)
    if histories:
        figures.save(figures.training_curves(histories), folder / "training")
    if inputs.subspaces is None:
        return
    subspaces = language_subspaces.load(inputs.subspaces, setting)
    if inputs.states:
        for name, figure in _by_layer(setting, subspaces, inputs.states):
            figures.save(figure, folder / name)
    for path in inputs.histories:
        file = path.with_name("dev_states.safetensors")
        if not (file.is_file() and file.stat().st_size and (states := load_file(checked(file)))):
            continue  # of a method that trains without hidden states
        before, after = (
            {key: states[f"{side}.{key}"].float().numpy() for key in setting.languages} for side in ("before", "after")
        )
        top = subspaces.agnostic[-1].numpy(), subspaces.specific[-1].numpy()
        drawn = state_figures.state_map(before, after, *top, [setting.central, *setting.targets])
        if (backbone, setting_name, path.parts[-3]) in unapplied:
            drawn.suptitle(f"Dev states at the top layer: {path.parts[-3]} {tables.NOT_APPLIED}", fontsize=10)
        figures.save(drawn, folder / f"states.{path.parts[-3]}.{path.parts[-2]}")


def _by_layer(
    setting: Setting, subspaces: language_subspaces.LanguageSubspaces, paths: Mapping[str, Path]
) -> Iterator[tuple[str, Figure]]:
    """The figures of all layers, from the states of all texts of a parallel corpus."""
    normed = setting.space == "post_norm"
    loaded = [load(paths[language]) for language in (setting.central, *setting.targets)]
    specific = subspaces.specific.double().numpy()
    shares, hits = [], []
    for layer, basis in enumerate(specific):
        top = normed and layer == len(specific) - 1
        states = np.stack([(one.post_norm if top else one.layers[layer]).double().numpy() for one in loaded])
        shares.append(analysis.variance_shares(states))
        hits.append([analysis.retrieval_hits(x, central=0) for x in (states, analysis.without(states, basis))])
    yield "separability", state_figures.separability_by_layer(np.stack(shares), normed)
    found = np.array(hits)  # (L, 2, K-1, N)
    means = np.array([[analysis.share_interval(kind) for kind in layer] for layer in found])
    of_language = dict(zip(setting.targets, found.mean(3).transpose(2, 1, 0), strict=True))
    chance = 1 / found.shape[-1]
    yield "retrieval", state_figures.retrieval_by_layer(means.transpose(1, 0, 2), of_language, chance, normed)
    values = analysis.spectrum(subspaces.means.numpy())
    yield "spectrum", state_figures.spectrum_by_layer(values, specific.shape[-1], normed)
    places = [setting.languages.index(language) for language in setting.targets]
    directions = subspaces.directions[:, places].double().numpy()
    between = analysis.cosines(directions, directions[-1])
    to_top = np.diagonal(between, axis1=1, axis2=2)
    yield "cosines", state_figures.direction_cosines(between[-1], to_top, setting.targets, normed)


def _points(block: tables.Block, scores: pd.DataFrame) -> list[figures.Point]:
    """The methods of a block by likelihood in the central language and fidelity; none where base lacks one of them."""

    def rows(metric: str) -> dict[str, tables.Row]:
        # Of the first benchmark that has it, as in the figure of fidelity.
        benchmark = next((row.benchmark for row in block.rows if row.metric == metric), None)
        return {row.method: row for row in block.rows if (row.benchmark, row.metric) == (benchmark, metric)}

    costs, gains = rows("nll"), rows("fidelity")
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


def _seeds(
    block: tables.Block, scores: pd.DataFrame, of_method: tuple[str, str], benchmarks: tuple[str, str]
) -> dict[int, tuple[float, float]]:
    """Likelihood in the central language and fidelity in the targets by seed.

    Args:
        block: whose languages they are.
        scores: scores.csv.
        of_method: setting and method.
        benchmarks: of the likelihood and of the fidelity.
    """

    def values(benchmark: str, metric: str, languages: Sequence[str]) -> pd.Series:
        keys = scores[["backbone", "setting", "method", "benchmark", "metric"]]
        same = (keys == (block.backbone, *of_method, benchmark, metric)).all(axis=1)
        return scores[same & scores["language"].isin(languages)].groupby("seed")["value"].mean()

    both = values(benchmarks[0], "nll", [block.central]), values(benchmarks[1], "fidelity", block.targets)
    alone = pd.concat(both, axis=1).dropna()
    return dict(zip(alone.index, alone.itertuples(index=False, name=None), strict=True))


def _sweeps(
    block: tables.Block,
    points: Sequence[figures.Point],
    path: Path,
    scores: pd.DataFrame,
    unapplied: Collection[Method],
) -> Iterator[tuple[str, Curves]]:
    """The sweeps that are about a block's setting: name, and a curve for each value of the second key.

    Their scores are of the benchmarks that the block's are, in the same languages.
    """
    frame = pd.read_csv(checked(path), dtype={"seeds": str, "at": str, "by": str})
    frame = frame[(frame["backbone"] == block.backbone) & (frame["of_setting"] == block.setting)]
    frame = frame[frame["method"] != layout.BASE].fillna({"by": ""})
    wanted = {"nll": block.central, "fidelity": _targets(block)}
    benchmarks = {row.metric: row.benchmark for row in reversed(block.rows)}
    for name, of_sweep in frame.groupby("sweep", sort=False):
        curves: dict[str, list[tuple[str, figures.Point]]] = {}
        for (at, by, setting, method), of_point in of_sweep.groupby(["at", "by", "setting", "method"], sort=False):
            cells = {
                row["metric"]: tables.cell_of(row)
                for row in of_point.to_dict("records")
                if row["language"] == wanted.get(row["metric"]) and row["benchmark"] == benchmarks.get(row["metric"])
            }
            if len(cells) == len(wanted):
                alone = _seeds(block, scores, (str(setting), str(method)), (benchmarks["nll"], benchmarks["fidelity"]))
                named = of_point["seeds"].iloc[0].split()
                seeds = [alone[int(seed)] for seed in named if int(seed) in alone] if len(named) > 1 else []
                sign = f" {tables.NOT_APPLIED}" if (block.backbone, setting, method) in unapplied else ""
                point = figures.Point(str(method), cells["nll"], cells["fidelity"], seeds)
                curves.setdefault(f"{name}, {by}" if by else str(name), []).append((f"{at}{sign}", point))
        if points and curves:
            yield str(name), curves


def _targets(block: tables.Block) -> str:
    """The column of the target languages: their mean, or the only one."""
    return catalogue.TARGETS if len(block.targets) > 1 else block.targets[0]


def run(
    config: Presenting,
    *,
    backbone: str,
    setting: str,
    scores: Path,
    comparisons: Path,
    sweeps: Path,
    subspaces: Path | None,
    states: Sequence[Path],
    runs: Sequence[Path],
    costs: Sequence[Path],
    output: Path,
) -> None:
    """Draw the figures of one backbone and setting."""
    inputs = Inputs(scores, comparisons, sweeps, subspaces, by_language(states), runs, costs)
    write_figures(config.canonical(), backbone, setting, inputs, output)
