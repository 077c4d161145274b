"""Time and memory of an evaluation: our two jobs for all cells beside one `lm_eval --model hf` process per cell.

    LENSFLOW_DATASETS_ROOT=... python performance/evaluate.py

Run it from the repository root on a quiet machine (about half an hour on two cores). It needs local copies of XCOPA,
XWinograd and the Language Confusion Benchmark. Both sides run the same task files on the same documents in float32:
XCOPA zh and sw, XWinograd jp and en, and one greedy answer to each of 600 prompts. Every process is timed from its
start to its end; our time is the sum of `answer` and `score`, with an empty cache of cells. The plain side is
what a user would type, in batches of 16. The accuracies must be the same, and so should the answers (counted).
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from lensflow.artifacts import hub, items, layout
from lensflow.benchmarks.lm_eval.kind import Task
from lensflow.errors import LensflowError
from lensflow.stages import fetch_items
from lensflow.storage.atomic import write_jsonl, write_text
from lensflow.storage.verified import read_jsonl
from lensflow.workflow.experiment import read
from measuring import Measured, backbone_of, markdown, row, say, spawn, write

CELLS = (("xcopa", "zh"), ("xcopa", "sw"), ("xwinograd", "ja"), ("xwinograd", "en"))
PROMPTS = {"lcb-aya": ("en", "zh", "ar"), "lcb-native": ("ja", "ko", "es")}
TOKENS = 32  # of an answer
BATCH = 16


def write_prompts(config: Any, root: Path, count: int, folder: Path) -> Path:
    """Write prompts of several languages as a data set `prompts`, and the task that answers them; return the folder."""
    rows = []
    for name, languages in PROMPTS.items():
        benchmark = config.benchmarks[name]
        for language in languages:
            path = folder / "fetched" / name / f"{language}.jsonl"
            fetch_items.fetch(name, benchmark.dataset, language, benchmark.languages[language], root, path)
            rows += [{"prompt": item["prompt"]} for item in items.read_items(path).values()]
    # Every language's share, whatever the count.
    step = len(rows) / count
    write_jsonl(folder / "prompts" / "all" / "test.jsonl", [rows[int(step * index)] for index in range(count)])
    card = {"configs": [{"config_name": "all", "data_files": [{"split": "test", "path": "all/test.jsonl"}]}]}
    write_text(folder / "prompts" / "README.md", f"---\n{yaml.safe_dump(card)}---\n")
    task = {
        "task": "prompts_all",
        "dataset_path": str(folder / "prompts"),
        "dataset_name": "all",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "Question: {{prompt}}\nAnswer:",
        "doc_to_target": "{{prompt}}",
        "generation_kwargs": {"until": ["\nQuestion:"], "max_gen_toks": TOKENS, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    write_text(folder / "tasks" / "prompts_all.yaml", yaml.safe_dump(task, allow_unicode=True))
    return folder


def plain_task(config: Any, name: str, language: str, root: Path, folder: Path) -> str:
    """Write lm-eval's task with the local copy of its data set; return its name."""
    benchmark = config.benchmarks[name]
    assert isinstance(benchmark, Task)
    code = benchmark.languages[language].config
    place, _, own = benchmark.task.replace("{code}", code).rpartition("/")
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    tasks = Path(spec.origin).parent / "tasks" / place
    file = next(path for path in tasks.glob("*.yaml") if f"task: {own}\n" in path.read_text() + "\n")
    content = {"include": str(file), "task": f"plain_{own}", "dataset_path": str(root / benchmark.dataset.path)}
    write_text(folder / "tasks" / f"plain_{own}.yaml", yaml.safe_dump(content))
    return f"plain_{own}"


def plain(task: str, checkpoint: Path, limit: int, folder: Path) -> tuple[Measured, list[dict[str, Any]]]:
    """Evaluate one cell as a user would; return what it took and its samples."""
    say(f"lm_eval {task}")
    output = folder / "plain" / task
    measured = spawn(
        [
            *("-m", "lm_eval", "run", "--model", "hf", "--tasks", task, "--include_path", folder / "tasks"),
            *("--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu"),
            *("--batch_size", str(BATCH), "--limit", str(limit), "--output_path", output, "--log_samples"),
        ],
        quiet=True,
    )
    (path,) = output.rglob("samples_*.jsonl")
    return measured, sorted(read_jsonl(path), key=lambda sample: int(sample["doc_id"]))


