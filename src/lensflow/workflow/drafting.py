"""A configuration file for one model and its languages (`lensflow new`, `lensflow run`)."""

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from safetensors import safe_open

from lensflow.artifacts import tables, texts
from lensflow.artifacts.checkpoint import SMALL_FILES, check_checkpoint, weight_paths
from lensflow.artifacts.layout import BASE, RESERVED
from lensflow.artifacts.tokens import chat_template
from lensflow.errors import LensflowError, of_the_hub
from lensflow.languages import base_code, english_name
from lensflow.models.engines.registry import FAST, PLAIN
from lensflow.schema.backbone import Backbone
from lensflow.schema.messages import did_you_mean
from lensflow.schema.parsing import parse
from lensflow.schema.types import HUB_NAME_PATTERN, Language
from lensflow.workflow import project
from lensflow.workflow.experiment import Config, read

TEMPLATE = "templates/lensflow.yaml.j2"
METHODS, BENCHMARKS = ("lens-gentle", "lens-strong"), ("generation", "likelihood")
MOST_TRAIN, MOST_DEV, MOST_TEST = 1000, 50, 200
FEWEST_TEXTS = 10
ITEMS, FEWEST_ITEMS = 100, 10  # per language that are evaluated: the usual number, and the fewest that a budget leaves
BACTRIAN = "bactrian-x"  # corpus of the catalog, whose configurations are these language codes (arXiv 2305.15011)
_OF_BACTRIAN = (
    "af ar az bn cs de en es et fa fi fr gl gu he hi hr id it ja ka kk km ko lt lv mk ml mn mr my ne nl pl ps pt ro ru"
    " si sl sv sw ta te th tl tr uk ur vi xh zh"
)
BACTRIAN_LANGUAGES = frozenset(_OF_BACTRIAN.split())
# What a processor core computes while it generates, in FLOP/s, and tokens of an answer: they only estimate a budget.
CORE_FLOPS, ANSWER_TOKENS = 2e10, 64
_RESIDENT_SHARE = 0.4  # of main memory, above which a backbone's layers are read one by one


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        model: a backbone of the catalog, a folder with a checkpoint, or owner/name on the hub.
        languages: the target languages, BCP 47 tags.
        central: the language that the model is best in.
        data: file with parallel texts, columns named by language, or a folder with train, dev and test.jsonl.
        methods: of the catalog; base is always there.
        benchmarks: of the catalog.
        budget: minutes that answering may take on this machine's processor.
        gpus: that evaluation shares the model over.
    """

    model: str
    languages: tuple[str, ...]
    central: str = "en"
    data: Path | None = None
    methods: tuple[str, ...] = METHODS
    benchmarks: tuple[str, ...] = BENCHMARKS
    budget: float | None = None
    gpus: int = 0

    @property
    def all_languages(self) -> tuple[str, ...]:
        """The central language, then the targets."""
        return (self.central, *(language for language in self.languages if language != self.central))


@dataclass(frozen=True)
class _Model:
    """A backbone, with its entry unless the catalog has it; `why` comments on keys of the entry."""

    name: str
    parameters: float | None
    entry: Mapping[str, Any] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Texts:
    """A corpus with its number of test items, its entry unless the catalog's is enough, and what it is."""

    name: str
    test: int
    about: str
    entry: Mapping[str, Any] = field(default_factory=dict)
    root: str | None = None


