"""The configuration: frozen classes that reject nonsense before any job starts.

What *exists* (backbones, corpora, settings, methods, benchmarks) are dictionaries, what to *run* is a list, because
Snakemake merges dictionaries deeply and replaces lists. Every default cites where it comes from; `paper` is
arXiv 2410.04407, `code` its published code.
"""

import difflib
import functools
import json
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import core_schema

from lensflow.errors import LensflowError
from lensflow.files import MOST_VALUES, expanded_size, read_yaml

LANGUAGE_PATTERN = r"^[a-z]{2,3}$"
Language = Annotated[str, Field(pattern=LANGUAGE_PATTERN)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
# A name becomes a folder: no separators, no leading dot, nothing that a shell or a file system could misread.
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]*"
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
# A path that cannot lead out of the folder that it starts from.
PATH_BELOW_PATTERN = r"^[\w{}-][\w.{}-]*(/[\w{}-][\w.{}-]*)*$"
TASK_PATTERN = PATH_BELOW_PATTERN.replace("*)*$", "*)+$")  # in a folder at least
URL_PATTERN = r"^https?://[^@?#\s]+$"
PathBelow = Annotated[str, Field(pattern=PATH_BELOW_PATTERN)]
SHA256_PATTERN = r"^[0-9a-f]{64}$"
REVISION_PATTERN = r"^[0-9a-f]{40}$"
# Folders of the results that stand where those of backbones and of settings do.
RESERVED = {
    "backbones": {"benchmarks", "cells", "data", "figures", "tables", "timings", "verdicts"},
    "settings": {"backbone", "hidden_states", "none"},
}
# How a message says what pydantic would say by a regular expression or a Python type.
IN_WORDS = {
    LANGUAGE_PATTERN: "must be an ISO 639 code, such as 'sw' for Swahili",
    f"^{NAME_PATTERN}$": "must be made of a-z, 0-9, '.', '_' and '-'",
    PATH_BELOW_PATTERN: "must be a path below its folder, without '..', '/' in front and blanks",
    TASK_PATTERN: "must be folder/name, without '..', '/' in front and blanks",
    URL_PATTERN: "must be http://... or https://..., and hold no user, key or query (the key is in key_variable)",
    SHA256_PATTERN: "must be 64 hexadecimal digits",
    REVISION_PATTERN: "must be a commit, 40 hexadecimal digits",
    "too_short": "must not be empty",
    "string_type": "must be text (YAML reads no, on and numbers otherwise: quote them)",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the closest known word, and all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word[:100], known, n=1)
    everything = f"known: {', '.join(known) or 'none'}"
    return f"did you mean '{close[0]}'? ({everything})" if close else everything


class Strict(BaseModel):
    """A frozen configuration section that knows its keys and does not convert types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = {field.alias or name for name, field in cls.model_fields.items()} | set(cls.model_fields)
            for key in data:
                if key not in known:
                    shown = {field.alias or name for name, field in cls.model_fields.items()}
                    raise ValueError(f"unknown key '{key}'; {did_you_mean(str(key), shown)}")
        return data

    def canonical(self) -> dict[str, Any]:
        """Return the section as plain JSON values, defaults included."""
        return self.model_dump(mode="json", by_alias=True)


class PackageSource(Strict):
    """Model weights in GGUF form that a Python package carries, perhaps in parts."""

    kind: Literal["package"]
    package: str  # the distribution to install when a part is missing
    parts: tuple[PathBelow, ...] = Field(min_length=1, strict=False)  # paths below site-packages, in order
    sha256: str = Field(pattern=SHA256_PATTERN)  # of the concatenated parts


class HubSource(Strict):
    """A model on the Hugging Face hub, pinned by revision."""

    kind: Literal["hub"]
    name: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern=REVISION_PATTERN)


class FolderSource(Strict):
    """A local folder with config.json, tokenizer.json and safetensors weights."""

    kind: Literal["folder"]
    path: str


class PlainPrompt(Strict):
    """A prompt for a model without a chat template."""

    format: Literal["plain"]
    template: str = "Question: {prompt}\nAnswer:"

    @field_validator("template")
    @classmethod
    def _has_slot(cls, value: str) -> str:
        if value.count("{prompt}") != 1:
            raise ValueError("must contain {prompt} exactly once")
        return value


class ChatPrompt(Strict):
    """A prompt in the tokenizer's own chat template (paper: the backbones are chat models)."""

    format: Literal["chat"]
    system: str | None = None  # null: no system message; code: "" for training, "You are a helpful assistant." to probe


