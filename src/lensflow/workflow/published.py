"""Published tables: whether a run reproduces them, and which changes of configuration, code or packages changed them.

A folder of published tables has the CSV files of `TABLES` and `SOURCE`, which names their origin.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensflow.benchmarks.registry import modules_of
from lensflow.errors import LensflowError
from lensflow.measures.catalogue import CELL
from lensflow.methods.registry import method_modules
from lensflow.presentation import table_list
from lensflow.provenance.code import closure, code_digest, module_digest
from lensflow.provenance.records import without_places
from lensflow.storage import environment
from lensflow.storage.atomic import write_json, write_text
from lensflow.storage.digests import canonical_json, has_digest
from lensflow.storage.frames import read_table
from lensflow.storage.integrity import RECORD, read_record, record_of, unchanged
from lensflow.storage.parsing import parse_json
from lensflow.storage.verified import read_json
from lensflow.workflow.plan import Plan
from lensflow.workflow.stages import STAGES

# A file below the results folder -> the columns that name a row.
TABLES: Mapping[str, tuple[str, ...]] = {
    **{f"tables/{table.name}.csv": table.key for table in table_list.TABLES if table.key},
    "comparisons.csv": CELL,
}
INTERVALS = {"value": ("low", "high"), "difference": ("difference_low", "difference_high")}
EXACT = ("seeds", "n", "paired", "left_out")
CONDITIONAL = ("line_pass_rate", "word_pass_rate")  # metrics of those answers that are long enough, or have passed
SOURCE = "source.json"
MACHINE = ("cpu", "cpu_digest", "threads", "gpu")  # what numbers depend on of a machine


@dataclass(frozen=True)
class Difference:
    """A difference from the published tables: its place, its text, and whether another platform explains it."""

    where: str
    what: str
    allowed: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def compare(published: Path, results: Path, *, exact: bool = False) -> tuple[list[Difference], int]:
    """Compare the tables of a run with the published ones, cell by cell.

    On the same platform (`same_platform`), everything must be the same. Another platform rounds numbers differently.
    There, a value may lie anywhere inside the published 95 % interval of its cell, and a value without an interval may
    differ by 0.1 %. Counts must be the same, except for counts that depend on the answers, such as those of
    `line_pass_rate`. Interval ends, p-values and marks follow from items that the tables do not show. They must be the
    same if all values are the same.

    Args:
        published: folder of published tables.
        results: a results folder.
        exact: whether all values must be the same.

    Returns:
        The differences, and the number of values that were compared.

    Raises:
        LensflowError: a table is missing or not valid; the message names it.
    """
    values: list[Difference] = []
    others: list[Difference] = []
    compared = 0
    for name, keys in TABLES.items():
        table = Path(name).stem
        if (published / SOURCE).is_file() and not (published / Path(name).name).exists():
            others.append(Difference(table, "is not published; accept the tables"))
            continue
        columns, old = _read(published / Path(name).name, keys)
        new_columns, new = _read(results / name, keys)
        values += [Difference(table, f"column {column} is gone") for column in columns if column not in new_columns]
        values += [Difference(table, f"column {column} is new") for column in new_columns if column not in columns]
        values += [Difference(f"{table}: {' '.join(row)}", "is gone") for row in old if row not in new]
        values += [Difference(f"{table}: {' '.join(row)}", "is new") for row in new if row not in old]
        for row in (row for row in old if row in new):
            before, after = old[row], new[row]
            for column in (column for column in columns if column in new_columns):
                compared += column in INTERVALS and before[column] != ""
                if before[column] == after[column]:
                    continue
                where = f"{table}: {' '.join(row)}"
                moved = f"{column} {before[column] or 'none'} → {after[column] or 'none'}"
                if column in INTERVALS:
                    ends = [before.get(end, "") for end in INTERVALS[column]]
                    inside = _inside(after[column], *ends) if all(ends) else _rounded(before[column], after[column])
                    place = f"{'inside' if inside else 'outside'} [{', '.join(ends)}]" if all(ends) else "no interval"
                    excuse = ", but on the same platform" if inside and exact else ""
                    values.append(Difference(where, f"{moved}, {place}{excuse}", inside and not exact))
                elif column in EXACT:
                    conditional = any(metric in row for metric in CONDITIONAL)
                    values.append(Difference(where, moved, conditional and not exact))
                else:
                    others.append(Difference(where, f"{moved}, though no value changed"))
    return values or others, compared


def same_platform(published: Path, results: Path) -> bool:
    """Return whether a run's trainings and cells used the processor, threads, GPU and packages that the tables name."""
    if not (published / SOURCE).is_file():
        return False
    source = read_json(published / SOURCE)
    packages, machines = _made_with(results)
    return packages == [source["packages"]] and machines == source.get("machines")


