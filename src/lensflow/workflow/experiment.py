"""The whole configuration of a run: what exists, what to run, and how configuration files are merged.

What *exists* (backbones, corpora, settings, methods, benchmarks) is in dictionaries, and what to *run* is in a list,
because Snakemake merges dictionaries deeply and replaces lists.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lensflow.artifacts.layout import RESERVED
from lensflow.benchmarks.registry import AnyBenchmark
from lensflow.errors import LensflowError
from lensflow.measures.catalogue import METRICS
from lensflow.methods.registry import AnyMethod
from lensflow.schema.backbone import Backbone
from lensflow.schema.corpus import Corpus
from lensflow.schema.evaluation import Evaluation
from lensflow.schema.extraction import Extraction
from lensflow.schema.messages import did_you_mean
from lensflow.schema.parsing import parse
from lensflow.schema.reported import Reported
from lensflow.schema.setting import Setting
from lensflow.schema.strict import Strict
from lensflow.schema.types import SWEPT_KEY_PATTERN, Language, Name, Positive, Seed
from lensflow.storage.parsing import MOST_VALUES, expanded_size, read_yaml
from lensflow.workflow.tracking import Tracker


class Axis(Strict):
    """A key and its values."""

    key: str = Field(pattern=SWEPT_KEY_PATTERN)
    """Key of the method, such as `lambda`, or with `setting.` before it a key of the setting."""
    values: tuple[str | int | float | None, ...] = Field(min_length=1, strict=False)
    """The values of the key; each one is its own run."""


class Sweep(Axis):
    """One key of a method or a setting with several values; each value is its own run."""

    method: Name
    """The method that the key belongs to, or that runs in the changed settings."""
    by: Axis | None = None
    """A second key. Each of its values is combined with each value of the first key."""


class Run(Strict):
    """A block of experiments: every combination of what it lists."""

    backbones: tuple[Name, ...] = Field(min_length=1, strict=False)
    """Backbones of the catalog or of the file."""
    settings: tuple[Name, ...] = Field(min_length=1, strict=False)
    """Settings of the catalog or of the file."""
    methods: tuple[Name, ...] = Field(min_length=1, strict=False)
    """Methods of the catalog or of the file. `base` is the untouched backbone, with which the others are compared."""
    benchmarks: dict[Name, Annotated[tuple[Language, ...], Field(strict=False, min_length=1)] | None] = Field(
        min_length=1
    )
    """Benchmarks, each in the languages of the setting or in named ones: `[generation, xcopa: [zh, sw]]`."""
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1, strict=False)
    """Seeds of training: they decide the order of batches and the random draws of controls."""
    sweeps: tuple[Name, ...] = Field(default=(), strict=False)
    """Names of sweeps that also run."""

    @field_validator("backbones", "settings", "methods", "seeds", "sweeps")
    @classmethod
    def _once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if twice := [entry for place, entry in enumerate(value) if entry in value[:place]]:
            raise ValueError(f"'{twice[0]}' occurs twice; remove one")
        return value

    @field_validator("benchmarks", mode="before", json_schema_input_type=list[Name | dict[Name, list[Language] | None]])
    @classmethod
    def _named(cls, value: Any) -> Any:
        """`[generation, xcopa: [zh, sw]]` -> `{generation: null, xcopa: (zh, sw)}`."""
        if isinstance(value, str):
            raise ValueError(f"must be a list, not '{value}'; write [{value}]")
        if not isinstance(value, (list, tuple)):
            return value
        named: dict[str, Any] = {}
        for entry in value:
            if not isinstance(entry, (str, Mapping)):
                raise ValueError("must hold names, or name: [languages]")
            for name, languages in (entry if isinstance(entry, Mapping) else {entry: None}).items():
                if name in named:
                    raise ValueError(f"'{name}' occurs twice; remove one")
                named[name] = languages
        return named


class Config(Strict):
    """The whole configuration, as `config/catalog/*.yaml` and one of `config/*.yaml` give it."""

    title: str | None = None
    """Title of the report. Without one, the title names the methods and backbones."""
    backbones: dict[Name, Backbone]
    """Models that exist, by name."""
    corpora: dict[Name, Corpus]
    """Parallel texts that exist, by name."""
    settings: dict[Name, Setting]
    """Groups of languages that are used together, by name."""
    methods: dict[Name, AnyMethod]
    """Methods that exist, by name."""
    benchmarks: dict[Name, AnyBenchmark]
    """Benchmarks that exist, by name."""
    datasets_root: str | None = None
    """Folder of local copies of the hub's data sets. The environment variable LENSFLOW_DATASETS_ROOT does the same."""
    verify: Literal["once", "always"] = "once"
    """Whether a job reads a large file again if an earlier job has already compared the file with its checksum, and
    size, times and inode have not changed since. `lensflow verify` always reads everything."""
    trackers: tuple[Tracker, ...] = Field(default=(), strict=False)
    """Trackers that get training curves and scores: `tensorboard` (in `logs/trackers`), `trackio`, `wandb`, `mlflow`.
    Install the tracker's package first. A tracker changes no result, and adding one does not run any stage again."""
    retention_margins: dict[str, Positive] = {
        "usable": 0.05,
        "fidelity": 0.05,
        "accuracy": 0.05,
        "nll": 0.05,
        "rating": 0.5,
    }
    """Metric -> by how much the metric may get worse in the central language and still count as kept (test of
    non-inferiority)."""
    versus: Name | None = None
    """A method of `runs`. All other methods are also compared with it, in the same way as with base."""
    protocol: str | None = None
    """YAML file with the primary claims of a study (`schema.protocol.Protocol`). Without one, the run makes two
    claims about each method."""
    extraction: Extraction = Extraction()
    """How texts become hidden states."""
    evaluation: Evaluation = Evaluation()
    """How checkpoints are evaluated."""
    sweeps: dict[Name, Sweep] = {}
    """Keys that are run with several values, by name."""
    reported: dict[Name, Reported] = {}
    """Paper -> the numbers that it reports; the tables show them beside ours."""
    runs: tuple[Run, ...] = Field(min_length=1, strict=False)
    """What to run: every combination of what an entry lists."""

    @model_validator(mode="before")
    @classmethod
    def _keys_of_sections(cls, data: Any) -> Any:
        sections: dict[str, type[Strict]] = {"evaluation": Evaluation, "extraction": Extraction, "runs[0]": Run}
        for key in data if isinstance(data, Mapping) else ():
            inside = next((name for name, section in sections.items() if key in section.model_fields), None)
            if inside and key not in cls.model_fields:
                raise ValueError(f"unknown key '{key}'; it belongs in a section: {inside}.{key}")
        return data

    @model_validator(mode="after")
    def _references(self) -> Self:
        for number, run in enumerate(self.runs):
            for key in ("backbones", "settings", "methods", "benchmarks", "sweeps"):
                catalog = getattr(self, key)
                for name in getattr(run, key):
                    if name not in catalog:
                        raise ValueError(f"runs[{number}].{key}: no '{name}'; {did_you_mean(name, catalog)}")
                    if name in RESERVED.get(key, ()):
                        raise ValueError(f"{key}.{name}: the workflow has a folder of this name; choose another")
            for name in run.backbones:
                for corpus in self.backbones[name].prompts:
                    if corpus not in self.corpora:
                        hint = did_you_mean(corpus, self.corpora)
                        raise ValueError(f"backbones.{name}.prompts: no corpus '{corpus}'; {hint}")
            for name in run.settings:
                self._check_setting(name)
            for name in run.benchmarks:
                benchmark = self.benchmarks[name]
                for corpus in benchmark.corpora:
                    if corpus not in self.corpora:
                        hint = did_you_mean(corpus, self.corpora)
                        raise ValueError(f"benchmarks.{name}.corpus: no '{corpus}'; {hint}")
            for name in run.methods:
                self._check_method(name, run.settings)
            for name in run.sweeps:
                if (method := self.sweeps[name].method) not in self.methods:
                    raise ValueError(f"sweeps.{name}.method: no '{method}'; {did_you_mean(method, self.methods)}")
        if self.versus is not None and self.versus not in (used := {name for run in self.runs for name in run.methods}):
            raise ValueError(f"versus: no run has the method '{self.versus}'; {did_you_mean(self.versus, used)}")
        metrics = {*METRICS, *(name for benchmark in self.benchmarks.values() for name in benchmark.own_metrics())}
        for name in self.retention_margins:
            if name not in metrics:
                raise ValueError(f"retention_margins: no metric '{name}'; {did_you_mean(name, metrics)}")
        return self

    @model_validator(mode="after")
    def _reported(self) -> Self:
        for name, paper in self.reported.items():
            for table in paper.tables:
                if table.setting is None:  # compared outside of a run
                    continue
                named: list[tuple[Mapping[str, Any], str, str]] = [(self.settings, "setting", table.setting)]
                named += [(self.benchmarks, "benchmark", column.benchmark) for column in table.columns]
                named += [(METRICS, "metric", column.metric) for column in table.columns]
                named += [(self.backbones, "backbone", row.backbone) for row in table.rows]
                for known, what, asked in named:
                    if asked not in known:
                        hint = did_you_mean(asked, known)
                        raise ValueError(f"reported.{name}: table '{table.table}': no {what} '{asked}'; {hint}")
        return self

    def _check_setting(self, name: str) -> None:
        setting = self.settings[name]
        for key in ("probing", "training"):
            corpus = getattr(setting, key)
            if corpus not in self.corpora:
                raise ValueError(f"settings.{name}.{key}: no corpus '{corpus}'; {did_you_mean(corpus, self.corpora)}")
        source = self.corpora[setting.training].dataset
        if source is not None and not source.aligned:
            raise ValueError(
                f"settings.{name}.training: corpus '{setting.training}' is not parallel; use it for probing"
            )

    def _check_method(self, name: str, settings: Iterable[str]) -> None:
        method = self.methods[name]
        if method.kind == "base" and name != "base":
            raise ValueError(f"methods.{name}: only the method called 'base' may be of kind base")
        if method.kind != "base" and name == "base":
            raise ValueError("methods.base: must be of kind base; give the method another name")
        try:
            method.check(self.extraction, {setting: self.settings[setting] for setting in settings})
        except ValueError as error:
            raise ValueError(f"methods.{name}.{error}") from None