Prompt = Annotated[PlainPrompt | ChatPrompt, Field(discriminator="format")]


class Resources(Strict):
    """What a backbone needs of the machine; never changes a result."""

    disk_gb: Positive | None = None  # of the checkpoint that prepare_backbone writes; checked against the free space
    gpus: Annotated[int, Field(ge=0)] = 0  # that evaluation shares the model's tensors over; other stages take one
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.9  # share of a GPU's memory that vLLM takes
    mem_gb: Positive | None = None  # main memory of a job that loads the model; null: what the demo's models need
    runtime: Count | None = None  # minutes of such a job on a cluster; null: an hour
    threads: Count | None = None  # of evaluation, and of training on all layers; null: all of Snakemake's --cores
    partition: str | None = None  # of SLURM, for such jobs; null: the cluster's own choice


class Backbone(Strict):
    """A model that is untouched so far."""

    source: Annotated[PackageSource | HubSource | FolderSource, Field(discriminator="kind")]
    license: str
    prompt: Prompt
    resources: Resources = Resources()


HUB_NAME_PATTERN = r"^[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?$"


class CorpusDataset(Strict):
    """A data set of the hub, or a local folder that opens like it, as a corpus."""

    path: str = Field(pattern=HUB_NAME_PATTERN)  # on the hub, or below datasets_root
    revision: str | None = Field(default=None, pattern=REVISION_PATTERN)  # null: its newest
    config: str | None = None  # its configuration; not with layout `configs`
    split: str = "train"
    # columns: a column a language; configs: a configuration a language; rows: a column says each row's language
    layout: Literal["columns", "configs", "rows"]
    languages: dict[Language, str] = Field(min_length=1)  # language -> name of its column, configuration or value
    language: str | None = None  # layout rows: the column with the language
    prompt: str = "{prompt}"  # layouts configs and rows: text with {column} for what stands in a column
    answer: str | None = None  # the same for the answer
    id: str | None = None  # column that identifies an item in every language; null: its place
    aligned: bool = True  # whether items of one id are translations of each other; others serve only for probing
    train: Count  # so many items, then so many of dev and of test
    dev: Annotated[int, Field(ge=0)] = 0
    test: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits_its_layout(self) -> Self:
        if (self.layout == "rows") != (self.language is not None):
            raise ValueError("language: the column with the language; it belongs to layout rows, and only there")
        if self.layout == "configs" and self.config is not None:
            raise ValueError("config: with layout configs every language has its own; remove it")
        return self


class Corpus(Strict):
    """Parallel prompts: the embedded ones, `train.jsonl`, `dev.jsonl` and `test.jsonl` in a folder, or a data set."""

    path: str | None = None  # folder, or `embedded`
    dataset: CorpusDataset | None = None
    license: str
    max_tokens: Annotated[int, Field(ge=2)] | None = None  # null: extraction.max_tokens; code: 64 to probe, 128 else

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("needs either path or dataset")
        return self


