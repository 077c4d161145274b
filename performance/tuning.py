"""Choose hyperparameters by the rule of config/study/tune.yaml, and write a page with all trials.

python -m performance.tuning study/results docs/study/tuning.md
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lensflow.errors import LensflowError
from lensflow.storage.atomic import write_text
from lensflow.storage.parsing import read_yaml

CONFIG = Path("config/study/tune.yaml")
UNTRAINED = ("prompt", "diffmean", "logit_bias")  # the first one wins ties
USABLE, KL = ("generation-dev", "usable"), ("drift-dev", "kl")
MARGIN = 0.05  # of usable answers in English, and of KL in nats per token: as in config/study/protocol.yaml
BASE = "base"


@dataclass(frozen=True)
class Trial:
    """What one trial gave on dev.

    Attributes:
        name: of the method in the configuration.
        kind: of the method.
        usable: share of usable answers, mean over the target languages, with its 95 % interval.
        english: share of usable answers in English.
        kl: KL from base on English texts, nats per token.
        keeps_english: whether both are within the margins.
        is_applied: whether training reached its target, as every table says it (residual at most 0.3).
    """

    name: str
    kind: str
    usable: tuple[float, float, float]
    english: float
    kl: float
    keeps_english: bool
    is_applied: bool


def trials(table: pd.DataFrame, kinds: dict[str, str]) -> list[Trial]:
    """Return the trials in the order of the configuration.

    Args:
        table: main.csv of the run.
        kinds: method -> its kind.

    Raises:
        LensflowError: a trial has no score.
    """
    of = table.set_index(["method", "benchmark", "metric", "language"])
    if missing := [name for name in (BASE, *kinds) if (name, *USABLE, "targets") not in of.index]:
        raise LensflowError(f"main.csv: no scores of {missing[0]}; let the run finish")
    base_english = of.loc[(BASE, *USABLE, "en"), "value"]
    found = []
    for name, kind in kinds.items():
        usable = of.loc[(name, *USABLE, "targets")]
        english = float(of.loc[(name, *USABLE, "en"), "value"])
        kl = float(of.loc[(name, *KL, "en"), "value"])
        kept = base_english - english <= MARGIN and kl <= MARGIN
        interval = (usable["value"], usable["low"], usable["high"])
        found.append(Trial(name, kind, interval, english, kl, bool(kept), not usable["not_applied"]))
    return found


def chosen(found: list[Trial]) -> dict[str, Trial]:
    """Return kind -> its chosen trial, of the applied ones: most usable of those that keep English, else lowest KL."""
    by_kind: dict[str, Trial] = {}
    for kind in dict.fromkeys(trial.kind for trial in found):
        of_kind = [trial for trial in found if trial.kind == kind and trial.is_applied]
        keeping = [trial for trial in of_kind if trial.keeps_english]
        # min() and max() take the first of equal ones.
        by_kind[kind] = (
            max(keeping, key=lambda trial: (round(trial.usable[0], 9), -trial.kl))
            if keeping
            else min(of_kind, key=lambda trial: trial.kl)
        )
    return by_kind


def page(found: list[Trial], table: pd.DataFrame) -> str:
    """Return the page: every trial, and which one is chosen."""
    by_kind = chosen(found)
    untrained = max((by_kind[kind] for kind in UNTRAINED), key=lambda trial: trial.usable[0])
    base = table[(table.method == BASE) & (table.benchmark == USABLE[0]) & (table.metric == USABLE[1])]
    base = base.set_index("language")
    lines = [
        "# The choice of hyperparameters, on dev",
        "",
        "`python -m performance.tuning` writes this page from the run of `config/study/tune.yaml`. The page lists",
        "all trials on the dev split and the hyperparameters that the rule in that file chose.",
        f"n = {base.loc['en', 'n']} items per language. The interval belongs to the mean over the targets.",
        "",
        "| kind | trial | usable, targets [95 %] | usable, English | KL, English | keeps English | applied | chosen |",
        "|---|---|---:|---:|---:|---|---|---|",
        _line(
            "–", BASE, tuple(base.loc["targets", ["value", "low", "high"]]), base.loc["en", "value"], 0.0, "", "", ""
        ),
    ]
    for one in found:
        mark = "yes" if one is by_kind[one.kind] else ""
        kept, applied = ("yes" if holds else "no" for holds in (one.keeps_english, one.is_applied))
        lines.append(_line(one.kind, one.name, one.usable, one.english, one.kl, kept, applied, mark))
    names = ", ".join(f"`{trial.name}`" for trial in by_kind.values())
    lines += [
        "",
        f"Chosen: {names}. Of the kinds without training, `{untrained.name}` has the most usable answers.",
        "",
    ]
    return "\n".join(lines)


def _line(kind: str, name: str, usable: tuple[float, ...], english: float, kl: float, *marks: str) -> str:
    value, low, high = usable
    numbers = f"{value:.3f} [{low:.3f}, {high:.3f}] | {english:.3f} | {kl:.4f}"
    return f"| {kind} | {name} | {numbers} | {' | '.join(marks)} |"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the run's results")
    parser.add_argument("page", type=Path, help="the page to write")
    args = parser.parse_args()
    config = read_yaml(args.results / "config.json")["methods"]
    (run,) = read_yaml(CONFIG)["runs"]
    kinds = {name: config[name]["kind"] for name in run["methods"] if name != BASE}
    table = pd.read_csv(args.results / "tables" / "main.csv")
    write_text(args.page, page(trials(table, kinds), table))


if __name__ == "__main__":
    main()