def draft(request: Request, folder: Path) -> str:
    """Return the text of a configuration file that lies in `folder`.

    Raises:
        LensflowError: the model, a language, the data, a method or a benchmark is not there; one line.
    """
    known = read([], project.folder())
    for language in request.all_languages:
        parse(Language, language, "--languages" if language != request.central else "--central")
    if len(request.all_languages) < 2:
        raise LensflowError("--languages: names the central language alone; add a target language, such as sw")
    for option, catalog in (("methods", known.methods), ("benchmarks", known.benchmarks)):
        for name in getattr(request, option):
            if name not in catalog:
                raise LensflowError(f"--{option}: no '{name}'; {did_you_mean(name, catalog)}")
    model = _model(request.model, known, folder)
    corpus = _corpus(request, known, folder)
    benchmarks, changed = _benchmarks(request, known, corpus.name)
    limit, why_limit = _limit(request, model, corpus.test)
    dtype, why_dtype = _dtype(request.gpus)
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters["flow"] = flow
    methods = [BASE, *(name for name in request.methods if name != BASE)]
    return environment.from_string((files("lensflow") / TEMPLATE).read_text(encoding="utf-8")).render(
        title=_title(methods, model.name, request),
        model=model,
        corpus=corpus,
        setting="-".join(request.all_languages).lower(),
        central=request.central,
        languages=request.all_languages,
        names=[english_name(language) for language in request.all_languages],
        engine="auto" if find_spec(FAST) else PLAIN,
        fast=bool(find_spec(FAST)),
        dtype=dtype,
        why_dtype=why_dtype,
        limit=limit,
        why_limit=why_limit,
        streamed=_is_streamed(model, request.gpus),
        resources={"gpus": request.gpus} if request.gpus else {},
        methods=methods,
        benchmarks=benchmarks,
        changed=changed,
    )


def flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def _title(methods: Sequence[str], name: str, request: Request) -> str:
    targets = ", ".join(english_name(language) for language in request.all_languages[1:])
    return f"{', '.join(methods[1:])} on {name}: {targets}"


def _slug(name: str, taken: Mapping[str, Any]) -> str:
    """Return a name that the configuration accepts and the catalog does not have yet."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"
    return f"my-{slug}" if slug in taken or slug in RESERVED["backbones"] else slug


def relative(path: Path, folder: Path) -> str:
    """Return a path as the configuration in `folder` names it: relative if it is below, else absolute."""
    full, root = path.expanduser().resolve(), folder.resolve()
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else full.as_posix()


def backbone(name: str, where: str) -> tuple[str, Backbone]:
    """Return the name and the entry of a model; its paths start from here.

    Args:
        name: a backbone of the catalog, a folder with a checkpoint, or owner/name on the hub.
        where: what a message begins with.

    Raises:
        LensflowError: there is no such model.
    """
    known = read([], project.folder())
    model = _model(name, known, Path(), where)
    entry = known.backbones[model.name] if not model.entry else parse(Backbone, dict(model.entry), where)
    assert isinstance(entry, Backbone)
    return model.name, entry


def _model(name: str, known: Config, folder: Path, where: str = "--model") -> _Model:
    path = Path(name).expanduser()
    if name in known.backbones:
        entry = known.backbones[name]
        size = {"package": 4, "hub": 2}.get(entry.source.kind)  # bytes per number of what prepare_backbone writes
        disk = entry.resources.disk_gb
        return _Model(name, disk * 1e9 / size if disk and size else None)
    if path.is_dir():
        check_checkpoint(path, f"{where}: ")
        source = {"kind": "folder", "path": relative(path, folder)}
        return _described(_slug(path.resolve().name, known.backbones), source, path, _license(path), _count(path))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.is_absolute():
        return _of_the_hub(name, known, where)
    raise LensflowError(
        f"{where}: '{name}' is neither a folder nor owner/name on the hub; {did_you_mean(name, known.backbones)}"
    )


def _of_the_hub(name: str, known: Config, where: str) -> _Model:
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(name)
        folder = Path(snapshot_download(name, revision=info.sha, allow_patterns=list(SMALL_FILES)))
    except Exception as error:  # networks fail in types of several libraries
        raise LensflowError(
            f"{where}: '{name}' is no folder here, and the hub does not give it ({of_the_hub(error)[:200]}); "
            "correct the name, set HF_TOKEN if it is gated, or check the network"
        ) from None
    source = {"kind": "hub", "name": name, "revision": info.sha}
    license_ = str((info.card_data and info.card_data.get("license")) or "unknown")
    parameters = float(info.safetensors.total) if info.safetensors else None
    model = _described(_slug(name.split("/")[1], known.backbones), source, folder, license_, parameters)
    return _Model(model.name, parameters, model.entry, {**model.why, "source": "the hub's newest on " + _today()})


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _described(slug: str, source: Mapping[str, Any], folder: Path, license_: str, parameters: float | None) -> _Model:
    """Return the entry of a checkpoint whose small files are in `folder`."""
    why = {"license": "its model card does not say; write it" if license_ == "unknown" else "as its model card says"}
    prompt: dict[str, Any]
    try:
        template = chat_template(folder)
    except LensflowError:
        prompt, why["prompt"] = {"format": "plain"}, 'no chat template: "Question: {prompt}\\nAnswer:"'
    else:
        prompt, why["prompt"] = {"format": "chat"}, "the tokenizer's own chat template"
        if "enable_thinking" in template:
            prompt["template_variables"] = {"enable_thinking": False}
            why["prompt"] += ", without thinking first"
    entry = {"source": source, "license": license_, "prompt": prompt}
    return _Model(slug, parameters, entry, why)


def _license(folder: Path) -> str:
    """Return the licence that a checkpoint's model card names, or "unknown"."""
    from huggingface_hub import ModelCard

    try:
        found = ModelCard.load(folder / "README.md").data
    except (OSError, ValueError, yaml.YAMLError):
        return "unknown"
    name = found.get("license")
    return str((found.get("license_name") if name == "other" else name) or "unknown")