class Setting(Strict):
    """Which languages are treated together, and on which texts."""

    central: Language
    languages: tuple[Language, ...] = Field(strict=False)
    probing: Name = "embedded"
    training: Name = "embedded"
    space: Literal["post_norm", "pre_norm"] = "post_norm"  # code: the last entry of HF's hidden_states
    rank: Count | None = None  # paper, section 3.1: K-1, which is what null means
    probing_texts: Count | None = None  # the first so many train texts a language fit the subspaces; null: all

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.languages)) < len(self.languages):
            raise ValueError("languages: a language stands there twice; remove it")
        if len(self.languages) < 2:
            raise ValueError("languages: at least two are needed, the central one and a target")
        if self.central not in self.languages:
            raise ValueError(f"central language '{self.central}' is missing from languages; add it")
        if self.rank is not None and self.rank > len(self.languages) - 1:
            raise ValueError(f"rank: {self.rank} is more than the number of languages less one; lower it")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The languages other than the central one, in the order of the configuration."""
        return tuple(language for language in self.languages if language != self.central)


class Method(Strict):
    """What is done to a backbone.

    A kind is a module of `lensflow.methods`, or one of the user's own by its path. It has a subclass of this class,
    called `Config`, whose keys are the method's, and a function `train`, which gets a `lensflow.methods.Run`.
    """

    kind: str
    needs_states: ClassVar[bool] = False  # whether it works on the setting's hidden states and subspaces
    seeded: ClassVar[bool] = True  # whether a run's seed makes a difference
    told_language: ClassVar[bool] = False  # whether it is told the language of a prompt when it is evaluated

    def check(self, extraction: "Extraction", settings: Mapping[str, Setting]) -> None:
        """Check what depends on other sections, for the settings that the method runs in.

        Raises:
            ValueError: with a text that begins with the key of the method that is wrong.
        """

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check the items of the setting's training corpus, dictionaries with `id`, `prompt` and perhaps `answer`.

        Raises:
            ValueError: as `check`.
        """


class _ByKind:
    """Has pydantic validate a method by the class of its kind, of which this module knows none."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        as_plain_values = core_schema.plain_serializer_function_ser_schema(Method.canonical)
        return core_schema.no_info_plain_validator_function(self._validate, serialization=as_plain_values)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        from lensflow import methods

        any_class: Any = functools.reduce(operator.or_, map(methods.config_of, methods.builtin()))
        known: Any = TypeAdapter(Annotated[any_class, Field(discriminator="kind")])
        of_a_module = {"type": "object", "properties": {"kind": {"pattern": r"\."}}, "required": ["kind"]}
        return {"anyOf": [handler(known.core_schema), of_a_module]}

    @staticmethod
    def _validate(value: Any) -> Method:
        from lensflow import methods

        if isinstance(value, Method):
            return value
        kind = _OfKind.model_validate(value).kind
        if "." not in kind and kind not in methods.builtin():
            raise ValueError(f"no kind '{kind}'; {did_you_mean(kind, methods.builtin())}")
        return methods.config_of(kind).model_validate(value)


class _OfKind(BaseModel):
    """The one key that all methods have."""

    model_config = ConfigDict(strict=True)
    kind: str

    @field_validator("kind")
    @classmethod
    def _is_usable(cls, value: str) -> str:
        from lensflow import methods

        if "." in value:
            try:
                methods.config_of(value)
            except LensflowError as error:
                raise ValueError(str(error)) from None
        return value


AnyMethod = Annotated[Method, _ByKind()]


class Pushing(Method):
    """What methods have in common that push states of the target languages along directions (paper, section 3.2)."""

    needs_states: ClassVar[bool] = True

    strength: NonNegative | dict[Language, NonNegative] = Field(default=1.0, alias="lambda")  # λ, or λ a language
    lambda_unit: Literal["absolute", "state_norm"] = "absolute"  # absolute: λδ (paper); state_norm: λ‖h‖ δ/‖δ‖

    def strength_of(self, language: str) -> float:
        """λ of one target language."""
        return self.strength[language] if isinstance(self.strength, dict) else self.strength

    def check(self, extraction: "Extraction", settings: Mapping[str, Setting]) -> None:
        """Check that every target has a λ."""
        for name, setting in settings.items():
            if isinstance(self.strength, dict) and (missing := set(setting.targets) - set(self.strength)):
                raise ValueError(f"lambda: no value for {sorted(missing)[0]} of setting {name}")


class Lora(Strict):
    """Low-rank adapters of every linear layer but the output layer, merged into the weights at the end (peft)."""

    rank: Count = 8  # peft
    alpha: Positive = 16.0  # Alpaca-LoRA
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05  # Alpaca-LoRA


class FineTuning(Method):
    """What methods have in common that train the whole network on texts; HF's Trainer does the training.

    `alpaca` is Stanford Alpaca, whose values the published code of QAlign (Zhu et al., 2024) has, too.
    """

    examples: Count | None = None  # a language, the first ones of the train split; null: all
    max_tokens: Annotated[int, Field(ge=2)] = 512  # of an example, of which the end is cut off; alpaca
    lora: Lora | None = Lora()  # null: all weights train
    lr: Positive = 2e-4  # of adapters: QLoRA (Dettmers et al., 2023); for all weights: 2e-5 (alpaca)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # alpaca
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03  # share of the steps; alpaca
    weight_decay: NonNegative = 0.0  # alpaca; HF's Trainer
    max_grad_norm: Positive = 1.0  # HF's Trainer
    epochs: Count = 3  # alpaca; HF's Trainer
    batch_size: Count = 8  # examples; HF's Trainer
    precision: Literal["float32", "bfloat16"] = "float32"  # of the computation; the weights are float32 either way

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check that there are as many examples as asked for."""
        if self.examples is not None and self.examples > len(items):
            raise ValueError(
                f"examples: {self.examples} is more than the {len(items)} items to train on in corpus "
                f"'{setting.training}'; lower it"
            )


