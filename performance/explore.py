"""The study's exploratory questions: a figure and a sentence for each, from the results of config/study/explore.yaml.

    python -m performance.explore study/results docs/study/explore.md

The page and its figures (explore.*.svg) are made from what the stages have written; nothing is trained or answered.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.stats import spearmanr

from lensflow.artifacts import costs, language_subspaces, states
from lensflow.artifacts.layout import BASE
from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.measures.catalogue import SIGNIFICANT, TARGETS
from lensflow.presentation.figures import PALETTE, STYLE, new_figure, save, styles
from lensflow.schema.setting import Setting
from lensflow.storage.atomic import write_text
from lensflow.storage.integrity import checked
from lensflow.storage.verified import read_json

Floats = NDArray[np.float64]
LADDER = ("logit_bias", "steer", "diffmean", "recover")  # kinds of steering, from the logits alone to every block
HEADS = ("lm_head.weight", "embed_tokens.weight")  # the output layer's; tied ones have the second name only
CHUNK = 16384  # rows of the output layer at a time


@dataclass(frozen=True)
class Effect:
    """A method's difference to base in usable answers, with its 95 % interval."""

    method: str
    value: float
    difference: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """As sentences have it."""
        return f"{self.method} {self.difference:+.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Found:
    """The answer to a question: its heading, a sentence, and the figure that shows it."""

    name: str
    question: str
    finding: str
    figure: Figure


def bias_shares(changes: Floats, delta: Floats, gram: Floats) -> tuple[float, float]:
    """How much of the change of logits is a constant: along W_U δ, and along any direction.

    Both are R² without an intercept over all texts and tokens of the vocabulary: 1 if every text's logits change by the
    same multiple of W_U δ, or by the same vector.

    Args:
        changes: (N, d) of the states after the final norm.
        delta: (d,), δ.
        gram: (d, d), the product of the output layer's transpose with itself, its columns centred: a constant on all
            logits changes no probability.
    """
    total = float(np.einsum("nd,de,ne->", changes, gram, changes))
    mean = changes.mean(0)
    along = float(mean @ gram @ delta) ** 2 / float(delta @ gram @ delta)
    return len(changes) * along / total, len(changes) * float(mean @ gram @ mean) / total


def gram_of(checkpoint: Path) -> Floats:
    """Return the (d, d) matrix of `bias_shares` for a checkpoint's output layer.

    Raises:
        LensflowError: the checkpoint has no output layer of a known name.
    """
    files = WeightFiles(checkpoint)
    names = [name for end in HEADS for name in files.location if name.endswith(end)]
    if not names:
        raise LensflowError(f"{checkpoint}: no output layer ({' or '.join(HEADS)}); add its name to HEADS")
    head = files.read(names[0])
    mean, product = head.double().mean(0), torch.zeros(head.shape[1], head.shape[1], dtype=torch.float64)
    for rows in head.split(CHUNK):
        centred = (rows.double() - mean).float()
        product += (centred.T @ centred).double()
    return np.asarray(product.numpy())


def effects(rows: pd.DataFrame, language: str) -> dict[str, Effect]:
    """Method -> its difference to base in usable answers in a language, in the order of the rows."""
    mine = rows[(rows["metric"] == "usable") & (rows["language"] == language) & rows["difference"].notna()]
    columns = ["method", "value", "difference", "difference_low", "difference_high"]
    return {row[0]: Effect(*row) for row in mine[columns].itertuples(index=False, name=None)}


def bias(shares: Mapping[str, Mapping[str, tuple[float, float]]]) -> Found:
    """Is Lens more than a bias on the logits? `shares` are method -> language -> `bias_shares`."""
    languages = list(next(iter(shares.values())))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.2, 3.0)
        ax = figure.subplots()
        width = 0.8 / len(shares)
        for place, (method, colour, _) in enumerate(styles(shares)):
            x = np.arange(len(languages)) + (place - (len(shares) - 1) / 2) * width
            own, constant = np.array(list(shares[method].values())).T
            ax.bar(x, constant, width * 0.9, color="white", edgecolor=colour)
            ax.bar(x, own, width * 0.9, color=colour, label=method)
        ax.set_xticks(range(len(languages)), languages)
        ax.set_ylim(0, 1)
        ax.set_ylabel("R² of the change of logits")
        ax.set_title("Full: a constant along W_U δ. Outline: the best constant.", fontsize=10)
        figure.legend(loc="outside right upper")
    method, of_language = next(iter(shares.items()))
    own, constant = np.array(list(of_language.values())).T
    finding = (
        f"A constant along W_U δ explains {own.min():.0%} to {own.max():.0%} of how {method} changes the logits of dev "
        f"texts, and the best constant {constant.min():.0%} to {constant.max():.0%}: the rest depends on the text."
    )
    return Found("bias", "Is Lens more than a bias on the logits?", finding, figure)


