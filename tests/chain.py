"""Every stage on the command line, from a tiny random checkpoint to the report, in a folder as the workflow's.

python chain.py FOLDER CHECKPOINT
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lensflow.artifacts.texts import SPLITS
from lensflow.cli import main
from lensflow.presentation import table_list
from lensflow.storage.atomic import write_json, write_jsonl
from lensflow.storage.integrity import CORRUPT
from lensflow.workflow import experiment
from lensflow.workflow.plan import Plan

REPOSITORY = Path(__file__).parents[1]
LANGUAGES = ("en", "zh")
COUNTS = {"train": 6, "dev": 2, "test": 3}
TEXT = {"en": "What is number {}?", "zh": "第{}个是什么？"}
RUN = "tiny/en-zh/lens/seed0"


@dataclass(frozen=True)
class Step:
    """A command, and what Snakemake knows that it writes."""

    command: tuple[str, ...]
    outputs: tuple[str, ...]


class Chain:
    """The steps of a run in the folder `root`, on a checkpoint in `model`; they are run from there."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        shutil.copytree(model, root / "model")
        for split in SPLITS:
            rows = [
                {"id": f"{split}-{n}", "prompt": {code: t.format(n + 10 * len(split)) for code, t in TEXT.items()}}
                for n in range(COUNTS[split])
            ]
            write_jsonl(root / "corpus" / f"{split}.jsonl", rows)
        (root / "run.yaml").write_text(yaml.safe_dump(self.configuration()))
        plan = Plan(experiment.read([root / "run.yaml"], REPOSITORY), root, REPOSITORY)
        write_json(
            self.results / "config.json",
            plan.presentation() | {"command": "snakemake --configfile run.yaml", "results": "results"},
        )
        self.steps = self._steps(plan)

    @property
    def results(self) -> Path:
        """Its results folder."""
        return self.root / "results"

    @staticmethod
    def configuration() -> dict[str, Any]:
        prompt = {"format": "plain", "template": "Q: {prompt}\nA:"}
        return {
            "backbones": {"tiny": {"source": {"kind": "folder", "path": "model"}, "license": "none", "prompt": prompt}},
            "corpora": {"mine": {"path": "corpus", "license": "CC0-1.0"}},
            "settings": {
                "en-zh": {"central": "en", "languages": list(LANGUAGES), "probing": "mine", "training": "mine"}
            },
            "methods": {"lens": {"kind": "lens", "lr": 1e-2, "batch_size": 2, "warmup": 0.0}},
            "benchmarks": {
                "generation": {"kind": "generation", "corpus": "mine", "max_new_tokens": 4},
                "likelihood": {"kind": "likelihood", "corpus": "mine"},
            },
            "evaluation": {"engine": "hf"},
            "extraction": {"trainable_layers": 2},
            "runs": [
                {
                    "backbones": ["tiny"],
                    "settings": ["en-zh"],
                    "methods": ["base", "lens"],
                    "benchmarks": ["generation", "likelihood"],
                }
            ],
        }

    def _steps(self, plan: Plan) -> list[Step]:
        steps = []

        def add(name: str, stage: Any, *arguments: str, outputs: tuple[str, ...]) -> None:
            given = [] if stage is None else ["--config", stage if isinstance(stage, str) else json.dumps(stage)]
            steps.append(Step((name, *given, *arguments), tuple(f"results/{output}" for output in outputs)))

        backbone = "results/tiny/backbone/manifest.json"
        texts = [f"results/data/mine/{code}.jsonl" for code in LANGUAGES]
        states = [f"results/tiny/hidden_states/mine/{code}.safetensors" for code in LANGUAGES]
        trained = plan.trained()[0]
        run = trained.folder
        subspaces, delta = "results/tiny/en-zh/subspaces.safetensors", f"results/{run}/delta.safetensors"
        add("prepare-backbone", plan.prepare_backbone("tiny"), "--output", backbone, outputs=(backbone[8:],))
        for code, path in zip(LANGUAGES, texts, strict=True):
            outputs = (path[8:], f"{path[8:-5]}source.json")
            add("pair-data", plan.pair_data("mine", code), "--output", path, outputs=outputs)
        for text, path in zip(texts, states, strict=True):
            stage, given = plan.extract_hidden_states("tiny", "mine"), ("--backbone", backbone, "--texts", text)
            add("extract-hidden-states", stage, *given, "--output", path, outputs=(path[8:],))
        files = ("--states", *states, "--texts", *texts)
        add("fit-subspaces", plan.fit_subspaces("en-zh"), *files, "--output", subspaces, outputs=(subspaces[8:],))
        given = ("--backbone", backbone, "--subspaces", subspaces, *files, "--output", delta)
        names = ("delta.safetensors", "config.json", "history.jsonl", "dev_states.safetensors")
        names += ("intervention.safetensors", "cost.json")
        add("train", plan.train(trained), *given, outputs=tuple(f"{run}/{name}" for name in names))
        exported = f"results/{run}/checkpoint/manifest.json"
        given = ("--backbone", backbone, "--delta", delta, "--output", exported)
        add("export-checkpoint", None, *given, outputs=(f"{run}/checkpoint",))
        scores = []
        for checkpoint in plan.checkpoints:
            output = f"results/{checkpoint.folder}/scores.json"
            scores.append(output)
            applied = () if checkpoint.is_base else ("--intervention", f"results/{run}/intervention.safetensors")
            given = (
                "--checkpoint",
                backbone if checkpoint.is_base else exported,
                *applied,
                "--corpora",
                "results/data",
            )
            given += ("--items", "results/benchmarks", "--cache", "results/cells", "--output", output)
            add("evaluate", plan.evaluate(checkpoint), *given, outputs=(output[8:],))
        tidy = tuple(f"{name}.csv" for name in ("scores", "comparisons", "versus", "sweeps"))
        given = ("--scores", *scores, "--output", "results/scores.csv")
        add("collect-scores", plan.collect_scores(), *given, outputs=tidy)
        config, costs = "results/config.json", ("--costs", f"results/{run}/cost.json")
        compared = ("--comparisons", "results/comparisons.csv")
        written = tuple(f"tables/{name}" for name in table_list.files())
        direct = ("--versus", "results/versus.csv")
        add("make-table", config, *compared, *direct, *costs, "--output", "results/tables", outputs=written)
        given = ("--backbone", "tiny", "--setting", "en-zh", "--scores", "results/scores.csv", *compared)
        given += ("--sweeps", "results/sweeps.csv", "--subspaces", subspaces, "--states", *states)
        given += ("--runs", f"results/{run}/history.jsonl", *costs)
        figures = "results/figures/tiny.en-zh"
        add("make-figures", config, *given, "--output", figures, outputs=("figures/tiny.en-zh",))
        given = (
            "--scores",
            "results/scores.csv",
            *compared,
            *direct,
            *costs,
            "--figures",
            figures,
            "--results",
            "results",
        )
        add("report", config, *given, "--output", "results/report.html", outputs=("report.html",))
        return steps

    def make(self) -> int:
        """Run, in their order, the steps of which something is missing, as Snakemake does; stop where one fails."""
        for step in self.steps:
            there = all((self.root / output).exists() for output in step.outputs)
            if not there and (code := main.main(step.command)):
                return code
        return 0

    def again(self, output: str) -> int:
        """Run the step again that writes a file, which is named from the results folder."""
        return main.main(next(step.command for step in self.steps if f"results/{output}" in step.outputs))

    def set_aside(self) -> list[str]:
        """What has been set aside, below the results folder."""
        found = self.results.rglob(f"*{CORRUPT}")
        return sorted(path.relative_to(self.results).as_posix() for path in found)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    sys.exit(Chain(Path(), Path(sys.argv[2])).make())