class Dataset(Strict):
    """Where a benchmark's items come from: a data set of the hub, a local folder that opens like it, or a generator."""

    path: str = Field(pattern=HUB_NAME_PATTERN)  # on the hub, or below datasets_root
    # Commit of the hub's data set; null: its newest, which is then written down beside the items.
    revision: str | None = Field(default=None, pattern=REVISION_PATTERN)
    split: str = "test"
    fewshot_split: str | None = None  # where lm-eval takes examples from; null: there are none, or overrides holds them
    columns: tuple[str, ...] = Field(min_length=1, strict=False)  # that every item must have
    id: str | None = None  # column that identifies an item; null: its place


class LanguageEntry(Strict):
    """What is particular to one language of a data set."""

    config: str  # name of the data set's configuration
    dataset: Dataset | None = None  # another data set with the same columns, such as an English original
    task: str | None = Field(default=None, pattern=TASK_PATTERN)
    variables: dict[str, Any] = {}
    overrides: dict[str, Any] = {}


class FromDataset(Strict):
    """A benchmark whose items come from a data set, with a configuration a language."""

    dataset: Dataset
    # language -> the data set's name for it (ja: jp), or what else is particular to it
    languages: dict[Language, LanguageEntry] = Field(min_length=1)

    @field_validator("languages", mode="before", json_schema_input_type=dict[Language, str | LanguageEntry])
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: {"config": entry} if isinstance(entry, str) else entry for key, entry in value.items()}
        return value


class Decoding(Strict):
    """How answers are generated."""

    max_new_tokens: Count = 32
    stop: tuple[str, ...] = Field(default=(), strict=False)
    temperature: NonNegative = 0.0  # 0: greedy
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0  # of sampling


class Generation(Decoding):
    """Answers to held-out prompts of a corpus, judged by language, repetition, copying and emptiness."""

    kind: Literal["generation"]
    corpus: Name = "embedded"
    split: Literal["dev", "test"] = "test"


class DatasetGeneration(FromDataset, Decoding):
    """The same with the prompts of a data set (Language Confusion Benchmark: Marchisio et al., 2024)."""

    kind: Literal["dataset_generation"]
    prompt: str = "prompt"  # column


