"""The origin of a number, from the records of a results folder.

A folder that was moved or downloaded also works, because records name files relative to themselves.
"""

import functools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from lensflow.artifacts.layout import ANSWERS, BASE, JUDGED, NO_SETTING, SCORES
from lensflow.errors import LensflowError
from lensflow.measures.catalogue import BY_JUDGE, CELL, CENTRAL, TARGETS
from lensflow.provenance.results import inside
from lensflow.storage.digests import canonical_json, current_digest, has_digest
from lensflow.storage.frames import read_table
from lensflow.storage.integrity import Record, record_of, unchanged
from lensflow.storage.journal import spans
from lensflow.storage.verified import read_json, read_jsonl

# A table -> the file that its rows are taken from, and the columns that name a row of both.
TABLES = {
    "main.csv": ("comparisons.csv", CELL),
    "verdict.csv": ("claims.csv", (*CELL, "claim", "comparator")),
}
COLLECTED = ("scores.csv", "comparisons.csv", "versus.csv", "claims.csv", "sweeps.csv")
TRACED = (*COLLECTED, *(f"tables/{name}" for name in TABLES))
TEXTS, ITEMS = "data", "benchmarks"  # folders of {corpus} and of {benchmark}, {language}.jsonl in each
FEWSHOT = "fewshot"  # the split of items that are examples
Cells = Mapping[tuple[str, str], Mapping[str, Any]]  # of a scores.json: benchmark, language -> cell


def trace(place: str) -> str:
    """Trace a number to the data and the backbone.

    Args:
        place: `file:row:column`. The row is the line number in an editor (the header is 1), the column is a name or
            number.

    Returns:
        An indented tree with one line per file: name, digest, and the stage that wrote it.

    Raises:
        LensflowError: there is no such file, row or column, a record is missing, or the table is not the one that its
            stage wrote.
    """
    named, row, column = _parse(place)
    file = _whole(named)
    results = file.parent.parent if file.parent.name == "tables" else file.parent
    if file.relative_to(results).as_posix() not in TRACED:
        raise LensflowError(f"{named}: rows of {', '.join(TRACED)} can be traced")
    frame = read_table(named, CELL)
    if not 2 <= row <= len(frame) + 1:
        raise LensflowError(f"{named}: no row {row}; row 1 is the header, the others are 2 to {len(frame) + 1}")
    columns = list(frame.columns)
    name = columns[int(column) - 1] if column.isdecimal() and 1 <= int(column) <= len(columns) else column
    if name not in columns:
        raise LensflowError(f"{named}: no column '{column}'; it has {', '.join(columns)}")
    cell = {str(key): str(value) for key, value in frame.iloc[row - 2].items()}
    walk = _Walk(results)
    shown = " ".join(str(cell[key]) for key in CELL)
    walk.say(0, f"{name} = {cell[name] or 'empty'} ({shown})")
    with _of_a_run(results):
        walk.file(1, file, f"row {row}")
        depth = 2
        if file.name in TABLES:
            source, key = TABLES[file.name]
            found = _matching(read_table(results / source, key), {name: cell[name].removeprefix("'") for name in key})
            walk.file(depth, results / source, f"row {', '.join(str(number) for number, _ in found)}")
            depth += 1
        if file.name != "scores.csv":
            walk.file(depth, results / "scores.csv")
        walk.runs(depth, cell, [cell["seed"]] if file.name == "scores.csv" else cell["seeds"].split())
        if "comparator" in cell:  # both sides of a claim
            walk.runs(depth, cell | {"method": cell["comparator"]}, cell["comparator_seeds"].split())
    return "\n".join(walk.lines)


def _parse(place: str) -> tuple[Path, int, str]:
    file, _, rest = place.partition(".csv:")
    row, _, column = rest.partition(":")
    if not (row.isdecimal() and column):
        raise LensflowError(f"{place}: not FILE.csv:ROW:COLUMN, such as results/tables/main.csv:2:value")
    return Path(f"{file}.csv"), int(row), column


def _matching(frame: pd.DataFrame, wanted: Mapping[str, str]) -> list[tuple[int, dict[str, str]]]:
    """The rows that have these values, with their row numbers."""
    same = (frame[list(wanted)] == list(wanted.values())).all(axis=1)
    return [(int(index) + 2, frame.loc[index].to_dict()) for index in frame.index[same]]


def tree(scores: Path, results: Path) -> str:
    """Trace all scores of a checkpoint, as `trace` does for a number.

    Args:
        scores: its `scores.json`.
        results: the results folder that contains it.

    Raises:
        LensflowError: as in `trace`.
    """
    walk = _Walk(_whole(results))
    with _of_a_run(results):
        walk.checkpoint(0, _whole(scores), _cells(scores))
    return "\n".join(walk.lines)


