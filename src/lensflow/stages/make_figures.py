"""The figures of one backbone and setting (stage `make_figures`)."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from lensflow.artifacts import language_subspaces
from lensflow.artifacts.language_subspaces import LanguageSubspaces
from lensflow.artifacts.layout import by_language, place_of
from lensflow.presentation import figures, state_figures
from lensflow.presentation.applied import Method, label_of, not_applied
from lensflow.presentation.blocks import Block
from lensflow.presentation.inputs import blocks_of, costs_of, settings_of
from lensflow.presentation.layers import by_layer
from lensflow.presentation.points import axes_of, points_of, sweeps_of
from lensflow.schema.setting import Setting
from lensflow.schema.stages import Presenting
from lensflow.storage.frames import input_table
from lensflow.storage.integrity import checked
from lensflow.storage.verified import read_jsonl


@dataclass(frozen=True)
class FigureFiles:
    """The files from which the figures of one backbone and setting are drawn.

    Attributes:
        scores: scores.csv.
        comparisons: comparisons.csv.
        sweeps: sweeps.csv.
        subspaces: the subspaces of the setting; None if none of its methods needs them.
        states: for each language, the output of `extract_hidden_states` for a parallel corpus.
        histories: history.jsonl of each training, with dev_states.safetensors beside it; either file may be empty or
            missing.
        costs: cost.json of each training, including trainings that only sweeps use.
    """

    scores: Path
    comparisons: Path
    sweeps: Path
    subspaces: Path | None
    states: Mapping[str, Path]
    histories: Sequence[Path]
    costs: Sequence[Path]


def write_figures(
    config: Mapping[str, Any], backbone: str, setting_name: str, files: FigureFiles, folder: Path
) -> None:
    """Draw the figures of one backbone and setting into `folder`.

    The figures are `FIGURES`, sweep.{name} for each sweep, and states.{method}.seed{seed} for each training.
    """
    setting = settings_of(config)[setting_name]
    costs = costs_of(files.costs)
    blocks, unapplied = blocks_of(config, files.comparisons, costs), not_applied(costs)
    block = next(b for b in blocks if (b.backbone, b.setting) == (backbone, setting_name))
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in chain(
        _of_scores(block, files, unapplied), _of_trainings(files, unapplied), _of_states(setting, files, unapplied)
    ):
        figures.save(figure, folder / name)


def _of_scores(block: Block, files: FigureFiles, unapplied: Collection[Method]) -> Iterator[tuple[str, Figure]]:
    if any(row.metric == "usable" for row in block.rows):
        yield "outcomes", figures.outcomes(block)
    if any(row.metric == "usable" and row.is_compared for row in block.rows):
        yield "effects", figures.effects(block)
    scores = input_table(files.scores)
    points = points_of(block, scores)
    if len(points) > 1:
        yield "front", figures.trade_off(points, axes_of(block), {})
    for name, curves in sweeps_of(block, points, files.sweeps, scores, unapplied):
        yield f"sweep.{name}", figures.trade_off(points[:1], axes_of(block), curves)


def _of_trainings(files: FigureFiles, unapplied: Collection[Method]) -> Iterator[tuple[str, Figure]]:
    histories: dict[str, list[figures.History]] = {}
    for path in files.histories:
        if path.is_file() and (rows := read_jsonl(path)):
            histories.setdefault(label_of(place_of(path), unapplied), []).append(rows)
    if histories:
        yield "training", figures.training_curves(histories)


def _of_states(setting: Setting, files: FigureFiles, unapplied: Collection[Method]) -> Iterator[tuple[str, Figure]]:
    if files.subspaces is None:
        return
    subspaces = language_subspaces.load(files.subspaces, setting)
    if files.states:
        yield from by_layer(setting, subspaces, files.states)
    for path in files.histories:
        file = path.with_name("dev_states.safetensors")
        if not (file.is_file() and file.stat().st_size and (states := load_file(checked(file)))):
            continue  # of a method that trains without hidden states
        place = place_of(path)
        figure = _state_map(setting, subspaces, states)
        if place[:3] in unapplied:
            figure.suptitle(f"Dev states at the top layer: {label_of(place, unapplied)}", fontsize=10)
        yield f"states.{place.method}.seed{place.seed}", figure


def _state_map(setting: Setting, subspaces: LanguageSubspaces, states: Mapping[str, torch.Tensor]) -> Figure:
    before, after = (
        {key: states[f"{side}.{key}"].float().numpy() for key in setting.languages} for side in ("before", "after")
    )
    top = subspaces.agnostic[-1].numpy(), subspaces.specific[-1].numpy()
    return state_figures.state_map(before, after, *top, [setting.central, *setting.targets])


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
    files = FigureFiles(scores, comparisons, sweeps, subspaces, by_language(states), runs, costs)
    write_figures(config.canonical(), backbone, setting, files, output)