class Likelihood(Strict):
    """Negative log-likelihood of held-out prompts and next-token probability of the target script."""

    kind: Literal["likelihood"]
    corpus: Name = "embedded"
    split: Literal["dev", "test"] = "test"


class Task(FromDataset):
    """A task of lm-eval, or a task file of one's own in its format."""

    kind: Literal["lm_eval"]
    # folder/name, the folder below the project's or below lm-eval's own tasks; {code} is the language's configuration
    task: str = Field(pattern=TASK_PATTERN)
    functions: bool = False  # whether a task file of one's own may name Python functions, which then run
    chat: bool = False  # in the backbone's prompt format; False: the task's text as it is, as lm-eval does
    variables: dict[str, Any] = {}  # constants that the task file's templates can name
    overrides: dict[str, Any] = {}  # keys of the task file with other values, such as num_fewshot
    metrics: dict[Name, str] = {"accuracy": "acc"}  # name in the tables -> lm-eval's "metric" or "metric,filter"


class Judge(Strict):
    """An OpenAI-compatible endpoint that rates answers."""

    model: str
    base_url: str = Field(default="https://api.openai.com/v1", pattern=URL_PATTERN)
    key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the key; unset: none is sent
    temperature: NonNegative = 0.0  # Zheng et al. (2023)
    max_tokens: Count = 2048  # of a verdict; the same
    timeout: Positive = 120.0  # seconds a request
    retries: Annotated[int, Field(ge=0)] = 4
    requests_per_minute: Positive | None = None  # null: no limit
    parallel: Count = 4  # requests at a time


class MtBench(FromDataset, Decoding):
    """Two-turn questions whose answers a judge rates from 1 to 10 (MT-Bench: Zheng et al., 2023)."""

    kind: Literal["mt_bench"]
    judge: Judge
    # Sampling temperature of some categories, `temperature` else; Zheng et al.'s own.
    temperatures: dict[str, NonNegative] = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}

    def decoding(self, category: str) -> Decoding:
        """How answers to questions of a category are generated."""
        settings = {name: getattr(self, name) for name in Decoding.model_fields}
        return Decoding(**settings | {"temperature": self.temperatures.get(category, self.temperature)})


Benchmark = Annotated[
    Generation | DatasetGeneration | Likelihood | Task | MtBench,
    Field(discriminator="kind"),
]


# What stands for a text: the state of its last token (paper) or the mean over its tokens.
Pooling = Literal["last", "mean"]


# Of transformers. That of flash-attn lacks masks for texts packed into one sequence; sdpa takes such kernels itself.
Attention = Literal["sdpa", "eager"]


class Extraction(Strict):
    """How texts are turned into hidden states, the same for every setting."""

    max_tokens: Annotated[int, Field(ge=2)] = 128  # code: 64 for probing, 128 for training
    truncation_side: Literal["left", "right"] = "left"  # left keeps the end of the prompt; code: right
    pooling: Pooling = "last"
    # Token states entering the last so many layers are cached for training; 0 for none.
    trainable_layers: Annotated[int, Field(ge=0)] = 2
    batch_tokens: Count = 512  # padded tokens a forward pass; does not change results beyond rounding
    # resident holds the whole backbone; stream one layer, read from its shards; both give the same bits
    memory: Literal["resident", "stream"] = "resident"
    dtype: Literal["float32", "bfloat16"] | None = None  # that the layers run in; null: the checkpoint's own
    attention: Attention = "sdpa"  # of extraction, and of training on its states


