"""All stages on a tiny model, from a checkpoint to tables, in one process: python chain.py CHECKPOINT

Everything is written below the current folder; `OMP_NUM_THREADS` says how many threads to use.
"""

import json
import sys
from pathlib import Path

from lensflow import cli
from lensflow.config import AnyMethod, parse
from lensflow.corpora import SPLITS
from lensflow.files import write_json, write_jsonl

LANGUAGES = ("en", "zh")
COUNTS = {"train": 6, "dev": 2, "test": 3}
TEXT = {"en": "What is number {}?", "zh": "第{}个是什么？"}
PROMPT = {"format": "plain", "template": "Q: {prompt}\nA:"}
SETTING = {"central": "en", "languages": list(LANGUAGES)}
EXTRACTION = {"trainable_layers": 2}
METHODS = {
    "lens": {"kind": "lens", "lr": 1e-2, "batch_size": 2, "warmup": 0.0},
    "sft": {"kind": "sft", "lora": None, "lr": 1e-3, "epochs": 1, "batch_size": 2},
}


def run(command: str, config: object, *arguments: object) -> None:
    """Run a stage."""
    given = ["--config", json.dumps(config), *map(str, arguments)]
    if code := cli.main([command, *given]):
        sys.exit(code)


def chain(source: str) -> None:
    """Run all stages."""
    results = Path("results")
    backbone = results / "tiny/backbone/manifest.json"
    entry = {"source": {"kind": "folder", "path": source}, "license": "none", "prompt": PROMPT}
    run("prepare-backbone", {"backbone": entry}, "--output", backbone)
    for split in SPLITS:
        rows = [
            {
                "id": f"{split}-{n}",
                "prompt": {code: text.format(n + 10 * len(split)) for code, text in TEXT.items()},
                "answer": {code: str(n) for code in TEXT},
            }
            for n in range(COUNTS[split])
        ]
        write_jsonl(Path("corpus") / f"{split}.jsonl", rows)
    texts = {code: results / "data/mine" / f"{code}.jsonl" for code in LANGUAGES}
    states = {code: results / "tiny/hidden_states/mine" / f"{code}.safetensors" for code in LANGUAGES}
    for code in LANGUAGES:
        run("pair-data", {"path": "corpus", "language": code}, "--output", texts[code])
        files = ("--backbone", backbone, "--texts", texts[code], "--output", states[code])
        run("extract-hidden-states", {"prompt": PROMPT, "extraction": EXTRACTION}, *files)
    files = ("--states", *states.values(), "--texts", *texts.values())
    subspaces = results / "tiny/duo/subspaces.safetensors"
    run("fit-subspaces", {"setting": SETTING}, *files, "--output", subspaces)
    cells = [
        {"name": kind, "benchmark": {"kind": kind, "corpus": "mine"}, "languages": list(LANGUAGES)}
        for kind in ("generation", "likelihood")
    ]
    stage = {"prompt": PROMPT, "evaluation": {"engine": "hf"}, "cells": cells}
    shared = ("--corpora", results / "data", "--items", results / "benchmarks", "--cache", results / "cells")
    scores = [results / "tiny/none/base/seed0/scores.json"]
    run("evaluate", stage, "--checkpoint", backbone, *shared, "--output", scores[0])
    costs = []
    for name, method in METHODS.items():
        folder = results / "tiny/duo" / name / "seed0"
        delta, exported = folder / "delta.safetensors", folder / "checkpoint/manifest.json"
        training = {"method": method, "setting": SETTING, "extraction": EXTRACTION, "prompt": PROMPT, "seed": 0}
        run("train", training, "--backbone", backbone, "--subspaces", subspaces, *files, "--output", delta)
        if code := cli.main(
            ["export-checkpoint", *map(str, ["--backbone", backbone, "--delta", delta, "--output", exported])]
        ):
            sys.exit(code)
        scores.append(folder / "scores.json")
        run("evaluate", stage, "--checkpoint", exported, *shared, "--output", scores[-1])
        costs.append(folder / "cost.json")
    collected = {
        "blocks": [["tiny", "duo"]],
        "settings": {"duo": SETTING},
        "retention_margins": {"fidelity": 0.05, "nll": 0.05},
        "sweeps": [],
    }
    run("collect-scores", collected, "--scores", *scores, "--output", results / "scores.csv")
    shown = {
        "title": "Tiny",
        "backbones": {"tiny": entry},
        "blocks": [["tiny", "duo"]],
        "settings": {"duo": SETTING},
        "methods": {name: parse(AnyMethod, method).canonical() for name, method in METHODS.items()},
        "evaluation": {"engine": "hf"},
        "command": "snakemake",
    }
    write_json(results / "config.json", shown)
    comparisons = ("--comparisons", results / "comparisons.csv", "--costs", *costs)
    run("make-table", shown, *comparisons, "--output", results / "tables")
    more = ("--scores", results / "scores.csv", "--results", results, "--output", results / "report.html")
    run("report", shown, *comparisons, *more)


if __name__ == "__main__":
    chain(sys.argv[1])