def dose(points: Sequence[tuple[float, Effect]], base: float) -> Found:
    """How do answers depend on the displacement that is reached?

    Args:
        points: λ × (1 - residual), and the method's usable answers, for each λ of a sweep.
        base: share of base's usable answers.
    """
    ordered = sorted(points, key=lambda point: point[0])
    x = [0.0, *(place for place, _ in ordered)]
    y = np.array([base, *(effect.value for _, effect in ordered)])
    below = [0.0, *(effect.difference - effect.low for _, effect in ordered)]
    above = [0.0, *(effect.high - effect.difference for _, effect in ordered)]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(6.4, 3.4)
        ax = figure.subplots()
        ax.axhline(base, color="#888888", linewidth=0.8, linestyle=":")
        ax.errorbar(x, y, yerr=[below, above], color=PALETTE[0], marker="o", capsize=2, elinewidth=0.9)
        ax.set_xlabel("displacement reached: λ × (1 − residual), in lengths of the state")
        ax.set_ylabel("usable answers, mean over targets")
        ax.set_title("Bars: 95 % intervals of the difference to base", fontsize=10)
    place, best = max(ordered, key=lambda point: point[1].difference)
    last_place, last = ordered[-1]
    finding = (
        f"Usable answers are most frequent at a displacement of {place:.2f} ({best.value:.3f}; base {base:.3f}; "
        f"difference {best.difference:+.3f} [{best.low:.3f}, {best.high:.3f}]), and {last.value:.3f} at the largest, "
        f"{last_place:.2f}."
    )
    return Found("dose", "How do answers depend on the displacement that is reached?", finding, figure)


def ladder(targets: Sequence[Effect], central: Mapping[str, Effect]) -> Found:
    """Where does steering begin to hurt? The effects in the order of `LADDER`."""
    hurt = [effect for effect in targets if effect.high < 0]
    lost = [effect.method for effect in targets if effect.method in central and central[effect.method].high < 0]
    finding = (
        f"The first rung with fewer usable answers than base is {hurt[0].text}"
        if hurt
        else "No rung is shown to give fewer usable answers than base"
    )
    finding += f"; English is shown to suffer under {', '.join(lost)}." if lost else "; English suffers under none."
    return Found("ladder", "Where does steering begin to hurt?", finding, _forest(targets, central))


def frames(prompts: Sequence[Effect], lens: Effect, central: Mapping[str, Effect]) -> Found:
    """Does Lens do more than another frame around the question?"""
    best = max(prompts, key=lambda effect: effect.difference)
    if best.low > lens.high:
        verdict = "more than"
    elif best.high < lens.low:
        verdict = "less than"
    else:
        verdict = "not clearly more or less than"
    finding = f"The best prompt gives {verdict} Lens: {best.text} against {lens.text}."
    return Found("frames", "Frame or method?", finding, _forest([*prompts, lens], central))