def ours(
    config: Any, backbone: Path, root: Path, limit: int, prompts: int, folder: Path
) -> tuple[Measured, dict[tuple[str, str], list[dict[str, Any]]]]:
    """Evaluate all cells in one job; return what it took and each cell's samples."""
    prompt = backbone_of(config, backbone).prompt.canonical()
    cells = []
    for name, language in CELLS:
        benchmark = config.benchmarks[name]
        entry = benchmark.languages[language]
        fetch_items.fetch(name, benchmark.dataset, language, entry, root, folder / "items" / name / f"{language}.jsonl")
        cells.append({"name": name, "benchmark": benchmark.canonical(), "languages": [language]})
    generation = {
        "kind": "lm_eval",
        "task": "tasks/prompts_all",
        "metrics": {"accuracy": "exact_match"},
        "dataset": {"path": "prompts", "columns": ["prompt"]},
        "languages": {"en": {"config": "all"}},
    }
    benchmark = Task.model_validate(generation)
    path = folder / "items" / "prompts" / "en.jsonl"
    fetch_items.fetch("prompts", benchmark.dataset, "en", benchmark.languages["en"], folder, path)
    cells.append({"name": "prompts", "benchmark": benchmark.canonical(), "languages": ["en"]})
    settings = config.evaluation.model_copy(update={"dtype": "float32", "engine": "auto", "limit": max(limit, prompts)})
    for cell in cells[:-1]:  # one limit for all: cut the items instead
        for language in cell["languages"]:
            file = folder / "items" / cell["name"] / f"{language}.jsonl"
            write_jsonl(file, read_jsonl(file)[:limit])
    place = layout.Place("ours", layout.NO_SETTING, layout.BASE, 0)
    run, checkpoints = folder / place.folder, {place.folder: list(range(len(cells)))}
    output = run / layout.SCORES
    files = ("--tasks", folder, "--corpora", folder, "--items", folder / "items", "--cache", folder / "cells")
    stage = {"prompt": prompt, "evaluation": settings.canonical(), "cells": cells, "checkpoints": checkpoints}
    say("lensflow answer, lensflow score")
    answering = ("answer", "--config", json.dumps(stage), "--backbone", backbone, "--runs", run)
    scoring = ("score", "--config", json.dumps({"cells": cells}), "--answers", run / layout.ANSWERS, "--output", output)
    parts = [spawn(["-m", "lensflow.cli", *arguments, *files]) for arguments in (answering, scoring)]
    seconds, megabytes = sum(part.seconds for part in parts), max(part.megabytes for part in parts)
    samples = {}
    for cell in cells:
        for language in cell["languages"]:
            samples[cell["name"], language] = read_jsonl(output.parent / "samples" / f"{cell['name']}.{language}.jsonl")
    return Measured(seconds, megabytes), samples


def main() -> None:
    """Measure, compare, print and write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--backbone", type=Path, default=Path("results/gemma-3-270m/backbone/manifest.json"))
    options.add_argument("--limit", type=int, default=400, help="documents of each multiple-choice cell")
    options.add_argument("--prompts", type=int, default=600, help="answers to generate")
    options.add_argument("--out", type=Path, default=Path("results/timings"))
    args = options.parse_args()
    backbone = args.backbone.absolute()
    config = read([], Path())
    root = hub.datasets_root(config.datasets_root)
    if root is None:
        raise LensflowError(f"{hub.ROOT_VARIABLE}: not set; name a folder with local copies of the data sets")
    heading = (
        f"{backbone.parent.parent.name}, float32, {args.limit} documents of each of {len(CELLS)} multiple-choice cells "
        f"and {args.prompts} answers of at most {TOKENS} tokens, {os.cpu_count()} cores. Reference: one `lm_eval "
        f"--model hf` process a cell, batches of {BATCH}. Ratios: reference / ours."
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        # `datasets` would take another run's prompts for these.
        os.environ["HF_DATASETS_CACHE"] = str(Path(temporary) / "cache")
        folder = write_prompts(config, root.absolute(), args.prompts, Path(temporary))
        measured, samples = ours(config, backbone, root.absolute(), args.limit, args.prompts, folder)
        total, peak = 0.0, 0.0
        for name, language in CELLS:
            task = plain_task(config, name, language, root.absolute(), folder)
            cost, reference = plain(task, backbone.parent, args.limit, folder)
            total, peak = total + cost.seconds, max(peak, cost.megabytes)
            mine = [sample["accuracy"] for sample in samples[name, language]]
            theirs = [float(sample["acc"]) for sample in reference]
            different = sum(a != b for a, b in zip(mine, theirs, strict=True))
            rows.append(row("float32", f"{name} {language}: process", "s", float("nan"), cost.seconds))
            rows[-1] |= {"ours": None, "ratio": None}
            accuracies = [sum(values) / len(values) for values in (mine, theirs)]
            rows.append(
                row("float32", f"{name} {language}: accuracy, {different} of {len(mine)} differ", "", *accuracies)
            )
            write(rows, heading, args.out / "evaluate")
        cost, reference = plain("prompts_all", backbone.parent, args.prompts, folder)
        total, peak = total + cost.seconds, max(peak, cost.megabytes)
        rows.append(row("float32", f"{args.prompts} answers: process", "s", float("nan"), cost.seconds))
        rows[-1] |= {"ours": None, "ratio": None}
        pairs = zip(samples["prompts", "en"], reference, strict=True)
        same = sum(mine["responses"][0][0] == theirs["resps"][0][0] for mine, theirs in pairs)
        rows.append(row("float32", "answers that are the same to the letter", "", float(same), float(args.prompts)))
        rows.append(row("float32", "all cells", "s", measured.seconds, total, 2.5))
        rows.append(row("float32", "peak memory of any process", "MB", measured.megabytes, peak))
    write(rows, heading, args.out / "evaluate")
    print(markdown(rows, heading), end="")


if __name__ == "__main__":
    try:
        main()
    except LensflowError as error:
        sys.exit(f"error: {error}")
