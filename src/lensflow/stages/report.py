"""The self-contained report (stage `report`)."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lensflow.artifacts import layout
from lensflow.errors import LensflowError
from lensflow.presentation import html_report, tables
from lensflow.presentation.inputs import blocks_of, command_for, sheets_of
from lensflow.presentation.names import FIGURES, STATES, SWEEP, TABLES
from lensflow.presentation.sheets import to_html
from lensflow.provenance import trace
from lensflow.schema.stages import Presenting
from lensflow.storage import environment
from lensflow.storage.integrity import checked, record_of
from lensflow.storage.verified import read_jsonl


def _figures(config: Mapping[str, Any], folder: Path) -> list[html_report.Figure]:
    """The figures of a backbone and setting that there are, in order: `FIGURES`, sweeps, states."""
    captions = {folder / f"{name}.svg": caption for name, caption in FIGURES.items()}
    for path in sorted(folder.glob("sweep.*.svg")):
        captions[path] = f"{SWEEP}{path.stem.removeprefix('sweep.')}"
    for path in sorted(folder.glob("states.*.svg")):
        method, _, seed = path.stem.removeprefix("states.").rpartition(".seed")
        captions[path] = f"{STATES}{method}, seed {seed}"
    command = command_for(config, f"figures/{folder.name}")
    return [html_report.Figure(caption, path, command) for path, caption in captions.items() if path.is_file()]


def _samples(block: tables.Block, results: Path) -> list[html_report.Samples]:
    groups = []
    generated = dict.fromkeys(row.benchmark for row in block.rows if row.metric == "fidelity")
    for benchmark, language in itertools.product(generated, (block.central, *block.targets, *block.others)):
        by_method = {}
        for method, seed in dict.fromkeys((row.method, seed) for row in block.rows for seed in row.seeds):
            place = layout.NO_SETTING if method == layout.BASE else block.setting
            run = results / block.backbone / place / method / f"seed{seed}"
            path = run / "samples" / f"{benchmark}.{language}.jsonl"
            if path.is_file():
                by_method[method if seed == 0 else f"{method} (seed {seed})"] = read_jsonl(path)
        if by_method:
            groups.append(html_report.Samples(benchmark, language, html_report.join_samples(by_method)))
    return groups


def _run(results: Path, row: Mapping[str, Any]) -> Path:
    """The folder of a checkpoint."""
    return results.joinpath(row["backbone"], row["setting"], row["method"], f"seed{row['seed']}")


def _evaluations(results: Path, checkpoints: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records of the evaluations of checkpoints, as far as there are any; `{}` where there is none."""
    found: list[Mapping[str, Any]] = []
    for row in checkpoints:
        recorded = record_of(_run(results, row) / "scores.json")
        found.append({} if recorded is None else recorded[1])
    return found


def _tree(results: Path, row: Mapping[str, Any]) -> str:
    """What a checkpoint's scores were made of; what is wrong where a file that the report can do without is gone."""
    try:
        return trace.tree(_run(results, row) / "scores.json", results)
    except LensflowError as error:  # in the report no absolute path
        return str(error).replace(f"{results.absolute().parent}/", "")


def _joined(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def write_report(
    config: Mapping[str, Any],
    scores: Path,
    comparisons: Path,
    versus: Path,
    costs: Sequence[Path],
    folders: Sequence[Path],
    timings: Sequence[Path],
    results: Path,
    output: Path,
) -> None:
    """Write the self-contained report.

    Args:
        config: what `Plan.presentation` gives, the command that runs the workflow and the folder of its results.
        scores: scores.csv.
        comparisons: comparisons.csv.
        versus: versus.csv.
        costs: cost.json of each training.
        folders: what `write_figures` wrote, {backbone}.{setting} each.
        timings: tables that the scripts in performance/ wrote as Markdown.
        results: the folder with every checkpoint's samples.
        output: the HTML file.
    """
    blocks = blocks_of(config, comparisons, costs)
    frame = pd.read_csv(checked(scores))
    keys = ["backbone", "setting", "method", "seed", "engine", "dtype", "weights"]
    places = frame[keys].drop_duplicates().itertuples(index=False, name=None)
    checkpoints = [dict(zip(keys, place, strict=True)) for place in places]
    records = _evaluations(results, checkpoints)
    trees = {}
    for row, record in zip(checkpoints, records, strict=True):
        if record:
            row |= {"evaluated": record["started"], "code": (record["code"]["commit"] or "no commit")[:12]}
            trees["{backbone}, {setting}, {method}, seed {seed}".format(**row)] = _tree(results, row)
    machines = [record["machine"] for record in records if record] or [environment.machine()]
    versions = [record["versions"] for record in records if record] or [environment.versions()]
    sections = []
    for block in blocks:
        html = {"main": tables.to_html(block)}
        html |= {
            name: to_html(sheets[0]) for name, sheets in sheets_of(config, [block], versus, costs).items() if sheets
        }
        shown = [
            html_report.Table(caption, html[name], command_for(config, f"tables/{name}.md"))
            for name, caption in TABLES.items()
            if name in html
        ]
        drawn = [
            f
            for folder in folders
            if folder.name == f"{block.backbone}.{block.setting}"
            for f in _figures(config, folder)
        ]
        sections.append(
            html_report.Section(
                f"{block.backbone}, {block.setting}", block.caption, shown, drawn, _samples(block, results)
            )
        )
    overview = [
        (
            "Method",
            "Lens (arXiv 2410.04407) on the top layers; see the README for what differs from the published code",
        ),
        ("Backbones", "; ".join(f"{name} ({entry['license']})" for name, entry in config["backbones"].items())),
        ("Evaluation", ", ".join(f"{k} {'all' if v is None else v}" for k, v in config["evaluation"].items())),
        ("Machine", _joined(f"{m.get('gpu', m['cpu'])}, {m['cores']} cores, {m['platform']}" for m in machines)),
        ("Commit", environment.commit() or "not a git checkout"),
        ("Command", command_for(config, output.name)),
    ]
    html_report.build_report(
        output,
        title=config["title"],
        overview=overview,
        sections=sections,
        timings=[_timing(path) for path in timings],
        checkpoints=checkpoints,
        trees=trees,
        versions={name: _joined(v[name] for v in versions if name in v) for v in versions for name in v},
        config=config,
    )


def _timing(path: Path) -> html_report.Timing:
    """Read a table of a benchmark script: its heading, an empty line, the table."""
    caption, _, *lines = path.read_text(encoding="utf-8").splitlines()
    columns, _, *rows = ([value.strip() for value in line.split("|")[1:-1]] for line in lines if line)
    return html_report.Timing(caption, columns, rows)


def run(
    config: Presenting,
    *,
    scores: Path,
    comparisons: Path,
    versus: Path,
    costs: Sequence[Path],
    figures: Sequence[Path],
    timings: Sequence[Path],
    results: Path,
    output: Path,
) -> None:
    """Write the self-contained report."""
    write_report(config.canonical(), scores, comparisons, versus, costs, figures, timings, results, output)
