"""The table of stages: one row per rule of the workflow.

A stage is a function `run(config, ...)` in the module `lensflow.stages.{name}`. The command line, `show-config`, the
code digests, the published tables and the tests read this table. To add a stage, write its module, a row in this table,
and a rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensflow.schema import stages as schema
from lensflow.schema.strict import Strict


@dataclass(frozen=True)
class Argument:
    """An argument of a stage's command line.

    Attributes:
        name: name of the parameter of `run`; the option is `--name`, with dashes.
        text: help text.
        type: type of the values.
        many: whether several values are allowed, at least one.
        default: value if the option is not given; `...` if the option is required.
    """

    name: str
    text: str
    type: type = Path
    many: bool = False
    default: Any = ...

    @property
    def options(self) -> dict[str, Any]:
        """The arguments for argparse."""
        shared: dict[str, Any] = {"type": self.type, "help": self.text}
        if self.many:
            return shared | {
                "nargs": "+" if self.default is ... else "*",
                "default": [],
                "required": self.default is ...,
            }
        if self.default is ...:
            return shared | {"required": True}
        return shared | {"default": self.default} | ({"nargs": "?"} if self.default is None else {})


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: name of the rule, the subcommand (with dashes) and the module.
        config: class of the stage's configuration.
        scope: the wildcards that identify the stage's work.
        outputs: the files that the stage writes, below the results folder.
        arguments: arguments of the command line besides `--config`.
        numbers: whether numbers in the published tables depend on the stage.
    """

    name: str
    config: type[Strict]
    scope: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: tuple[Argument, ...] = field(default=())
    numbers: bool = True

    @property
    def module(self) -> str:
        """The import path of the stage's module."""
        return f"lensflow.stages.{self.name}"

    @property
    def command(self) -> str:
        """The name of the stage's subcommand."""
        return self.name.replace("_", "-")


CHECKPOINT = ("backbone", "setting", "method", "seed")
RUN = "{backbone}/{setting}/{method}/seed{seed}"
ROOT = Argument("root", "where relative paths start (default: here)", default=Path())
DATASETS_ROOT = Argument("datasets_root", "folder of local copies of the hub's data sets", default=None)
GPUS = Argument("gpus", "GPUs to run on; vLLM spreads the model over several", int, default=0)
BACKBONE = Argument("backbone", "manifest.json of the backbone's checkpoint (prepare-backbone)")
TEXTS = Argument("texts", "{language}.jsonl of each language (pair-data)", many=True)
STATES = Argument("states", "{language}.safetensors of each language (extract-hidden-states)", many=True)
CORPORA = Argument("corpora", "folder of {corpus}/{language}.jsonl (pair-data)")
ITEMS = Argument("items", "folder of {benchmark}/{language}.jsonl (fetch-items)")
TASKS = Argument("tasks", "folders in which task files are searched", many=True, default=())
CELLS = Argument("cache", "folder of answered cells")
COMPARISONS = Argument("comparisons", "comparisons.csv (collect-scores)")
VERSUS = Argument("versus", "versus.csv (collect-scores)")
CLAIMS = Argument("claims", "claims.csv (collect-scores)")
COSTS = Argument("costs", "cost.json of each training", many=True, default=())

