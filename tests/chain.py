"""Every stage on the command line, from a tiny random checkpoint to the report, in a folder as the workflow's.

The wiring of stages is written here once for all tests that call stages without Snakemake.

python -m tests.chain FOLDER CHECKPOINT
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lensflow.artifacts.texts import SPLITS
from lensflow.cli import main
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.integrity import CORRUPT
from lensflow.workflow import experiment
from lensflow.workflow.plan import Plan
from lensflow.workflow.stages import RUN as ANY_RUN
from lensflow.workflow.stages import STAGES, Argument, Stage

REPOSITORY = Path(__file__).parents[1]
COUNTS = {"train": 6, "dev": 2, "test": 3}
TEXT = {"en": "What is number {}?", "zh": "第{}个是什么？"}
RUN = "tiny/en-zh/lens/seed0"
# Stages of other kinds of benchmarks than the chain's, and those that an untouched backbone has not.
LEFT_OUT = {"fetch_items", "judge"}
TRAINED_ONLY = {"fit_subspaces", "train", "make_figures"}
# Argument -> where it lies below the results folder. One that may have many values gets all that match.
PLACES = {
    "backbone": "{backbone}/backbone/manifest.json",
    "texts": "data/{corpus}/{language}.jsonl",
    "states": "{backbone}/hidden_states/{corpus}/{language}.safetensors",
    "subspaces": "{backbone}/{setting}/subspaces.safetensors",
    "runs": ANY_RUN,
    "corpora": "data",
    "items": "benchmarks",
    "cache": "cells",
    "answers": f"{ANY_RUN}/answers.json",
    "scores": "scores.csv",
    "comparisons": "comparisons.csv",
    "versus": "versus.csv",
    "claims": "claims.csv",
    "sweeps": "sweeps.csv",
    "costs": f"{ANY_RUN}/cost.json",
    "figures": "figures/{backbone}.{setting}",
    "results": ".",
}
# … and of those that mean something else in a stage.
PLACES_OF = {
    ("collect_scores", "scores"): f"{ANY_RUN}/scores.json",
    ("make_figures", "runs"): f"{ANY_RUN}/history.jsonl",
}
Wildcards = Mapping[str, str]


def call(stage: str, config: Mapping[str, Any] | str, **given: Any) -> tuple[str, ...]:
    """Return the command line of a stage.

    Args:
        stage: its name.
        config: its configuration, or a file's path.
        given: values of its arguments; several as a list.
    """
    options = [STAGES[stage].command, "--config", config if isinstance(config, str) else json.dumps(config)]
    for argument in STAGES[stage].arguments:
        if argument.name in given:
            value = given[argument.name]
            options += [f"--{argument.name.replace('_', '-')}", *map(str, value if argument.many else [value])]
    return tuple(options)


@dataclass(frozen=True)
class Step:
    """A command, and what Snakemake knows that it writes."""

    stage: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]


class Chain:
    """The steps of a run in the folder `root`, on a checkpoint in `model`; they are run from there.

    Its corpus has the items of `texts`, language -> what the number of an item is put into. The first one is central.
    """

    def __init__(self, root: Path, model: Path, texts: Mapping[str, str] = TEXT) -> None:
        self.root, self.languages = root, list(texts)
        shutil.copytree(model, root / "model")
        for split in SPLITS:
            rows = [
                {"id": f"{split}-{n}", "prompt": {code: t.format(n + 10 * len(split)) for code, t in texts.items()}}
                for n in range(COUNTS[split])
            ]
            write_jsonl(root / "corpus" / f"{split}.jsonl", rows)
        (root / "run.yaml").write_text(yaml.safe_dump(self.configuration()))
        self.plan = Plan(experiment.read([root / "run.yaml"], REPOSITORY), root, REPOSITORY)
        self.steps = [step for stage in STAGES.values() if stage.name not in LEFT_OUT for step in self._steps(stage)]

    @property
    def results(self) -> Path:
        """Its results folder."""
        return self.root / "results"

    def configuration(self) -> dict[str, Any]:
        """Return what `--configfile` would name."""
        prompt = {"format": "plain", "template": "Q: {prompt}\nA:"}
        return {
            "backbones": {"tiny": {"source": {"kind": "folder", "path": "model"}, "license": "none", "prompt": prompt}},
            "corpora": {"mine": {"path": "corpus", "license": "CC0-1.0"}},
            "settings": {
                "-".join(self.languages): {
                    "central": self.languages[0],
                    "languages": self.languages,
                    "probing": "mine",
                    "training": "mine",
                }
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
                    "settings": ["-".join(self.languages)],
                    "methods": ["base", "lens"],
                    "benchmarks": ["generation", "likelihood"],
                }
            ],
        }

    def _wildcards(self, trained_only: bool) -> list[dict[str, str]]:
        """Return every combination of names that a path of this run can have."""
        checkpoints = self.plan.trained() if trained_only else self.plan.checkpoints
        return [
            {key: str(value) for key, value in checkpoint._asdict().items()}
            | {"corpus": "mine", "part": "0", "language": language}
            for checkpoint in checkpoints
            for language in self.languages
        ]

    def _steps(self, stage: Stage) -> Iterable[Step]:
        """Yield the steps of a stage, one for each value of the wildcards that it works on."""
        names = {argument.name for argument in stage.arguments}
        named = {*stage.scope, *(_names(*stage.outputs) if "output" in names else ())}  # the others write for several
        every = self._wildcards(stage.name in TRAINED_ONLY)
        for own in _distinct({key: value for key, value in one.items() if key in named} for one in every):
            outputs = tuple(path for output in stage.outputs for path in self._paths(output, own))
            given = {argument.name: self._value(stage, argument, own, outputs) for argument in stage.arguments}
            given = {name: value for name, value in given.items() if value is not None}
            yield Step(stage.name, call(stage.name, self._config(stage, own), **given), outputs)

    def _config(self, stage: Stage, own: Wildcards) -> dict[str, Any] | str:
        if stage.name == "resolve_config":
            return self.plan.presentation() | {"command": "snakemake --configfile run.yaml", "results": "results"}
        if stage.config is STAGES["resolve_config"].config:
            return "results/config.json"
        return self.plan.config_of(stage.name, own)

    def _value(self, stage: Stage, argument: Argument, own: Wildcards, outputs: tuple[str, ...]) -> Any:
        """Return the value of an argument; None leaves it out."""
        if argument.name == "output":
            return outputs[0]
        if argument.name == "outputs":
            return outputs
        if argument.type is str:
            return own[argument.name]
        place = PLACES_OF.get((stage.name, argument.name), PLACES.get(argument.name))
        if place is None:
            return None
        paths = self._paths(place, own)
        return paths if argument.many else paths[0]

    def _paths(self, place: str, own: Wildcards) -> list[str]:
        """Return all paths that a place stands for, with some wildcards given; what is trained has no base."""
        every = self._wildcards(any(place in STAGES[name].outputs for name in TRAINED_ONLY))
        matching = [one for one in every if all(one[key] == value for key, value in own.items())]
        return list(dict.fromkeys(Path("results", place.format(**one)).as_posix() for one in matching))

    def make(self, last: str = "report") -> int:
        """Run, in their order, the steps of which something is missing, as Snakemake does; stop where one fails.

        Args:
            last: the stage to end with.
        """
        stages = list(STAGES)
        for step in self.steps:
            there = all((self.root / output).exists() for output in step.outputs)
            wanted = stages.index(step.stage) <= stages.index(last)
            if wanted and not there and (code := main.main(step.command)):
                return code
        return 0

    def again(self, output: str) -> int:
        """Run the step again that writes a file, which is named from the results folder."""
        wanted = {f"results/{output}", f"results/{Path(output).parent}"}
        return main.main(next(step.command for step in self.steps if wanted & set(step.outputs)))

    def set_aside(self) -> list[str]:
        """What has been set aside, below the results folder."""
        found = self.results.rglob(f"*{CORRUPT}")
        return sorted(path.relative_to(self.results).as_posix() for path in found)


def _names(*patterns: str) -> list[str]:
    return [name for pattern in patterns for name in re.findall(r"\{(\w+)\}", pattern)]


def _distinct(found: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    return [dict(one) for one in dict.fromkeys(tuple(one.items()) for one in found)]


if __name__ == "__main__":
    folder, model = (Path(argument).resolve() for argument in sys.argv[1:])
    os.chdir(folder)
    sys.exit(Chain(Path(), model).make())
