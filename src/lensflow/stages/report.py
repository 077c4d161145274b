"""The self-contained report (stage `report`)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensflow.artifacts.layout import Place
from lensflow.errors import LensflowError
from lensflow.presentation.html_report import Page, Timing, build_report
from lensflow.presentation.inputs import TableFiles, command_for, read_inputs
from lensflow.presentation.report_sections import sections_of
from lensflow.presentation.verdict import verdict_of
from lensflow.provenance import trace
from lensflow.schema.stages import Presenting
from lensflow.storage import environment
from lensflow.storage.frames import input_table
from lensflow.storage.integrity import record_of

# Columns of scores.csv that name a checkpoint, and what else the report says of it.
PLACE, ABOUT = ("backbone", "setting", "method", "seed"), ("engine", "dtype", "weights")


@dataclass(frozen=True)
class ReportFiles:
    """The files from which the report is made.

    Attributes:
        tables: the files from which the tables are made.
        scores: scores.csv.
        figures: the folders that `write_figures` wrote, one {backbone}.{setting} each.
        timings: Markdown tables that the scripts in performance/ wrote.
        results: the folder with every checkpoint's samples.
    """

    tables: TableFiles
    scores: Path
    figures: Sequence[Path]
    timings: Sequence[Path]
    results: Path


def write_report(config: Mapping[str, Any], files: ReportFiles, output: Path) -> None:
    """Write the self-contained report.

    Args:
        config: the result of `Plan.presentation`, the command that runs the workflow, and the results folder.
        files: the files from which the report is made.
        output: the HTML file.
    """
    checkpoints = _checkpoints(files.scores)
    records = [_record(files.results, place) for place in checkpoints]
    of_checkpoints = zip(checkpoints.items(), records, strict=True)
    inputs = read_inputs(config, files.tables)
    found = verdict_of(config, inputs.decisions, inputs.costs)
    sections = sections_of(config, inputs, files.figures, files.results)
    places = [(block.backbone, block.setting) for block in inputs.blocks]
    leading = places.index(found.place) if found.place in places else 0
    page = Page(
        title=config["title"],
        verdict=found.sentences,
        export=found.export,
        offer=found.offer,
        picture=sections[leading]._replace(figures=(), tables=(), samples=()),
        overview=_overview(config, output.name, records),
        # What stands below the verdict is not shown again.
        sections=[
            section._replace(first=()) if place == leading else section for place, section in enumerate(sections)
        ],
        timings=[_timing(path) for path in files.timings],
        checkpoints=[place._asdict() | about | _evaluated(record) for (place, about), record in of_checkpoints],
        trees=_trees(files.results, checkpoints, records),
        versions=_versions(records),
        config=config,
    )
    build_report(page, output)


def _checkpoints(scores: Path) -> dict[Place, dict[str, Any]]:
    """Each checkpoint of scores.csv, with its values in the file."""
    rows = input_table(scores)[[*PLACE, *ABOUT]].drop_duplicates().to_dict("records")
    return {Place(*(row[key] for key in PLACE)): {key: row[key] for key in ABOUT} for row in rows}


def _record(results: Path, place: Place) -> Mapping[str, Any]:
    """The record of a checkpoint's evaluation; empty if there is none."""
    recorded = record_of(results / place.folder / "scores.json")
    return {} if recorded is None else recorded[1]


def _evaluated(record: Mapping[str, Any]) -> dict[str, str]:
    """The time of a checkpoint's evaluation, and its code."""
    if not record:
        return {}
    return {"evaluated": record["started"], "code": (record["code"]["commit"] or "no commit")[:12]}


def _trees(results: Path, places: Iterable[Place], records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The inputs of each recorded checkpoint's scores, by the checkpoint's name."""
    recorded = [place for place, record in zip(places, records, strict=True) if record]
    name = "{0.backbone}, {0.setting}, {0.method}, seed {0.seed}"
    return {name.format(place): _tree(results, place) for place in recorded}


def _tree(results: Path, place: Place) -> str:
    """The inputs of a checkpoint's scores, or the error if a file is gone that the report does not need."""
    try:
        return trace.tree(results / place.folder / "scores.json", results)
    except LensflowError as error:  # in the report no absolute path
        return str(error).replace(f"{results.absolute().parent}/", "")


def _overview(config: Mapping[str, Any], name: str, records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    machines = [record["machine"] for record in records if record] or [environment.machine()]
    method = "Lens (arXiv 2410.04407) on the top layers; see the README for what differs from the published code"
    return [
        ("Method", method),
        ("Backbones", "; ".join(f"{name} ({entry['license']})" for name, entry in config["backbones"].items())),
        ("Evaluation", ", ".join(f"{k} {'all' if v is None else v}" for k, v in config["evaluation"].items())),
        ("Machine", _joined(f"{m.get('gpu', m['cpu'])}, {m['cores']} cores, {m['platform']}" for m in machines)),
        ("Commit", environment.commit() or "not a git checkout"),
        ("Command", command_for(config, name)),
    ]


def _versions(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Package -> the versions with which the checkpoints were evaluated."""
    found = [record["versions"] for record in records if record] or [environment.versions()]
    return {name: _joined(v[name] for v in found if name in v) for v in found for name in v}


def _joined(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _timing(path: Path) -> Timing:
    """Read the table of a benchmark script: its heading, an empty line, then the table."""
    caption, _, *lines = path.read_text(encoding="utf-8").splitlines()
    columns, _, *rows = ([value.strip() for value in line.split("|")[1:-1]] for line in lines if line)
    return Timing(caption, columns, rows)


def run(
    config: Presenting,
    *,
    scores: Path,
    comparisons: Path,
    versus: Path,
    claims: Path,
    costs: Sequence[Path],
    figures: Sequence[Path],
    timings: Sequence[Path],
    results: Path,
    output: Path,
) -> None:
    """Write the self-contained report."""
    files = ReportFiles(TableFiles(comparisons, versus, claims, costs), scores, figures, timings, results)
    write_report(config.canonical(), files, output)