@contextmanager
def _of_a_run(results: Path) -> Iterator[None]:
    """Turn errors in well-formed records and tables that no run wrote into messages."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise LensflowError(
            f"{results}: a record or table in it does not come from a run ({why}); see lensflow verify"
        ) from None


def _whole(path: Path) -> Path:
    """Return an absolute path without any `..`, in the form of `inside`; links are kept."""
    return Path(os.path.normpath(path.absolute()))


def _cells(scores: Path) -> Cells:
    """The cells of `scores.json` by benchmark and language; empty if the file is gone."""
    cells = read_json(unchanged(scores))["cells"] if scores.is_file() else ()
    return {(cell["benchmark"], cell["language"]): cell for cell in cells}


def _known(file: Path) -> tuple[Path, Record]:
    if (found := record_of(file)) is None:
        raise LensflowError(f"{file}: no record of it; run the stage that writes it again")
    return found


def _made_with_others(scores: Path, cell: Mapping[str, Any]) -> str:
    """Return the packages and processor of a cached cell, if they differ from the run's."""
    found = record_of(scores)
    now, here = (found[1]["versions"], found[1]["machine"]) if found else ({}, {})
    other = [f"{name} {version}" for name, version in cell.get("made_with", {}).items() if now.get(name) != version]
    there = cell.get("made_on", here)
    if any(there.get(key) != here.get(key) for key in ("cpu", "cpu_digest", "gpu")):
        other.append(f"on {there.get('gpu', there.get('cpu'))}")
    return f", made with {', '.join(other)}" if other else ""


def _items_of(record: Record, results: Path, cells: Cells) -> dict[Path, list[tuple[str, Collection[str]]]]:
    """Return the texts and items that an evaluation read for some of its cells: file -> splits, with ids."""
    found: dict[Path, list[tuple[str, Collection[str]]]] = {}
    for entry in record["config"].get("cells", ()):
        name, benchmark = entry["name"], entry["benchmark"]
        for language in entry["languages"]:
            if (name, language) in cells:
                folder, split, read = f"{ITEMS}/{name}", "items", [language]
                if "corpus" in benchmark:
                    folder, split = f"{TEXTS}/{benchmark['corpus']}", benchmark["split"]
                    others = (benchmark[key] for key in ("central", "source") if key in benchmark)
                    read = list(dict.fromkeys([language, *others]))
                cell = cells[name, language]
                ids = frozenset(cell.get("asked") or cell["ids"])
                for of_language in read:
                    found.setdefault(results / folder / f"{of_language}.jsonl", []).append((split, ids))
    return found


def _lines_of(file: Path, read: Iterable[tuple[str, Collection[str]]]) -> str:
    """Return which lines of a file of texts or items have these ids, by split, and from which lines examples are
    taken."""
    rows = _splits_and_ids(unchanged(file), current_digest(file))
    asked = {line for split, ids in read for line, row in enumerate(rows, start=1) if row[0] == split and row[1] in ids}
    shown = {line for line, (split, _) in enumerate(rows, start=1) if split == FEWSHOT}
    return f"lines {spans(asked)}" + (f", examples among lines {spans(shown)}" if shown else "")


@functools.lru_cache(maxsize=256)
def _splits_and_ids(file: Path, _: str) -> list[tuple[str, str]]:
    return [(row["split"], row["id"]) for row in read_jsonl(file)]