def _made_with(results: Path) -> tuple[list[Any], list[Any]]:
    """Return the packages of a run's trainings and cells, and the properties of their machines that change numbers,
    once each."""
    made: list[tuple[Any, Any]] = []
    for path in sorted(results.rglob(f"*{RECORD}")):
        record = read_record(path)
        if record["stage"] == "train":
            made.append((record["versions"], record["machine"]))
        elif record["stage"] == "score":
            scores = path.parent / record["output"]
            cells = read_json(unchanged(scores))["cells"] if scores.is_file() else ()
            made += [(cell.get("made_with"), cell.get("made_on", {})) for cell in cells]  # older ones do not say it
    machines = [{key: machine.get(key) for key in MACHINE} for _, machine in made]
    return _distinct(packages for packages, _ in made), _distinct(machines)


def _distinct(values: Iterable[Any]) -> list[Any]:
    return [parse_json(text) for text in sorted({canonical_json(value) for value in values})]


def _read(path: Path, keys: tuple[str, ...]) -> tuple[list[str], dict[tuple[str, ...], dict[str, str]]]:
    """The columns of a table except `keys`, and its rows by `keys`, all as text."""
    frame = read_table(path, keys)
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for record in frame.to_dict("records"):
        row = tuple(str(record[key]) for key in keys)
        if row in rows:
            raise LensflowError(f"{path}: {' '.join(row)} occurs twice; make the table again")
        rows[row] = {str(column): str(value) for column, value in record.items() if column not in keys}
    return [column for column in frame.columns if column not in keys], rows


def _inside(value: str, low: str, high: str) -> bool:
    try:
        return float(low) <= float(value) <= float(high)
    except ValueError:  # a text
        return False


def _rounded(old: str, new: str) -> bool:
    """Return whether two numbers differ only by rounding. Numbers that are 0 up to rounding count as equal."""
    try:
        return math.isclose(float(old), float(new), rel_tol=1e-3, abs_tol=1e-9)
    except ValueError:  # a text
        return False


def accept(results: Path, published: Path, source: Mapping[str, Any]) -> list[str]:
    """Publish the tables of a run, with their origin.

    Args:
        results: a results folder.
        published: folder of published tables; it is created if it does not exist.
        source: the result of `source_of` for the run.

    Returns:
        The changes since the earlier published tables in configuration, code, packages and machines, one per line.

    Raises:
        LensflowError: a table is missing.
    """
    for name, keys in TABLES.items():
        _read(results / name, keys)
    path = published / SOURCE
    changes = list(_changes(read_json(path), source)) if path.is_file() else []
    for name in TABLES:
        write_text(published / Path(name).name, (results / name).read_text(encoding="utf-8"))
    write_json(path, dict(source))
    return changes