def load(data: Mapping[str, Any]) -> Config:
    """Validate the merged configuration of a workflow.

    Raises:
        LensflowError: one line that names the key and says what is wrong with its value.
    """
    try:
        # Snakemake has read the files itself, whose anchors may stand for more than any memory holds.
        if expanded_size(data, _children) > MOST_VALUES:
            raise LensflowError(f"config: its anchors expand to more than {MOST_VALUES} values; write fewer")
        json.dumps(data, default=str, skipkeys=True, ensure_ascii=False).encode()
    except RecursionError:
        raise LensflowError("config: nested too deeply; write it flatter") from None
    except UnicodeEncodeError as error:
        raise LensflowError(f"config: {error.object[error.start]!r} is half of a character; remove it") from None
    config = parse(Config, data)
    assert isinstance(config, Config)
    return config


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    return value if isinstance(value, list) else ()


def read(files: Iterable[Path], root: Path, more: Mapping[str, Any] | None = None) -> Config:
    """Read a configuration: dictionaries are merged deeply, lists are replaced.

    A configuration without `runs` changes the demo. Any other configuration is merged only with the catalogs.

    Args:
        files: YAML files.
        root: folder that holds `config/`.
        more: values that replace the values of the files.

    Raises:
        LensflowError: a file is missing or not valid; the message names the key.
    """
    from snakemake.utils import update_config  # takes half a second

    merged: dict[str, Any] = {}
    own = [*((str(path), read_yaml(path)) for path in files), ("config", dict(more or {}))]
    below = [path for folder in ("catalog", "reported") for path in sorted((root / "config" / folder).glob("*.yaml"))]
    if not any(isinstance(content, dict) and "runs" in content for _, content in own):
        below.append(root / "config/demo.yaml")
    for where, content in [*((str(path), read_yaml(path)) for path in below), *own]:
        if not isinstance(content, dict):
            raise LensflowError(f"{where}: must be a mapping of keys, such as runs, to values")
        try:
            update_config(merged, content)
        except (AttributeError, TypeError):  # Snakemake puts the mapping into whatever stands there
            raise LensflowError(f"{where}: a mapping stands where config/ has a list or a value; correct it") from None
    return load(merged)
