"""Tables, figures and the report from a results folder (stages `make_table`, `make_figures`, `report`)."""

import itertools
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file

from lensflow import figures, fitting, report, tables
from lensflow.config import Setting
from lensflow.errors import LensflowError
from lensflow.files import read_jsonl, write_text

VERSIONS = ("lensflow", "torch", "transformers", "lm-eval", "snakemake", "numpy", "datasets", "Babel")
COMMANDS = ("make demo", "snakemake --cores 2")
# Drawn for every backbone and setting, in this order.
CAPTIONS = {
    "fidelity": "share of answers in the prompt's language, on unseen test prompts",
    "training": "training curves; markers are the dev texts",
}


def _settings(config: Mapping[str, Any]) -> dict[str, Setting]:
    return {name: Setting.model_validate(value) for name, value in config["settings"].items()}


def _blocks(config: Mapping[str, Any], comparisons: Path) -> list[tables.Block]:
    try:
        frame = pd.read_csv(comparisons, dtype={"seeds": str})
    except FileNotFoundError:
        raise LensflowError(f"{comparisons}: no such file; run collect-scores") from None
    wanted = [tuple(pair) for pair in config["blocks"]]
    told = config.get("told_language", ())
    blocks = tables.main_table(frame, _settings(config), list(config["methods"]), told)
    return [block for block in blocks if (block.backbone, block.setting) in wanted]


def write_tables(config: Mapping[str, Any], comparisons: Path, output: Path) -> None:
    """Write the main table as Markdown (`output`), LaTeX and CSV."""
    blocks = _blocks(config, comparisons)
    write_text(output, tables.to_markdown(blocks))
    write_text(output.with_suffix(".tex"), tables.to_latex(blocks))
    write_text(output.with_suffix(".csv"), tables.to_csv(blocks))


def terminal_table(config: Mapping[str, Any], comparisons: Path) -> str:
    """Return the main table for the terminal."""
    return tables.to_text(_blocks(config, comparisons))


def write_figures(
    config: Mapping[str, Any],
    backbone: str,
    setting_name: str,
    comparisons: Path,
    subspaces: Path | None,
    histories: list[Path],
    folder: Path,
) -> None:
    """Draw the figures of one backbone and setting into `folder`: fidelity, training, states.{method}.seed{seed}."""
    setting = _settings(config)[setting_name]
    block = next(b for b in _blocks(config, comparisons) if (b.backbone, b.setting) == (backbone, setting_name))
    folder.mkdir(parents=True, exist_ok=True)
    if any(row.metric == "fidelity" for row in block.rows):
        figures.save(figures.fidelity_bars(block), folder / "fidelity")
    labels = {path: f"{path.parts[-3]} (seed {path.parts[-2].removeprefix('seed')})" for path in histories}
    rows = {labels[path]: read_jsonl(path) for path in histories}
    if any(rows.values()):
        figures.save(figures.training_curves(rows), folder / "training")
    if subspaces is None:
        return
    specific = fitting.load(subspaces, setting).specific[-1].numpy()
    for path in histories:
        states = load_file(path.parent / "dev_states.safetensors")
        if not states:  # a method that trains without hidden states
            continue
        before, after = (
            {key: states[f"{side}.{key}"].numpy() for key in setting.languages} for side in ("before", "after")
        )
        ordered = [setting.central, *setting.targets]
        drawn = figures.state_map(before, after, specific, ordered)
        figures.save(drawn, folder / f"states.{path.parts[-3]}.{path.parts[-2]}")


def _caption(path: Path) -> str:
    what = (
        CAPTIONS.get(path.stem) or f"dev states in the language-specific subspace, {path.stem.removeprefix('states.')}"
    )
    backbone, setting = path.parent.name.rsplit(".", 1)
    return f"{backbone}, {setting}: {what}"


def _figure_files(folders: list[Path]) -> list[tuple[str, Path]]:
    found = []
    for folder in folders:
        first = [folder / f"{name}.svg" for name in CAPTIONS]
        others = [path for path in sorted(folder.glob("*.svg")) if path not in first]
        found += [(_caption(path), path) for path in first + others if path.is_file()]
    return found


def _samples(config: Mapping[str, Any], blocks: list[tables.Block], results: Path) -> list[report.Samples]:
    groups = []
    for block in blocks:
        generated = dict.fromkeys(row.benchmark for row in block.rows if row.metric == "fidelity")
        for benchmark, language in itertools.product(generated, (block.central, *block.targets, *block.others)):
            by_method = {}
            for method, seed in dict.fromkeys((row.method, seed) for row in block.rows for seed in row.seeds):
                place = "none" if method == "base" else block.setting
                run = results / block.backbone / place / method / f"seed{seed}"
                path = run / "samples" / f"{benchmark}.{language}.jsonl"
                if path.is_file():
                    by_method[method if seed == 0 else f"{method} (seed {seed})"] = read_jsonl(path)
            if by_method:
                rows = report.join_samples(by_method)
                groups.append(report.Samples(block.backbone, block.setting, benchmark, language, rows))
    return groups


def write_report(
    config: Mapping[str, Any], scores: Path, comparisons: Path, folders: list[Path], results: Path, output: Path
) -> None:
    """Write the self-contained report."""
    blocks = _blocks(config, comparisons)
    frame = pd.read_csv(scores)
    keys = ["backbone", "setting", "method", "seed", "weights"]
    runs: list[dict[str, Any]] = frame[keys].drop_duplicates().to_dict("records")  # type: ignore[assignment]
    for run in runs:
        run["weights"] = run["weights"][:12]
        method = config["methods"][run["method"]]
        run["settings of the method"] = ", ".join(f"{key} {value}" for key, value in method.items() if key != "kind")
    overview = [
        (
            "Method",
            "Lens (arXiv 2410.04407) on the top layers; see the README for what differs from the published code",
        ),
        ("Backbones", "; ".join(f"{name} ({entry['license']})" for name, entry in config["backbones"].items())),
        ("Evaluation", ", ".join(f"{k} {'all' if v is None else v}" for k, v in config["evaluation"].items())),
        ("Machine", f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"),
        ("Written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]
    report.build_report(
        output,
        title=config["title"],
        overview=overview,
        runs=runs,
        tables=tables.to_html(blocks),
        figures=_figure_files(folders),
        samples=_samples(config, blocks, results),
        versions={name: version(name) for name in VERSIONS},
        commands=COMMANDS,
    )
