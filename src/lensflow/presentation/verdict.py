"""The verdict of a run in sentences."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lensflow.artifacts.layout import Place
from lensflow.measures.catalogue import ABSENT, NOT_SHOWN, SHOWN
from lensflow.presentation.applied import not_applied
from lensflow.presentation.blocks import LEFT, NOT_APPLIED, TOLD
from lensflow.presentation.decisions import WORSE, Decision, read_decisions
from lensflow.presentation.inputs import costs_of

NAMED = 4  # most methods that a sentence names; others are counted
BEST = "Export the best checkpoint"
CHANCE = "Export the checkpoint that leads, although its gain can be chance"


@dataclass(frozen=True)
class Verdict:
    """The verdict of a run.

    Attributes:
        sentences: the most important first; at most five, with the export.
        export: the command that exports the best checkpoint; empty if no method is better than base, or if the run is a
            study.
        offer: the effect of this command, and whether the gain is shown.
        place: backbone and setting of the leading method, or of the first claim; None if there is no claim.
    """

    sentences: tuple[str, ...]
    export: str = ""
    offer: str = ""
    place: tuple[str, str] | None = None


def verdict_lines(config: Mapping[str, Any], results: Path) -> list[str]:
    """Return the verdict of a finished run in at most five lines.

    Args:
        config: content of the run's config.json (`Plan.presentation`, with the command and the results folder).
        results: the results folder, which holds claims.csv.

    Raises:
        LensflowError: claims.csv is missing.
    """
    costs = costs_of(sorted(results.glob("*/*/*/seed*/cost.json")))
    found = verdict_of(config, read_decisions(results / "claims.csv"), costs)
    return [*found.sentences, *([f"{found.offer}: {found.export}"] if found.export else [])]


def verdict_of(
    config: Mapping[str, Any], decisions: Sequence[Decision], costs: Mapping[Place, Mapping[str, Any]]
) -> Verdict:
    """Return the verdict of a run.

    Args:
        config: the result of `Plan.presentation`, with the results folder.
        decisions: the rows of claims.csv.
        costs: place of a training -> its cost.json.
    """
    unapplied, told = not_applied(costs), config.get("told_language", ())
    if any(decision.of_study for decision in decisions):
        claims = [list(rows) for _, rows in groupby(decisions, lambda decision: decision.claim)]
        sentences = [f"{n}. {_claim(rows, unapplied)}" for n, rows in enumerate(claims, start=1)]
        return Verdict(tuple(sentences), place=decisions[0].place[:2])
    several = len({(one.backbone, one.setting) for one in decisions}) > 1
    names = {one.place: _name(one, several, told) for one in decisions}
    applied = [one for one in decisions if one.place not in unapplied]
    helps = [one for one in applied if not one.keeps]
    if not decisions:
        return Verdict(
            ("Nothing to conclude: the run compares no usable answers. Add a benchmark of kind generation.",)
        )
    sentences = [_grouped("More usable answers than base", helps, names)] if helps else []
    keeps = [one for one in applied if one.keeps]
    lost = {one.place for one in keeps if one.word in (ABSENT, WORSE)}
    # A method that is told the language, or that loses the central language, leads only if all others do, too.
    best = max(helps, key=lambda one: (one.place not in lost, one.method not in told, one.difference), default=None)
    if best is not None:
        sentences.append(_lead(best, names, helps))
    if keeps:
        centrals = " and ".join(dict.fromkeys(config["settings"][one.setting]["central"] for one in keeps))
        sentences.append(
            _grouped(f"The central language ({centrals}) is kept within {keeps[0].margin:g}", keeps, names)
        )
    if rest := [*_applied(decisions, names, costs), *([_items(best)] if best and best.word == NOT_SHOWN else [])]:
        sentences.append(" ".join(rest))
    export = _export(best, config["results"]) if best is not None and best.difference > 0 else ""
    offer = BEST if best is not None and best.word == SHOWN else CHANCE
    return Verdict(tuple(sentences), export, offer, (best or decisions[0]).place[:2])


def _name(one: Decision, several: bool, told: Collection[str]) -> str:
    """A method's name, with its place if the run has several."""
    name = f"{one.method}{TOLD if one.method in told else ''}"
    return f"{name} ({one.backbone}, {one.setting})" if several else name