class _Walk:
    """Writes the tree; a file that was already shown is not shown again."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.lines: list[str] = []
        self._shown: set[Path] = set()

    def say(self, depth: int, text: str) -> None:
        self.lines.append("  " * depth + text)

    def runs(self, depth: int, cell: Mapping[str, str], seeds: Iterable[str]) -> None:
        """Show the scores of each seed and their inputs."""
        scores = self.results / "scores.csv"
        frame, members = read_table(scores, CELL), self._members(cell)
        for seed in seeds:
            setting = NO_SETTING if cell["method"] == BASE else cell["setting"]
            wanted = {key: cell[key] for key in ("backbone", "method", "benchmark", "metric")}
            found = _matching(frame, wanted | {"setting": setting, "seed": seed})
            rows = [(number, row) for number, row in found if row["language"] in members]
            run = self.results / cell["backbone"] / setting / cell["method"] / f"seed{seed}"
            cells = _cells(run / SCORES)
            asked = [(row["benchmark"], row["language"]) for _, row in rows]
            for place, (number, row) in zip(asked, rows, strict=True):
                interval = f"[{row['low']}, {row['high']}], n {row['n']}"
                self.say(depth + 1, f"{self.name(scores)}, row {number}: {row['language']} {row['value']} {interval}")
                answers = f"{'.'.join(place)}.jsonl"
                others = _made_with_others(run / SCORES, cells.get(place, {}))
                note = f"cell {row['cell'][:12]}{others}"
                self.file(depth + 2, run / "samples" / answers, note, inputs=False)
                if (run / "verdicts" / answers).is_file() and cell["metric"] in BY_JUDGE:
                    self.file(depth + 2, run / "verdicts" / answers, inputs=False)
            self.checkpoint(depth + 2, run / SCORES, {place: cells[place] for place in asked if place in cells})

    def checkpoint(self, depth: int, scores: Path, cells: Cells) -> None:
        """Show the inputs of some cells of a checkpoint, and the judge that rated their answers."""
        judged = scores.with_name(JUDGED)
        if judged.is_file():
            config = _known(judged)[1]["config"]
            judges = {
                entry["name"]: canonical_json(entry["benchmark"]["judge"])
                for entry in config["benchmarks"]
                if any((entry["name"], language) in cells for language in entry["languages"])
            }
            if judges:
                self.file(depth, judged, inputs=False)
            for name, judge in judges.items():
                self.say(depth + 1, f"judge of {name} {judge}")
        self.file(depth, scores, cells=cells)

    def _members(self, cell: Mapping[str, str]) -> list[str]:
        """The languages of a row; for a mean, all of its languages."""
        if cell["language"] not in (TARGETS, CENTRAL):
            return [cell["language"]]
        setting = read_json(self.results / "config.json")["settings"][cell["setting"]]
        if cell["language"] == CENTRAL:
            return [setting["central"]]
        return [language for language in setting["languages"] if language != setting["central"]]

    def name(self, file: Path) -> str:
        """Return the displayed path of a file: it starts at the folder that holds the results."""
        return Path(os.path.relpath(file, self.results.parent)).as_posix()

    def file(
        self, depth: int, file: Path, note: str = "", *, inputs: bool | None = None, cells: Cells | None = None,
        sha256: str | None = None,
    ) -> None:  # fmt: skip
        """Show a file, and below it the files that its stage read.

        Args:
            depth: indentation depth of the line.
            file: the file.
            note: text to add.
            inputs: whether to continue with the inputs of the file; by default yes, unless the file is a collection of
                others.
            cells: for answers and scores, the cells whose texts and items are shown; None for all.
            sha256: digest of the file when it was read.

        Raises:
            LensflowError: no record names the file.
        """
        is_foreign = not file.is_relative_to(self.results) or sha256 is not None
        if is_foreign and record_of(file) is None:
            origin = f"from outside of the workflow{', ' if note else ''}{note}"
            self.say(depth, f"{self.name(file)} {(sha256 or '')[:12]}, {origin}")
            return
        path, record = _known(file)
        now = record["outputs"][os.path.relpath(file, path.parent)]
        stale = ", since then written anew" if sha256 not in (None, now) else ""
        commit = record["code"]["commit"] or "no commit"
        made = f"{record['stage']}, {record['started']}, {commit[:12]}"
        text = f"{self.name(file)} {now[:12]} ({made}){stale}{', ' if note else ''}{note}"
        if file in self._shown:
            self.say(depth, f"{self.name(file)} {now[:12]}, {note}{', ' if note else ''}see above")
            return
        self._shown.add(file)
        self.say(depth, text)
        collected = record["stage"] in ("make_table", "collect_scores")
        if inputs is False or (inputs is None and collected):
            return
        if record["stage"] == "train":
            self.say(depth + 1, f"method {canonical_json(record['config']['method'])}, seed {record['seed']}")
        if record["stage"] == "prepare_backbone":
            self.say(depth + 1, f"source {canonical_json(record['config']['backbone']['source'])}")
        for source in record["sources"]:
            self.say(depth + 1, f"{source['name']} {source['sha256'][:12]}, from outside of the workflow")
        items, used = _items_of(record, self.results, cells or {}), record.get("lines", {})
        for name, digest in record["inputs"].items():
            below = inside(path, name)
            lines = f"lines {used[name]}" if name in used else ""
            if cells and any(below.is_relative_to(self.results / folder) for folder in (TEXTS, ITEMS)):
                if below not in items:
                    continue
                if below.is_file() and has_digest(below, digest):
                    lines = _lines_of(below, items[below])
            of_answers = cells if below.name == ANSWERS else None
            self.file(depth + 1, below, lines, sha256=digest, cells=of_answers)
