"""Measure the published completions of the Language Confusion Benchmark, and write two pages of the documentation.

    python performance/outcomes.py PUBLISHED

`PUBLISHED` is the folder `language-confusion` with `outputs/*.csv.gz` as the authors published them. Written are
docs/measures/calibration.md, how often loops are found where there are none and where there are some, and
docs/measures/language-confusion.md, line pass rates beside those that the authors report. It takes some minutes.
"""

import argparse
import csv
import gzip
import json
import math
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
from lensflow.presentation.blocks import Cell
from lensflow.presentation.reported_table import COLUMNS, NOTES, compared
from lensflow.presentation.sheets import Document, Line, Panel, Sheet
from lensflow.presentation.writers.markdown import to_markdown
from lensflow.schema.reported import Reported
from lensflow.storage.atomic import write_text
from lensflow.storage.parsing import read_yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "measures"
REPORTED = ROOT / "config" / "reported" / "language-confusion.yaml"
SAMPLE = 300  # completions of each model whose outcomes are shown

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """Read the completions of one model."""
    csv.field_size_limit(1 << 24)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def line_pass_rate(rows: Sequence[Row]) -> Cell:
    """Monolingual line pass rate, as the authors average it: over languages, of the mean over sources.

    Its interval combines the Wilson intervals of the sources (MOVER; Zou and Donner, Statistics in Medicine 27, 2008):
    the lower end is p − √Σ wᵢ² (pᵢ − lᵢ)², with wᵢ the weight, pᵢ the rate and lᵢ the lower end of source i.
    """
    verdicts: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["task"] == "monolingual":
            passed = line_passes(row["completion"], row["language"])
            if passed is not None:
                verdicts[row["language"]][row["source"]].append(passed)
    value = below = above = 0.0
    for sources in verdicts.values():
        weight = 1 / (len(verdicts) * len(sources))
        for found in sources.values():
            rate, (low, high) = _mean(found), proportion_interval(sum(found), len(found))
            value += weight * rate
            below += (weight * (rate - low)) ** 2
            above += (weight * (high - rate)) ** 2
    n = sum(len(found) for sources in verdicts.values() for found in sources.values())
    return Cell(value, value - math.sqrt(below), value + math.sqrt(above), n, {})


def comparison(models: dict[str, list[Row]]) -> Document:
    """Return the table of line pass rates beside the reported ones (config/reported/language-confusion.yaml)."""
    paper = Reported.model_validate(read_yaml(REPORTED)["reported"]["language-confusion"])
    (table,) = paper.tables
    lines = [
        Line((row.row,), compared(line_pass_rate(models[row.backbone]), (row.values or (None,))[0], table.scale, 1))
        for row in table.rows
    ]
    panel = Panel("", ("completions of",), COLUMNS, (tuple(lines),))
    caption = f"{table.table}, percent ({paper.source.title}, arXiv {paper.source.arxiv})"
    return Document((Sheet("", "", caption, (panel,), NOTES),))


def comparison_page(models: dict[str, list[Row]]) -> str:
    """Return the page on line pass rates."""
    return "\n".join(
        [
            "# Line pass rates against the Language Confusion Benchmark",
            "",
            "`python performance/outcomes.py PUBLISHED` writes this page. The page tests our line pass rates: it",
            "scores the completions that the benchmark's authors published with our function `line_passes`, and",
            "compares the rates with the reported ones. A rate is first averaged over sources and then over",
            "languages.",
            "",
            to_markdown(comparison(models)),
            "For several models together, the authors give a range. For some models, they give a number. We could",
            "not read the paper's table itself; `config/reported/language-confusion.yaml` names the source of",
            "each number.",
            "",
            "Two things differ from the authors' program: our fastText model is the compressed lid.176.ftz, and the",
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
            "`python performance/outcomes.py PUBLISHED` writes this page. The page tests how often the outcomes",
            "are wrong, on the published completions of the Language Confusion Benchmark and on the reference",
            "answers of the embedded corpus.",
            "",
            "## Loops",
            "At most 0.5 % of the answers of gpt-4-turbo and command-r-plus may be loops, and 1 % of the embedded",
            "references. Base models do loop. The two positive controls are therefore command-r-plus-base, and",
            "references that are repeated once.",
            "",
            *loops,
            "",
            "## Outcomes",
            f"Shares in percent of {SAMPLE} completions drawn at random per model, monolingual and cross-lingual.",
            "The prompts are not used here, so no copy is found.",
            "",
            *shares,
            "",
            "## Detector ceilings",
            "The table shows the share of the corpus's reference answers that the detector accepts as their language.",
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
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("published", type=Path, help="folder language-confusion, with outputs/*.csv.gz")
    parser.add_argument("--rates", action="store_true", help="write the page of line pass rates alone")
    args = parser.parse_args()
    paths = sorted((args.published / "outputs").glob("*.csv.gz"))
    models = {path.name.removesuffix(".csv.gz"): read(path) for path in paths}
    write_text(PAGES / "language-confusion.md", comparison_page(models))
    if not args.rates:
        write_text(PAGES / "calibration.md", calibration_page(models))


if __name__ == "__main__":
    main()
