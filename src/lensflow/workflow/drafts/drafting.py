"""A configuration file for one model and its languages (`lensflow new`, `lensflow run`)."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from lensflow.artifacts.layout import BASE
from lensflow.errors import LensflowError
from lensflow.languages import code_named, english_name
from lensflow.models.engines.registry import FAST, PLAIN
from lensflow.presentation.blocks import LEFT
from lensflow.schema.messages import did_you_mean
from lensflow.schema.parsing import parse
from lensflow.schema.types import Language
from lensflow.storage.environment import usable_cores
from lensflow.workflow import project
from lensflow.workflow.drafts.model import FoundModel, find_model
from lensflow.workflow.drafts.texts import FoundTexts, find_questions, find_texts
from lensflow.workflow.experiment import Config, read

TEMPLATE = "templates/lensflow.yaml.j2"
METHODS, BENCHMARKS = ("lens-gentle", "lens-strong"), ("generation", "likelihood")
MOST_EPOCHS = 20  # of the methods above, which one epoch on few texts does not apply
ITEMS, FEWEST_ITEMS = 100, 10  # per language that are evaluated: the usual number, and the fewest that a budget leaves
# What a processor core computes while it generates, in FLOP/s, and tokens of an answer: they only estimate a budget.
CORE_FLOPS, ANSWER_TOKENS = 2e10, 64
_RESIDENT_SHARE = 0.4  # of main memory, above which a backbone's layers are read one by one


@dataclass(frozen=True)
class Request:
    """The wishes of the user.

    Attributes:
        model: a backbone of the catalog, a folder with a checkpoint, or owner/name on the hub.
        languages: the target languages, BCP 47 tags or English names.
        central: the language that the model knows best, in the same form.
        data: file with parallel texts whose columns are named by language, or a folder with train, dev and test.jsonl.
        questions: file with questions for the evaluation, in columns named by language; None to use held-out texts of
            the data.
        methods: methods of the catalog; base is always included.
        benchmarks: benchmarks of the catalog.
        budget: minutes that answering may take on this machine's processor.
        gpus: number of GPUs that share the model in evaluation.
    """

    model: str
    languages: tuple[str, ...]
    central: str = "en"
    data: Path | None = None
    questions: Path | None = None
    methods: tuple[str, ...] = METHODS
    benchmarks: tuple[str, ...] = BENCHMARKS
    budget: float | None = None
    gpus: int = 0

    @property
    def all_languages(self) -> tuple[str, ...]:
        """The central language, then the targets."""
        return tuple(dict.fromkeys((self.central, *self.languages)))


def draft(request: Request, folder: Path) -> str:
    """Return the text of a configuration file that lies in `folder`.

    Raises:
        LensflowError: the model, a language, the data, a method or a benchmark does not exist; one line.
    """
    known = read([], project.folder())
    request = replace(request, central=code_named(request.central), languages=tuple(map(code_named, request.languages)))
    for language in request.all_languages:
        parse(Language, language, "--languages" if language != request.central else "--central")
    if len(request.all_languages) < 2:
        raise LensflowError("--languages: names only the central language; add another one")
    if request.gpus < 0:
        raise LensflowError(f"--gpus: {request.gpus} is no number of GPUs; give 0 or more")
    for option, catalog in (("methods", known.methods), ("benchmarks", known.benchmarks)):
        for name in getattr(request, option):
            if name not in catalog:
                raise LensflowError(f"--{option}: no '{name}'; {did_you_mean(name, catalog)}")
    model = find_model(request.model, known, folder)
    corpora = _corpora(request, known, folder)
    benchmarks, changed = _benchmarks(request, known, corpora[-1].name)
    limit, why_limit = _limit(request, model, corpora[-1].test)
    dtype, why_dtype = _dtype(request.gpus)
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters["flow"] = flow
    methods = [BASE, *(name for name in request.methods if name != BASE)]
    return environment.from_string((files("lensflow") / TEMPLATE).read_text(encoding="utf-8")).render(
        title=_title(methods, model.name, request),
        model=model,
        corpora=corpora,
        root=next((found.root for found in corpora if found.root), None),
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
        applied={name: {"until": {"residual": LEFT, "epochs": MOST_EPOCHS}} for name in methods if name in METHODS},
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


def _corpora(request: Request, known: Config, folder: Path) -> list[FoundTexts]:
    """Return the corpus for training, and the corpus for evaluation if it is another one."""
    texts = find_texts(request.data, request.all_languages, known, folder, held_out=request.questions is None)
    if request.questions is None:
        return [texts]
    questions = find_questions(request.questions, request.all_languages, known, folder)
    if len({found.root for found in (texts, questions) if found.root}) > 1:
        raise LensflowError("--questions: lies in another folder than --data; put both files into one folder")
    if questions.name == texts.name:
        raise LensflowError("--questions: has the same name as --data; rename one of the files")
    return [texts, questions]


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


def _limit(request: Request, model: FoundModel, most: int) -> tuple[int, str]:
    """Return the number of items per language to evaluate, and the reason."""
    usual = min(ITEMS, most)
    if request.budget is None:
        return usual, f"items per language and method, of {most}; more make the intervals narrower"
    if not 0 < request.budget < math.inf:
        raise LensflowError(f"--budget: {request.budget:g} is no number of minutes; give one above 0")
    if request.gpus:
        raise LensflowError("--budget: cannot be estimated for a GPU; drop it, and set evaluation.limit in the file")
    if model.parameters is None:
        raise LensflowError("--budget: the model's size is not known; drop it, and set evaluation.limit in the file")
    cores = usable_cores()
    seconds = 2 * model.parameters * ANSWER_TOKENS / (CORE_FLOPS * cores)
    cells = (len(request.methods) + 1) * len(request.all_languages)
    items = min(most, max(FEWEST_ITEMS, int(60 * request.budget / (seconds * cells))))
    return items, f"items per language and method, of {most}: about {_minutes(items * cells * seconds)} here"


def _minutes(seconds: float) -> str:
    count = max(1, round(seconds / 60))
    return "a minute" if count == 1 else f"{count} minutes"


def _dtype(gpus: int) -> tuple[str, str]:
    """Return the precision of evaluation, and the reason."""
    if gpus:
        return "bfloat16", "the usual precision on a GPU"
    cpu = Path("/proc/cpuinfo")
    has = cpu.is_file() and re.search(r"\b(avx512_bf16|amx_bf16)\b", cpu.read_text(encoding="utf-8"))
    return ("bfloat16", "this processor has instructions for it") if has else ("float32", "this processor's own")


def _is_streamed(model: FoundModel, gpus: int) -> bool:
    """Whether the whole backbone is too large for main memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return not gpus and model.parameters is not None and 2 * model.parameters > _RESIDENT_SHARE * memory