class Evaluation(Strict):
    """How checkpoints are evaluated."""

    engine: Literal["auto", "vllm", "hf"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Attention = "sdpa"  # of transformers; vLLM chooses its own
    limit: Count | None = None  # items a cell; null: all
    max_model_len: Count = 4096  # tokens of a prompt and its answer


class Axis(Strict):
    """A key and its values."""

    key: str = Field(pattern=r"^(setting\.)?[a-z_]+(\.[a-z_]+)?$")  # of the method, or, with `setting.`, of the setting
    values: tuple[str | int | float | None, ...] = Field(min_length=1, strict=False)


class Sweep(Axis):
    """One key of a method or a setting at several values, each of which is a run of its own."""

    method: Name  # that the key belongs to, or that runs in the changed settings
    by: Axis | None = None  # a second key: all of its values with all of the first one's


class Run(Strict):
    """A block of experiments: every combination of what it lists."""

    backbones: tuple[Name, ...] = Field(min_length=1, strict=False)
    settings: tuple[Name, ...] = Field(min_length=1, strict=False)
    methods: tuple[Name, ...] = Field(min_length=1, strict=False)
    # benchmark -> its languages; null for those of the setting, which is what a plain name in a list means
    benchmarks: dict[Name, Annotated[tuple[Language, ...], Field(strict=False, min_length=1)] | None] = Field(
        min_length=1
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1, strict=False)
    sweeps: tuple[Name, ...] = Field(default=(), strict=False)

    @field_validator("benchmarks", mode="before", json_schema_input_type=list[Name | dict[Name, list[Language] | None]])
    @classmethod
    def _named(cls, value: Any) -> Any:
        """`[generation, xcopa: [zh, sw]]` -> `{generation: null, xcopa: (zh, sw)}`."""
        if not isinstance(value, (list, tuple)):
            return value
        named: dict[str, Any] = {}
        for entry in value:
            if not isinstance(entry, (str, Mapping)):
                raise ValueError("must hold names, or name: [languages]")
            for name, languages in (entry if isinstance(entry, Mapping) else {entry: None}).items():
                if name in named:
                    raise ValueError(f"'{name}' stands there twice; remove one")
                named[name] = languages
        return named


class Config(Strict):
    """The whole configuration, as `config/catalog/*.yaml` and one of `config/*.yaml` give it."""

    title: str
    backbones: dict[Name, Backbone]
    corpora: dict[Name, Corpus]
    settings: dict[Name, Setting]
    methods: dict[Name, AnyMethod]
    benchmarks: dict[Name, Benchmark]
    datasets_root: str | None = None  # folder of local copies of the hub's data sets; or LENSFLOW_DATASETS_ROOT
    # By how much a metric may get worse in the central language and still count as kept (test of non-inferiority).
    retention_margins: dict[str, Positive] = {"fidelity": 0.05, "accuracy": 0.05, "nll": 0.05, "rating": 0.5}
    versus: Name | None = None  # a method that all others are compared with directly, as they are with base
    extraction: Extraction = Extraction()
    evaluation: Evaluation = Evaluation()
    sweeps: dict[Name, Sweep] = {}
    runs: tuple[Run, ...] = Field(min_length=1, strict=False)

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
            for name in run.settings:
                self._check_setting(name)
            for name in run.benchmarks:
                benchmark = self.benchmarks[name]
                if isinstance(benchmark, (Generation, Likelihood)) and benchmark.corpus not in self.corpora:
                    hint = did_you_mean(benchmark.corpus, self.corpora)
                    raise ValueError(f"benchmarks.{name}.corpus: no '{benchmark.corpus}'; {hint}")
            for name in run.methods:
                self._check_method(name, run.settings)
            for name in run.sweeps:
                if (method := self.sweeps[name].method) not in self.methods:
                    raise ValueError(f"sweeps.{name}.method: no '{method}'; {did_you_mean(method, self.methods)}")
        if self.versus is not None and self.versus not in (used := {name for run in self.runs for name in run.methods}):
            raise ValueError(f"versus: no run has the method '{self.versus}'; {did_you_mean(self.versus, used)}")
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


def parse(section: Any, data: Any, where: str = "config") -> Any:
    """Validate `data` against a section of the configuration.

    Args:
        section: its class, or a union of classes such as `Prompt`.
        data: plain values, as YAML or JSON gives them.
        where: what to call the data in a message.

    Raises:
        LensflowError: one line that names the key and says what is wrong with it.
    """
    try:
        return TypeAdapter(section).validate_python(data)
    except ValidationError as error:
        raise LensflowError(f"{where}: {_first_line(error, data)}") from None


def _first_line(error: ValidationError, data: Any) -> str:
    details = error.errors()
    # An unknown key is the likeliest cause of everything else. The errors of a union's other branches, and of a section
    # that lacks a key, hold a whole section: one that holds a plain value comes before them.
    detail = next((d for d in details if "unknown key" in d["msg"]), None) or next(
        (d for d in details if not isinstance(d["input"], (dict, list))), details[0]
    )
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    key = _key(detail["loc"], data)
    if kind == "missing":
        message = "is missing; add it"
    elif kind == "union_tag_not_found":
        message = f"key {context['discriminator']} is missing; add it"
    elif kind == "union_tag_invalid":
        name, expected = context["discriminator"].strip("'"), context["expected_tags"].replace("'", "").split(", ")
        message = f"no {name} '{context['tag']}'; {did_you_mean(context['tag'], expected)}"
    elif kind in ("float_type", "int_type") and isinstance(value, str):
        message = f"must be a number, '{value}' is text"
        if _is_number(value):
            message += " (YAML reads 1e-5 as text; write 1.0e-5, and no quotes)"
    elif kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
    else:
        said = re.sub(r"^\w+ should", "must", detail["msg"])
        message = IN_WORDS.get(context.get("pattern", kind), said)
        if not isinstance(value, (dict, list)):
            message += f", not {value!r}"
    return f"{key}: {message}" if key else message


def _key(location: tuple[int | str, ...], data: Any) -> str:
    """Write a location as the user sees it: without pydantic's names for the branches of unions."""
    key, here, tagged = "", data, False
    for position, part in enumerate(location):
        if isinstance(here, list) and isinstance(part, int):
            key, here, tagged = f"{key}[{part}]", here[part], False
        elif isinstance(here, Mapping):
            if not tagged and part in (here.get("kind"), here.get("format")):
                tagged = True  # the tag comes once; a key may have the same name
            elif part in here or (position == len(location) - 1 and part != "[key]"):
                key, here, tagged = f"{key}.{part}" if key else str(part), here.get(part), False
    return key


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def load(data: Mapping[str, Any]) -> Config:
    """Validate the merged configuration of a workflow.

    Raises:
        LensflowError: one line that names the key and says what is wrong with it.
    """
    try:
        # Snakemake has read the files itself, whose anchors may stand for more than any memory holds.
        if expanded_size(data, _children) > MOST_VALUES:
            raise LensflowError(f"config: its anchors stand for more than {MOST_VALUES} values; write fewer")
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
    """Read a configuration: dictionaries are merged deeply, lists replaced.

    Args:
        files: YAML files on top of the catalog and the demo.
        root: folder that holds `config/`.
        more: on top of the files.

    Raises:
        LensflowError: a file is missing or not valid; names the key.
    """
    from snakemake.utils import update_config  # takes half a second

    merged: dict[str, Any] = {}
    paths = [*sorted((root / "config/catalog").glob("*.yaml")), root / "config/demo.yaml", *files]
    contents = [(str(path), read_yaml(path)) for path in paths]
    for where, content in [*contents, ("config", dict(more or {}))]:
        if not isinstance(content, dict):
            raise LensflowError(f"{where}: must be a mapping of keys, such as runs, to values")
        try:
            update_config(merged, content)
        except (AttributeError, TypeError):  # Snakemake puts the mapping into whatever stands there
            raise LensflowError(f"{where}: a mapping stands where config/ has a list or a value; mend it") from None
    return load(merged)


def resolve(path: str, root: Path) -> Path:
    """Return a path of the configuration, relative ones below `root`."""
    return root / Path(path).expanduser()