_ALL = (
    Stage(
        "prepare_backbone",
        schema.Preparing,
        ("backbone",),
        ("{backbone}/backbone/manifest.json",),
        (ROOT, Argument("output", "manifest.json to write; the checkpoint's files go beside it")),
    ),
    Stage(
        "pair_data",
        schema.Pairing,
        ("corpus", "language"),
        ("data/{corpus}/{language}.jsonl", "data/{corpus}/{language}.source.json"),
        (ROOT, DATASETS_ROOT, Argument("output", "{language}.jsonl to write; {language}.source.json goes beside it")),
    ),
    Stage(
        "fetch_items",
        schema.Fetching,
        ("benchmark", "language"),
        ("benchmarks/{benchmark}/{language}.jsonl", "benchmarks/{benchmark}/{language}.source.json"),
        (
            Argument("language", "language code", str),
            DATASETS_ROOT,
            Argument("output", "{language}.jsonl to write; {language}.source.json goes beside it"),
        ),
    ),
    Stage(
        "extract_hidden_states",
        schema.Extracting,
        ("backbone", "corpus"),
        ("{backbone}/hidden_states/{corpus}/{language}.safetensors",),
        (
            GPUS,
            BACKBONE,
            TEXTS,
            Argument("outputs", "{language}.safetensors to write, in the order of --texts", many=True),
        ),
    ),
    Stage(
        "fit_subspaces",
        schema.Fitting,
        ("setting",),
        ("{backbone}/{setting}/subspaces.safetensors",),
        (STATES, TEXTS, Argument("output", "subspaces.safetensors to write")),
    ),
    Stage(
        "train",
        schema.Training,
        CHECKPOINT,
        tuple(
            f"{RUN}/{name}"
            for name in (
                *("delta.safetensors", "config.json", "history.jsonl", "dev_states.safetensors"),
                *("intervention.safetensors", "cost.json"),
            )
        ),
        (
            GPUS,
            BACKBONE,
            Argument("subspaces", "subspaces.safetensors (fit-subspaces), if the method needs it", default=None),
            Argument("states", f"{STATES.text}, if the method needs them", many=True, default=()),
            TEXTS,
            Argument("output", "delta.safetensors to write; the other files of the training go beside it"),
        ),
    ),
    Stage(
        "answer",
        schema.Answering,
        ("backbone", "part"),
        (f"{RUN}/answers.json",),
        (
            BACKBONE,
            Argument("runs", "folder of each checkpoint, where answers.json is written", many=True),
            CORPORA,
            ITEMS,
            TASKS,
            GPUS,
            Argument("gpu_memory", "share of a GPU's memory for vLLM", float, default=0.9),
            CELLS,
        ),
    ),
    Stage(
        "score",
        schema.Scoring,
        CHECKPOINT,
        (f"{RUN}/scores.json",),
        (
            Argument("answers", "answers.json (answer)"),
            CORPORA,
            ITEMS,
            TASKS,
            CELLS,
            Argument("output", "scores.json to write; samples go beside it"),
        ),
    ),
    Stage(
        "judge",
        schema.Judging,
        CHECKPOINT,
        (f"{RUN}/judged.json",),
        (
            Argument("scores", "scores.json (score), with the samples beside it"),
            Argument("cache", "folder of verdicts so far"),
            Argument("output", "judged.json to write; verdicts go beside it"),
        ),
    ),
    Stage(
        "collect_scores",
        schema.Collecting,
        (),
        tuple(f"{name}.csv" for name in ("scores", "comparisons", "versus", "claims", "sweeps")),
        (
            Argument("scores", "scores.json, and judged.json if there is one, of each checkpoint", many=True),
            Argument("output", "scores.csv to write; the other tables of scores go beside it"),
        ),
    ),
    Stage(
        "resolve_config",
        schema.Presenting,
        (),
        ("config.json",),
        (Argument("output", "config.json to write"),),
        numbers=False,
    ),
    Stage(
        "make_table",
        schema.Presenting,
        (),
        ("tables",),
        (COMPARISONS, VERSUS, CLAIMS, COSTS, Argument("output", "folder for the tables")),
    ),
    Stage(
        "make_figures",
        schema.Presenting,
        (),
        ("figures/{backbone}.{setting}",),
        (
            Argument("backbone", "name of the backbone", str),
            Argument("setting", "name of the setting", str),
            Argument("scores", "scores.csv (collect-scores)"),
            COMPARISONS,
            Argument("sweeps", "sweeps.csv (collect-scores)"),
            Argument("subspaces", "subspaces.safetensors (fit-subspaces), if any", default=None),
            Argument("states", f"{STATES.text}, if any", many=True, default=()),
            Argument("runs", "history.jsonl of each training", many=True, default=()),
            COSTS,
            Argument("output", "folder for the figures"),
        ),
        numbers=False,
    ),
    Stage(
        "report",
        schema.Presenting,
        (),
        ("report.html",),
        (
            Argument("scores", "scores.csv (collect-scores)"),
            COMPARISONS,
            VERSUS,
            CLAIMS,
            COSTS,
            Argument("figures", "folders of figures (make-figures)", many=True, default=()),
            Argument("timings", "tables of the scripts in performance/, as .md", many=True, default=()),
            Argument("results", "folder with every checkpoint's samples"),
            Argument("output", "report.html to write"),
        ),
        numbers=False,
    ),
)
STAGES: Mapping[str, Stage] = {stage.name: stage for stage in _ALL}