def source_of(plan: Plan, results: Path) -> dict[str, Any]:
    """The origin of a run's tables: configuration and code of every stage, packages, machines and commit.

    Args:
        plan: the plan of the current configuration.
        results: the run's results folder.

    Raises:
        LensflowError: the records show another configuration, code or packages than the current ones, or inputs that
            have changed since. We check the records of trainings, of evaluations (each cell, also a cached one) and of
            the collection of scores.
    """
    _check_made_here(plan, results)
    config: dict[str, Any] = {"collect_scores": plan.collect_scores()}
    for backbone in plan.backbones:
        config[f"prepare_backbone {backbone}"] = plan.prepare_backbone(backbone)
    for checkpoint in plan.checkpoints:
        config[f"score {checkpoint.folder}"] = plan.score(checkpoint)
        if plan.judged(checkpoint):
            config[f"judge {checkpoint.folder}"] = plan.judge(checkpoint)
        if not checkpoint.is_base:
            config[f"train {checkpoint.folder}"] = plan.train(checkpoint)
    for corpus, languages in plan.corpus_digests.items():
        config |= {f"pair_data {corpus}/{language}": plan.pair_data(corpus, language) for language in languages}
        config |= {
            f"extract_hidden_states {backbone}/{corpus}": plan.extract_hidden_states(backbone, corpus)
            for backbone in plan.backbones
        }
    for part in plan.parts():
        config[f"answer {part.backbone}/{part.number}"] = plan.answer(part)
    code = {stage.name: closure(stage.module) for stage in STAGES.values() if stage.numbers}
    code["train"] = sorted(
        {name for c in plan.trained() for name in method_modules(plan.config.methods[c.method].kind)}
    )
    kinds = [plan.config.benchmarks[name].kind for name in plan.benchmarks]
    for stage, engine in (("answer", plan.config.evaluation.engine), ("score", None)):
        code[stage] = closure(STAGES[stage].module, *modules_of(kinds, engine))
    return {
        "commit": environment.commit(),
        "config": config,
        "stages": code,
        "code": {name: module_digest(name) for name in sorted({name for names in code.values() for name in names})},
        "packages": environment.versions(),
        "machines": _made_with(results)[1],
    }


def _check_made_here(plan: Plan, results: Path) -> None:
    packages = environment.versions()
    made = [(results / "scores.csv", plan.collect_scores(), code_digest(STAGES["collect_scores"].module))]
    for checkpoint in plan.checkpoints:
        run = results / checkpoint.folder
        made.append((run / "scores.json", plan.score(checkpoint), plan.scoring_code(checkpoint)))
        if not checkpoint.is_base:
            made.append((run / "delta.safetensors", plan.train(checkpoint), plan.training_code(checkpoint.method)))
    for path, config, code in made:
        if (found := record_of(path)) is None:
            raise LensflowError(f"{path}: no record of it; run the workflow with this configuration first")
        record = found[1]
        if (
            canonical_json(record["config"]) != canonical_json(without_places(config))
            or record["code"]["digest"] != code
        ):
            raise LensflowError(f"{path}: was made with another configuration or code; run the workflow again")
        cells = read_json(unchanged(path))["cells"] if path.name == "scores.json" else []
        if any(made_with != packages for made_with in (record["versions"], *(cell["made_with"] for cell in cells))):
            raise LensflowError(
                f"{path}: was made with other packages; delete {results / 'cells'} and run the workflow again with "
                "--forceall"
            )
    for path in (results / "scores.csv", results / "tables" / "main.csv"):
        if (found := record_of(path)) is None:
            continue
        for name, sha256 in found[1]["inputs"].items():
            source = found[0].parent / name
            if not source.is_file() or not has_digest(source, sha256):
                raise LensflowError(f"{path}: {name} has changed since it was made; run the workflow again")


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """The differences between two origins, one change per line."""
    for stage in {**old["config"], **new["config"]}:
        before, after = old["config"].get(stage, {}), new["config"].get(stage, {})
        yield from (f"config of {stage}: {change}" for change in _keys(before, after, ""))
    for name in sorted({**old["code"], **new["code"]}):
        if old["code"].get(name) != new["code"].get(name):
            stages = [
                stage for stage in new["stages"] if name in {*new["stages"][stage], *old["stages"].get(stage, ())}
            ]
            yield f"code: module {name} ({', '.join(stages)})"
    yield from (f"package {change}" for change in _keys(old["packages"], new["packages"], ""))
    yield from (f"machine {change}" for change in _keys(old.get("machines"), new.get("machines"), ""))
    if old["commit"] != new["commit"]:
        yield f"commit {old['commit']} → {new['commit']}"


def _keys(old: Any, new: Any, key: str) -> Iterator[str]:
    """The keys whose values differ: `method.lr 1e-05 → 0.0001`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            yield from _keys(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _keys(*pair, f"{key}[{number}]")
    elif old != new:
        yield f"{key} {_short(old)} → {_short(new)}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
