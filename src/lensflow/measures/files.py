"""Measure answers that any system wrote: one outcome per answer, and shares with intervals per language."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lensflow.artifacts.tables import read_rows
from lensflow.errors import LensflowError
from lensflow.mathematics.statistics import proportion_interval
from lensflow.measures.fidelity import check_detectable
from lensflow.measures.outcomes import Judgement, Outcome, judge
from lensflow.storage.atomic import write_jsonl

RATES = ("line_pass", "word_pass")


def measure(
    path: Path,
    *,
    language: str | None = None,
    language_column: str | None = None,
    prompt_column: str | None = None,
    answer_column: str = "answer",
    output: Path | None = None,
) -> str:
    """Measure the answers of a table (`artifacts.tables`) and return a table of shares per language.

    Args:
        path: one answer per row.
        language: language of all rows; or
        language_column: the column with the language of each row, a BCP 47 tag.
        prompt_column: the column of prompts; without prompts, copies are not found.
        answer_column: the column of answers.
        output: file for one JSON row per input row: `id`, `language`, and the fields of `Judgement`.

    Raises:
        LensflowError: the file cannot be read, a row lacks a column, a language is unknown, or the output is the file
            of answers or a folder.
    """
    if language is not None:
        check_detectable(language)
    if output is not None and (output.is_dir() or (output.exists() and output.samefile(path))):
        what = "is a folder" if output.is_dir() else "holds the answers, which would be lost"
        raise LensflowError(f"{output}: {what}; name another file for the output")
    rows = [(f"{path}, row {number}", row) for number, row in enumerate(read_rows(path), start=1)]
    if not rows:
        raise LensflowError(f"{path}: no rows; give a file with one answer per row")
    judged = []
    for where, row in rows:
        tag = _language(where, row, language_column or "language") if language is None else language
        prompt = _text(where, row, prompt_column) if prompt_column else None
        judged.append((tag, _judge(where, _text(where, row, answer_column), tag, prompt)))
    if output is not None:
        numbered = enumerate(zip(rows, judged, strict=True), start=1)
        write_jsonl(
            output,
            [
                {"id": row.get("id", number), "language": tag} | asdict(found)
                for number, ((_, row), (tag, found)) in numbered
            ],
        )
    return table(judged)


def table(judged: Sequence[tuple[str, Judgement]]) -> str:
    """A table of n, and of the share of each outcome and both pass rates with 95 % intervals, per language; in
    percent."""
    by_language: dict[str, list[Judgement]] = defaultdict(list)
    for language, found in judged:
        by_language[language].append(found)
    header = ["language", "n", *Outcome, *RATES]
    lines = [header] + [_line(language, found) for language, found in sorted(by_language.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _line(language: str, found: Sequence[Judgement]) -> list[str]:
    shares = [_share([one.outcome is outcome for one in found]) for outcome in Outcome]
    rates = [_share([value for one in found if (value := getattr(one, rate)) is not None]) for rate in RATES]
    return [language, str(len(found)), *shares, *rates]


def _share(values: Sequence[bool]) -> str:
    if not values:
        return "-"
    low, high = proportion_interval(sum(values), len(values))
    return f"{100 * sum(values) / len(values):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _judge(where: str, answer: str, language: str, prompt: str | None) -> Judgement:
    try:
        check_detectable(language)
    except LensflowError as error:
        raise LensflowError(f"{where}: {error}") from None
    return judge(answer, language, prompt)


def _language(where: str, row: Mapping[str, Any], column: str) -> str:
    tag = _text(where, row, column).strip()
    if not tag:
        raise LensflowError(f"{where}: column '{column}' is empty; write a language, such as 'sw'")
    return tag


def _text(where: str, row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        found = ", ".join(map(str, row)) or "none"
        raise LensflowError(f"{where}: no column '{column}'; it has {found}; correct the row or the column's name")
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise LensflowError(f"{where}: column '{column}' holds {type(value).__name__}, not text; correct the row")
    return value
