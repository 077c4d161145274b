"""The sections of the report: the results of each backbone and setting."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lensflow.artifacts import layout
from lensflow.artifacts.layout import Place
from lensflow.presentation import table_list
from lensflow.presentation.blocks import Block, TableInputs
from lensflow.presentation.figure_list import FIGURES, FIRST, STATES, SWEEP
from lensflow.presentation.html_report import Figure, Samples, Section, Table, join_samples
from lensflow.presentation.inputs import command_for
from lensflow.presentation.legends import signs_notes
from lensflow.presentation.writers.html import to_html
from lensflow.storage.verified import read_jsonl


def sections_of(
    config: Mapping[str, Any], inputs: TableInputs, figures: Sequence[Path], results: Path
) -> list[Section]:
    """Return one section per block: its tables, figures and samples.

    Args:
        config: the result of `Plan.presentation`, with the command and the results folder.
        inputs: the content from which the tables are made.
        figures: folders of figures, {backbone}.{setting} each.
        results: the folder with every checkpoint's samples.
    """
    folders = {folder.name: folder for folder in figures}
    sections = []
    for block in inputs.blocks:
        folder = folders.get(f"{block.backbone}.{block.setting}")
        tables = _tables(config, replace(inputs, blocks=(block,)))
        drawn = _figures(config, folder) if folder else []
        first = [figure for figure in drawn if figure.path.stem in FIRST]
        others = [figure for figure in drawn if figure not in first]
        name = f"{block.backbone}, {block.setting}"
        notes = signs_notes(block.rows)
        sections.append(Section(name, block.caption, tables, others, _samples(block, results), first, notes))
    return sections


def _tables(config: Mapping[str, Any], inputs: TableInputs) -> list[Table]:
    documents = {table: table.build(inputs) for table in table_list.TABLES}
    return [
        Table(table.title, to_html(document), command_for(config, f"tables/{table.name}.md"))
        for table, document in documents.items()
        if document.sheets
    ]


def _figures(config: Mapping[str, Any], folder: Path) -> list[Figure]:
    """The existing figures of a backbone and setting, in order: `FIGURES`, sweeps, states."""
    captions = {folder / f"{name}.svg": caption for name, caption in FIGURES.items()}
    for path in sorted(folder.glob("sweep.*.svg")):
        captions[path] = f"{SWEEP}{path.stem.removeprefix('sweep.')}"
    for path in sorted(folder.glob("states.*.svg")):
        method, _, seed = path.stem.removeprefix("states.").rpartition(".seed")
        captions[path] = f"{STATES}{method}, seed {seed}"
    command = command_for(config, f"figures/{folder.name}")
    return [Figure(caption, path, command) for path, caption in captions.items() if path.is_file()]


def _samples(block: Block, results: Path) -> list[Samples]:
    groups = []
    generated = dict.fromkeys(row.benchmark for row in block.rows if row.metric == "usable")
    # Targets first: the central language is rarely what a reader looks for.
    for benchmark, language in itertools.product(generated, (*block.targets, block.central, *block.others)):
        if by_method := _answers(block, results, benchmark, language):
            groups.append(Samples(benchmark, language, join_samples(by_method)))
    return groups


def _answers(block: Block, results: Path, benchmark: str, language: str) -> dict[str, list[dict[str, Any]]]:
    """The answers of one cell by method, and by seed for later seeds; only existing and judged ones."""
    by_method = {}
    for method, seed in dict.fromkeys((row.method, seed) for row in block.rows for seed in row.seeds):
        setting = layout.NO_SETTING if method == layout.BASE else block.setting
        path = results / Place(block.backbone, setting, method, seed).samples(benchmark, language)
        # Answers are not judged in a language in which too few prompts themselves are recognised.
        if path.is_file() and "outcome" in (samples := read_jsonl(path))[0]:
            by_method[method if seed == 0 else f"{method} (seed {seed})"] = samples
    return by_method