def languages(gains: Mapping[str, Effect], features: Mapping[str, Mapping[str, float]], method: str) -> Found:
    """Which languages gain, and why?

    Args:
        gains: language -> effect of the method.
        features: name -> language -> value.
        method: the method.
    """
    names = list(gains)
    y = np.array([gains[name].difference for name in names])
    bars = np.abs([[gains[name].low, gains[name].high] for name in names] - y[:, None]).T
    ranks: dict[str, float] = {}
    explains: set[str] = set()
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.0 * len(features), 3.2)
        axes = figure.subplots(1, len(features), sharey=True, squeeze=False)[0]
        for ax, (feature, values) in zip(axes, features.items(), strict=True):
            x = np.array([values[name] for name in names])
            test = spearmanr(x, y)
            ranks[feature] = float(test.statistic)
            explains |= {feature} if test.pvalue <= SIGNIFICANT else set()
            ax.axhline(0, color="#888888", linewidth=0.8, linestyle=":")
            ax.errorbar(x, y, yerr=bars, linestyle="none", marker="o", color=PALETTE[0], capsize=2, elinewidth=0.9)
            for name, *place in zip(names, x, y, strict=True):
                ax.annotate(name, place, xytext=(4, 4), textcoords="offset points", fontsize=8)
            ax.set_xlabel(feature)
            ax.set_title(f"rank correlation {ranks[feature]:+.2f}", fontsize=9)
        axes[0].set_ylabel(f"usable answers: {method} − base")
    known = {feature: rank for feature, rank in ranks.items() if not math.isnan(rank)}
    gained = [name for name in names if gains[name].low > 0]
    lost = [name for name in names if gains[name].high < 0]
    said = f"gain in {', '.join(gained) or 'no language'}, loss in {', '.join(lost) or 'none'}"
    finding = f"{method}: {said} (95 % intervals)."
    if known:
        most = max(known, key=lambda feature: abs(known[feature]))
        size = f"rank correlation over {len(names)} languages {known[most]:+.2f}"
        found = f"The gain goes with {most} most" if explains else f"Nothing explains the gain; {most} is the closest"
        finding += f" {found} ({size})."
    return Found("languages", "Which languages gain, and why?", finding, figure)


def _forest(effects: Sequence[Effect], central: Mapping[str, Effect]) -> Figure:
    """Differences to base, one line per method, in the targets and in the central language."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.2, 1.0 + 0.35 * len(effects))
        axes = figure.subplots(1, 2, sharey=True)
        sides = {"targets (mean)": {effect.method: effect for effect in effects}, "English": central}
        for ax, (title, of_method) in zip(axes, sides.items(), strict=True):
            ax.axvline(0, color="#888888", linewidth=0.8, linestyle=":")
            ax.set_title(title, fontsize=9)
            ax.set_xlabel("usable answers: difference to base")
            for place, effect in enumerate(effects):
                if (one := of_method.get(effect.method)) is not None:
                    reach = [[one.difference - one.low], [one.high - one.difference]]
                    ax.errorbar(one.difference, place, xerr=reach, marker="o", color=PALETTE[0], capsize=2)
        axes[0].set_yticks(range(len(effects)), [effect.method for effect in effects])
        axes[0].set_ylim(len(effects) - 0.5, -0.5)
    return figure


@dataclass(frozen=True)
class Run:
    """The results of the study's only backbone and setting."""

    results: Path
    backbone: str
    name: str
    setting: Setting
    methods: Mapping[str, Mapping[str, Any]]
    rows: pd.DataFrame

    @property
    def folder(self) -> Path:
        """Of the setting."""
        return self.results / self.backbone / self.name

    def of_kind(self, *kinds: str) -> list[str]:
        """The methods of some kinds, in the order of the kinds."""
        return [name for kind in kinds for name, method in self.methods.items() if method["kind"] == kind]


def read(results: Path) -> Run:
    """Read what a run of the study has written.

    Raises:
        LensflowError: a file is missing, or the run has several backbones or settings.
    """
    config = read_json(results / "config.json")
    if len(config["blocks"]) != 1:
        raise LensflowError(f"{results}: {len(config['blocks'])} backbones and settings; the study has one")
    ((backbone, name),) = config["blocks"]
    setting = Setting.model_validate(config["settings"][name])
    rows = pd.read_csv(checked(results / "comparisons.csv"), dtype={"seeds": str})
    methods = {method: config["methods"][method] for method in config["order"]}
    return Run(results, backbone, name, setting, methods, rows)


def _shares(run: Run) -> dict[str, dict[str, tuple[float, float]]]:
    """Method -> language -> `bias_shares` of its first seed, over the dev texts."""
    if run.setting.space != "post_norm":
        raise LensflowError(f"setting {run.name}: its states are before the final norm; set space: post_norm")
    subspaces, gram = _subspaces(run), gram_of(run.results / run.backbone / "backbone")
    shares: dict[str, dict[str, tuple[float, float]]] = {}
    for method in run.of_kind("lens"):
        path = next(iter(sorted((run.folder / method).glob("seed*/dev_states.safetensors"))), None)
        if path is None or not (tensors := load_file(checked(path))):
            continue
        for language in run.setting.targets:
            before, after = (tensors[f"{side}.{language}"].double().numpy() for side in ("before", "after"))
            delta = subspaces.directions[-1, run.setting.languages.index(language)].double().numpy()
            shares.setdefault(method, {})[language] = bias_shares(after - before, delta, gram)
    return shares