def _count(folder: Path) -> float:
    """Return the number of parameters of a checkpoint, from the headers of its weights."""
    count = 0
    for path in weight_paths(folder):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= length
                count += size
    return float(count)


def _corpus(request: Request, known: Config, folder: Path) -> _Texts:
    languages = request.all_languages
    if request.data is None:
        return _of_the_catalog(languages, known)
    entry: dict[str, Any] = {"license": "unknown"}
    if request.data.is_dir():
        content = texts.read_corpus(request.data)
        _check_has(languages, texts.languages_of(content), f"--data: {request.data}", request.central)
        entry |= {"path": relative(request.data, folder)}
        return _Texts(_slug(request.data.resolve().name, known.corpora), len(content["test"]), "your texts", entry)
    name, dataset, root, rows = table(request.data, languages, request.central, folder, "--data")
    about = f"{rows} rows; the first {dataset['train']} train, the next {dataset['dev']} watch training, the next "
    about += f"{dataset['test']} test"
    entry |= {"dataset": dataset}
    return _Texts(_slug(name, known.corpora), dataset["test"], about, entry, root)


def table(
    path: Path, languages: Sequence[str], central: str, folder: Path, where: str = ""
) -> tuple[str, dict[str, Any], str | None, int]:
    """Return how a file with a column per language is read as a corpus.

    Args:
        path: the file.
        languages: the languages that are wanted.
        central: one of them.
        folder: where relative paths of the configuration start.
        where: what a message begins with, before the path; empty for nothing.

    Returns:
        A name, the corpus's `dataset`, the `datasets_root` that it needs if the file is not below `folder`, and the
        number of rows.

    Raises:
        LensflowError: the file cannot be read, is too short or lacks a language.
    """
    here = f"{where}: {path}" if where else str(path)
    rows = [_flat(row) for row in tables.read_rows(path, where=where)]
    if len(rows) < FEWEST_TEXTS:
        raise LensflowError(f"{here}: {len(rows)} rows; at least {FEWEST_TEXTS} are needed to train and to test")
    columns = {language: _column(list(rows[0]), language) for language in languages}
    found = {language: column for language, column in columns.items() if column is not None}
    _check_has(languages, found, here, central, list(rows[0]))
    place = relative(path, folder)
    root = None if place != path.resolve().as_posix() else path.resolve().parent.as_posix()
    name = path.name if root else place
    if not re.fullmatch(HUB_NAME_PATTERN, name):
        raise LensflowError(f"{here}: the name may have letters, digits, '.', '_' and '-' alone; rename the file")
    test, dev = (min(most, max(1, round(share * len(rows)))) for most, share in ((MOST_TEST, 0.2), (MOST_DEV, 0.1)))
    train = min(MOST_TRAIN, len(rows) - dev - test)
    dataset = {"path": name, "layout": "columns", "languages": found, "train": train, "dev": dev, "test": test}
    return path.name.split(".")[0], dataset, root, len(rows)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row, those inside another one by their path: `{"a": {"en": 1}}` -> `{"a.en": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= {f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _column(columns: Sequence[str], language: str) -> str | None:
    """Return the column of a language, which is called by its code or English name: `hi`, `Hindi`, `hin_Deva`."""
    names = {column: column.rsplit(".", 1)[-1].strip().lower().replace("_", "-") for column in columns}
    exact = [column for column, name in names.items() if name in (language.lower(), english_name(language).lower())]
    return next(iter(exact or (column for column, name in names.items() if _is_code_of(name, language))), None)


def _is_code_of(name: str, language: str) -> bool:
    try:
        return base_code(name) == language
    except LensflowError:
        return False


def _check_has(wanted: Sequence[str], has: Any, where: str, central: str, columns: Sequence[str] | None = None) -> None:
    """Check that data has every language."""
    for language in wanted:
        if language not in has:
            what = f"column for {language} ({english_name(language)})" if columns is not None else f"'{language}'"
            remedy = f"add one called '{language}'" if columns is not None else "add its texts"
            if language == central:
                remedy += ", since targets are compared with the central language, or name another one by --central"
            raise LensflowError(f"{where}: no {what}; it has {', '.join(columns or has)}; {remedy}")


def _of_the_catalog(languages: Sequence[str], known: Config) -> _Texts:
    """Return the embedded corpus, or if it lacks a language the hub's."""
    embedded = texts.read_corpus(texts.folder("embedded", Path()))
    if set(languages) <= set(texts.languages_of(embedded)):
        return _Texts("embedded", len(embedded["test"]), "comes with Lensflow")
    if missing := [language for language in languages if language not in BACTRIAN_LANGUAGES]:
        raise LensflowError(
            f"--languages: Lensflow knows no parallel texts in '{missing[0]}' ({english_name(missing[0])}); give some "
            "by --data FILE, a CSV or JSONL file with a column per language"
        )
    dataset = known.corpora[BACTRIAN].dataset
    assert dataset is not None
    more = {language: language for language in languages if language not in dataset.languages}
    changed = {"test": ITEMS} | ({"languages": more} if more else {})
    return _Texts(BACTRIAN, ITEMS, "of the hub (CC BY-NC 4.0)", {"dataset": changed})


def _benchmarks(request: Request, known: Config, corpus: str) -> tuple[list[Any], dict[str, Any]]:
    """Return what the run lists, and the benchmarks that get another corpus than in the catalog."""
    listed: list[Any] = []
    changed = {}
    for name in request.benchmarks:
        benchmark = known.benchmarks[name]
        if benchmark.corpora and benchmark.corpora != (corpus,):
            changed[name] = {"corpus": corpus}
        languages = [request.central] if benchmark.kind == "drift" else list(request.all_languages)
        if (sources := benchmark.sources()) is not None:
            languages = [language for language in languages if language in sources]
            if not languages:
                raise LensflowError(f"--benchmarks: {name} has none of your languages; it has {', '.join(sources)}")
        listed.append(name if languages == list(request.all_languages) else {name: languages})
    return listed, changed


def _limit(request: Request, model: _Model, most: int) -> tuple[int, str]:
    """Return how many items per language are evaluated, and why."""
    usual = min(ITEMS, most)
    if request.budget is None:
        return usual, f"items per language and method, of {most}; more make the intervals narrower"
    if request.gpus:
        raise LensflowError("--budget: cannot be estimated for a GPU; drop it, and set evaluation.limit in the file")
    if model.parameters is None:
        raise LensflowError("--budget: the model's size is not known; drop it, and set evaluation.limit in the file")
    cores = len(os.sched_getaffinity(0))
    seconds = 2 * model.parameters * ANSWER_TOKENS / (CORE_FLOPS * cores)
    cells = (len(request.methods) + 1) * len(request.all_languages)
    items = max(FEWEST_ITEMS, min(most, int(60 * request.budget / (seconds * cells))))
    return items, f"items per language and method, of {most}: about {items * cells * seconds / 60:.0f} minutes here"


def _dtype(gpus: int) -> tuple[str, str]:
    """Return the precision that evaluation runs in, and why."""
    if gpus:
        return "bfloat16", "the usual precision on a GPU"
    cpu = Path("/proc/cpuinfo")
    has = cpu.is_file() and re.search(r"\b(avx512_bf16|amx_bf16)\b", cpu.read_text(encoding="utf-8"))
    return ("bfloat16", "this processor has instructions for it") if has else ("float32", "this processor's own")


def _is_streamed(model: _Model, gpus: int) -> bool:
    """Whether a backbone is too large for main memory as a whole."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return not gpus and model.parameters is not None and 2 * model.parameters > _RESIDENT_SHARE * memory
