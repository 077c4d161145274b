"""Measure the published completions of the Language Confusion Benchmark, and write two pages of the documentation.

    python performance/outcomes.py PUBLISHED

`PUBLISHED` is the folder `language-confusion` with `outputs/*.csv.gz` as the authors published them. Written are
docs/measures/calibration.md, how often loops are found where there are none and where there are some, and
docs/measures/language-confusion.md, line pass rates against those that the authors report. It takes some minutes.
"""

import argparse
import csv
import gzip
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from lensflow.artifacts.texts import SPLITS
from lensflow.mathematics.statistics import proportion_interval
from lensflow.measures.confusion import line_passes
from lensflow.measures.fidelity import detector_ceiling
from lensflow.measures.loops import is_loop
from lensflow.measures.outcomes import Outcome, outcome
from lensflow.storage.atomic import write_text

PAGES = Path(__file__).resolve().parents[1] / "docs" / "measures"
SAMPLE = 300  # completions of each model whose outcomes are shown

# Monolingual line pass rate as the authors report it (arXiv 2406.20052v3), in percent: a figure, a range that the
# authors give for several models together, or None. The paper's table was not at hand. Single figures are quoted from
# notes of others on the paper; the ranges are the authors' "98.6 to 99.3" for Command and GPT models and "48.3 to 73.0"
# for Llama 2 and Mistral models, of whose upper end only Mixtral is left (Mistral Large: 69.9).
REPORTED: dict[str, tuple[float, float] | None] = {
    "command-r": (98.6, 99.3),
    "command-r-plus": (99.2, 99.2),
    "command-r-plus-base": None,
    "gpt-3.5-turbo": (98.6, 99.3),
    "gpt-4-turbo": (99.3, 99.3),
    "llama-2-instruct": (48.3, 48.3),
    "mistral-8x7b": (73.0, 73.0),
}

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """Read the completions of one model."""
    csv.field_size_limit(1 << 24)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def line_pass_rate(rows: Sequence[Row]) -> float:
    """Monolingual line pass rate in percent, as the authors average it: over languages, of the mean over sources."""
    verdicts: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["task"] == "monolingual":
            passed = line_passes(row["completion"], row["language"])
            if passed is not None:
                verdicts[row["language"]][row["source"]].append(passed)
    means = [_mean([_mean(found) for found in sources.values()]) for sources in verdicts.values()]
    return 100 * _mean(means)


def distance(rate: float, reported: tuple[float, float]) -> float:
    """How far a rate lies outside of what is reported, in points; 0 inside."""
    return max(reported[0] - rate, rate - reported[1], 0.0)


def comparison_page(models: dict[str, list[Row]]) -> str:
    """Return the page on line pass rates."""
    lines = ["| model | ours | reported by the authors | distance |", "|---|---:|---:|---:|"]
    for name, rows in models.items():
        rate, reported = line_pass_rate(rows), REPORTED[name]
        if reported is None:
            lines.append(f"| {name} | {rate:.1f} | null | null |")
            continue
        shown = f"{reported[0]:.1f}" if reported[0] == reported[1] else f"{reported[0]:.1f} to {reported[1]:.1f}"
        lines.append(f"| {name} | {rate:.1f} | {shown} | {distance(rate, reported):.1f} |")
    return "\n".join(
        [
            "# Line pass rates against the Language Confusion Benchmark",
            "",
            "`python performance/outcomes.py PUBLISHED` writes this page. It scores the completions that the",
            "benchmark's authors published (Marchisio et al. 2024, arXiv 2406.20052) with `line_passes`. The table",
            "shows the monolingual line pass rate in percent: the mean over languages of the mean over sources.",
            "",
            *lines,
            "",
            "The authors give a range for several models together, and figures for some models. We could not read",
            "the paper's table itself. The figures of command-r-plus, gpt-4-turbo and llama-2-instruct are quoted",
            "from notes of others on the paper. The figure of mistral-8x7b is the upper end of the range for Llama",
            "and Mistral models. The cell is a range where we know only the range, and null where we found no figure.",
            "The distance is in points, and 0 inside of a range.",
            "",
            "Two things differ from the authors' program. Our fastText model is the compressed lid.176.ftz, and the",
            "Japanese dictionary is unidic-lite.",
            "",
        ]
    )


def calibration_page(models: dict[str, list[Row]]) -> str:
    """Return the page on loops and outcomes."""
    loops = ["| completions of | loops | n | share in percent [95 %] |", "|---|---:|---:|---:|"]
    shares = [f"| completions of | {' | '.join(Outcome)} |", "|---|" + "---:|" * len(Outcome)]
    for name, rows in models.items():
        loops.append(_count(name, [row["completion"] for row in rows]))
        drawn = random.Random(0).sample(rows, SAMPLE)
        found = Counter(outcome(row["completion"], row["language"]) for row in drawn)
        shares.append(f"| {name} | " + " | ".join(f"{100 * found[one] / SAMPLE:.1f}" for one in Outcome) + " |")
    references = _references()
    loops.append(_count("embedded references", [text for texts in references.values() for text in texts]))
    doubled = [f"{text} {text}" for texts in references.values() for text in texts]
    loops.append(_count("embedded references, each said twice", doubled))
    ceilings = ["| language | detector ceiling | n |", "|---|---:|---:|"]
    for language, texts in references.items():
        ceilings.append(f"| {language} | {detector_ceiling(texts, language):.3f} | {len(texts)} |")
    return "\n".join(
        [
            "# Calibration of the outcomes",
            "",
            "`python performance/outcomes.py PUBLISHED` writes this page from the published completions of the",
            "Language Confusion Benchmark and from the reference answers of the embedded corpus.",
            "",
            "## Loops",
            "At most 0.5 % of the answers of gpt-4-turbo and command-r-plus may be loops, and 1 % of the embedded",
            "references. Base models do loop: command-r-plus-base is the positive control, with references said twice.",
            "",
            *loops,
            "",
            "## Outcomes",
            f"Shares in percent of {SAMPLE} completions drawn at random per model, monolingual and cross-lingual.",
            "Prompts are not given, so that no copy is found here.",
            "",
            *shares,
            "",
            "## Detector ceilings",
            "Share of the corpus's reference answers that the detector accepts as their language.",
            "",
            *ceilings,
            "",
        ]
    )


def _count(name: str, texts: Sequence[str]) -> str:
    loops, n = sum(map(is_loop, texts)), len(texts)
    low, high = (100 * end for end in proportion_interval(loops, n))
    return f"| {name} | {loops} | {n} | {100 * loops / n:.2f} [{low:.2f}, {high:.2f}] |"


def _references() -> dict[str, list[str]]:
    """The answers of the embedded corpus, which a language model wrote and checked; language -> texts."""
    answers: dict[str, list[str]] = defaultdict(list)
    for split in SPLITS:
        text = (files("lensflow.data") / "corpus" / f"{split}.jsonl").read_text(encoding="utf-8")
        for line in text.splitlines():
            for language, answer in json.loads(line)["answer"].items():
                answers[language].append(answer)
    return answers


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Write both pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("published", type=Path, help="folder language-confusion, with outputs/*.csv.gz")
    folder = parser.parse_args().published / "outputs"
    models = {path.name.removesuffix(".csv.gz"): read(path) for path in sorted(folder.glob("*.csv.gz"))}
    write_text(PAGES / "language-confusion.md", comparison_page(models))
    write_text(PAGES / "calibration.md", calibration_page(models))


if __name__ == "__main__":
    main()