def _subspaces(run: Run) -> language_subspaces.LanguageSubspaces:
    return language_subspaces.load(run.folder / "subspaces.safetensors", run.setting)


def _dose(run: Run, sweep: str = "lambda") -> tuple[list[tuple[float, Effect]], float]:
    """The points of `dose`, and base's share, from a sweep over λ."""
    frame = pd.read_csv(checked(run.results / "sweeps.csv"), dtype={"at": str})
    frame = frame[(frame["sweep"] == sweep) & (frame["of_setting"] == run.name)]
    points = []
    for (at, setting, method), rows in frame[frame["method"] != BASE].groupby(["at", "setting", "method"], sort=False):
        found = effects(rows, TARGETS)
        paths = (run.results / run.backbone / setting / method).glob("seed*/cost.json")
        left = [cost["residual"] for cost in map(costs.read, sorted(paths)) if cost.get("residual") is not None]
        if found and left:
            points.append((float(at) * (1 - float(np.mean(left))), found[method]))
    base = frame[(frame["method"] == BASE) & (frame["metric"] == "usable") & (frame["language"] == TARGETS)]["value"]
    return points, float(base.iloc[0]) if len(base) else math.nan


def _features(run: Run) -> dict[str, dict[str, float]]:
    """What may explain a language's gain: name -> language -> value."""
    subspaces, corpus = _subspaces(run), run.setting.training
    base = run.rows[(run.rows["method"] == BASE) & (run.rows["metric"] == "usable")].set_index("language")["value"]
    folder = run.results / run.backbone / "hidden_states" / corpus
    counts = {
        language: float(states.load(folder / f"{language}.safetensors").lengths.double().mean())
        for language in run.setting.languages
    }
    lengths = subspaces.directions[-1].double().norm(dim=-1) / subspaces.norms[-1].double()
    places = {language: run.setting.languages.index(language) for language in run.setting.targets}
    return {
        f"tokens per text, {run.setting.central} = 1": {
            language: counts[language] / counts[run.setting.central] for language in places
        },
        "usable answers of base": {language: float(base[language]) for language in places},
        "length of δ, in lengths of the state": {language: float(lengths[place]) for language, place in places.items()},
    }


def answers(run: Run) -> list[Found]:
    """Return the answers to all questions that the run has the methods for."""
    found = []
    targets, central = effects(run.rows, TARGETS), effects(run.rows, run.setting.central)
    if shares := _shares(run):
        found.append(bias(shares))
    points, base = _dose(run)
    if points:
        found.append(dose(points, base))
    if rungs := [targets[method] for method in run.of_kind(*LADDER) if method in targets]:
        found.append(ladder(rungs, central))
    lens = next((method for method in run.of_kind("lens") if method in targets), None)
    prompts = [targets[method] for method in run.of_kind("prompt") if method in targets]
    if lens and prompts:
        found.append(frames(prompts, targets[lens], central))
    if lens:
        gains = {language: effects(run.rows, language)[lens] for language in run.setting.targets}
        found.append(languages(gains, _features(run), lens))
    return found


def page(found: Sequence[Found]) -> str:
    """The page of the documentation."""
    lines = [
        "# Exploratory questions of the study",
        "",
        "`performance/explore.py` makes this page from the study's results. The page answers exploratory",
        "questions about Lens. `config/study/explore.yaml` adds runs for them; questions whose runs are missing",
        "are left out. No claim on this page was made before the test split was used, so test each finding again.",
        "Intervals are at 95 %, without a correction for the number of questions.",
    ]
    for one in found:
        lines += ["", f"## {one.question}", "", one.finding, "", f"![{one.question}](explore.{one.name}.svg)"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results folder of the study")
    parser.add_argument("output", type=Path, help="the page; its figures go beside it")
    arguments = parser.parse_args()
    found = answers(read(arguments.results))
    for one in found:
        save(one.figure, arguments.output.with_name(f"explore.{one.name}"))
    write_text(arguments.output, page(found))


if __name__ == "__main__":
    main()
