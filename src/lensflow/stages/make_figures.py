"""The figures of one backbone and setting (stage `make_figures`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file

from lensflow.artifacts import language_subspaces
from lensflow.measures import catalogue
from lensflow.presentation import figures, state_figures
from lensflow.presentation.inputs import blocks_of, settings_of
from lensflow.presentation.layers import by_layer
from lensflow.presentation.points import points_of, sweeps_of
from lensflow.storage.integrity import checked
from lensflow.storage.verified import read_jsonl


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
    """

    scores: Path
    comparisons: Path
    sweeps: Path
    subspaces: Path | None
    states: Mapping[str, Path]
    histories: Sequence[Path]


def write_figures(config: Mapping[str, Any], backbone: str, setting_name: str, inputs: Inputs, folder: Path) -> None:
    """Draw the figures of one backbone and setting into `folder`.

    They are `FIGURES`, sweep.{name} of each sweep, and states.{method}.seed{seed} of each training.
    """
    setting = settings_of(config)[setting_name]
    blocks = blocks_of(config, inputs.comparisons)
    block = next(b for b in blocks if (b.backbone, b.setting) == (backbone, setting_name))
    folder.mkdir(parents=True, exist_ok=True)
    if any(row.metric == "fidelity" for row in block.rows):
        figures.save(figures.fidelity(block), folder / "fidelity")
    scores = pd.read_csv(checked(inputs.scores))
    points = points_of(block, scores)
    axes = (
        f"negative log-likelihood in {block.central}, nats a token",
        f"fidelity, mean over {catalogue.TARGETS}" if len(block.targets) > 1 else f"fidelity in {block.targets[0]}",
    )
    if len(points) > 1:
        figures.save(figures.trade_off(points, axes, {}), folder / "front")
    for name, curves in sweeps_of(block, points, inputs.sweeps, scores):
        figures.save(figures.trade_off(points[:1], axes, curves), folder / f"sweep.{name}")
    histories: dict[str, list[figures.History]] = {}
    for path in inputs.histories:
        if path.is_file() and (rows := read_jsonl(path)):
            histories.setdefault(path.parts[-3], []).append(rows)
    if histories:
        figures.save(figures.training_curves(histories), folder / "training")
    if inputs.subspaces is None:
        return
    subspaces = language_subspaces.load(inputs.subspaces, setting)
    if inputs.states:
        for name, figure in by_layer(setting, subspaces, inputs.states):
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
        figures.save(drawn, folder / f"states.{path.parts[-3]}.{path.parts[-2]}")