def _claim(rows: Sequence[Decision], unapplied: Collection[tuple[str, str, str]]) -> str:
    """A claim of a study, its verdict and the numbers behind it."""
    first = rows[0]
    estimates = "; ".join(f"{row.measure} {row.estimate}" for row in rows)
    says = first.says.rstrip(".")
    if first.place in unapplied:
        return f"{says}: {NOT_APPLIED}, so that the run says nothing about it."
    return f"{says}: {first.verdict} ({estimates})."


def _grouped(about: str, decisions: Iterable[Decision], names: Mapping[tuple[str, str, str], str]) -> str:
    """ "ABOUT: shown for a; not shown for b, c.", with the largest gain first."""
    of_word: dict[str, list[str]] = {SHOWN: [], NOT_SHOWN: [], ABSENT: [], WORSE: []}
    for one in sorted(decisions, key=lambda one: -one.difference):
        of_word[one.word].append(names[one.place])
    return f"{about}: {'; '.join(f'{word} for {_listed(of)}' for word, of in of_word.items() if of)}."


def _listed(names: Sequence[str]) -> str:
    if len(names) > NAMED + 1:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} others"
    return ", ".join(names)


def _lead(best: Decision, names: Mapping[tuple[str, str, str], str], helps: Sequence[Decision]) -> str:
    name, scores = names[best.place], f"{best.reference:.2f} to {best.value:.2f}"
    what = f"usable answers {scores}, difference {best.estimate}, {best.questions} items per language"
    compete = "compete (not told the language, central language not shown to be worse)"
    others_lead = any(one.difference > best.difference for one in helps)
    if best.difference <= 0:
        none = f"None of the methods that {compete}" if others_lead else "No method"
        who = f"{none} scores above base; {name} is the closest" if len(helps) > 1 else f"{name} is not above base"
    elif others_lead:
        who = f"{name} leads the methods that {compete}"
    else:
        who = f"{name} {'leads' if len(helps) > 1 else 'against base'}"
    return f"{who}: {what}."


def _applied(
    decisions: Iterable[Decision],
    names: Mapping[tuple[str, str, str], str],
    costs: Mapping[Place, Mapping[str, Any]],
) -> list[str]:
    """Sentences about the methods with a push target: which methods were applied, and how much of the way is left."""
    left: dict[str, float] = {}
    for one in decisions:
        residuals = [cost["residual"] for place, cost in costs.items() if place[:3] == one.place and "residual" in cost]
        if residuals:
            left[names[one.place]] = max(residuals)
    applied, missed = ([f"{name} ({x:.2f})" for name, x in left.items() if (x > LEFT) is far] for far in (False, True))
    sentences = [f"Applied, with what is left of the way to the push target: {_listed(applied)}."] if applied else []
    if missed:
        sentences.append(
            f"Nothing is concluded about {_listed(missed)}: not applied, because more than {LEFT:g} of the way to the "
            "push target is left; train longer."
        )
    return sentences


def _items(best: Decision) -> str:
    if not best.enough:
        return ""
    enough = f"about {best.enough} items per language show a difference of {best.margin:g} with 80 % power"
    if best.enough <= best.questions:
        return f"The run has enough items for the margin: {enough}."
    return f"More items are needed to decide: {enough}; the run has {best.questions}."


def _export(best: Decision, results: str) -> str:
    folder = Place(*best.place, int(best.seeds.split()[0])).folder
    backbone = f"{results}/{best.backbone}/backbone/manifest.json"
    return f"lensflow export --backbone {backbone} --delta {results}/{folder}/delta.safetensors my-model"
