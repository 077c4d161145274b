"""The checks of `lensflow check` on local data: files, and local copies of the hub's data sets.

The same functions read the data in the stages `pair_data` and `fetch_items`; nothing is written. Data sets of the hub
are not fetched here: these stages run first and check them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from lensflow.artifacts.hub import local_copy
from lensflow.artifacts.items import folded, identity, text_at
from lensflow.artifacts.tables import is_table
from lensflow.artifacts.texts import EMBEDDED, check_translated, folder, read_corpus
from lensflow.benchmarks.base import FromDataset, Items
from lensflow.errors import LensflowError
from lensflow.languages import UNKNOWN, base_code, reads_as, scripts_in
from lensflow.schema.corpus import CorpusDataset
from lensflow.schema.dataset import Dataset
from lensflow.stages.fetch_items import fetched
from lensflow.stages.pair_data import joined, rows_of
from lensflow.workflow.plan import Plan

_LOST = ("\0", "\ufffd")  # what programs write in the place of a character that they cannot read
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Data:
    """The data of a plan that is on this machine.

    Attributes:
        texts: corpus -> language -> rows of `id`, `split`, `prompt` and optionally `answer`.
        items: (benchmark, language) -> the items, and the items from which examples are taken; only for benchmarks on
            data sets.
    """

    texts: dict[str, dict[str, Rows]] = field(default_factory=dict)
    items: dict[tuple[str, str], tuple[Items, Items]] = field(default_factory=dict)


def read_data(plan: Plan, root: Path | None) -> Data:
    """Read and check the corpora and the benchmarks' items whose data is on this machine.

    Args:
        plan: the plan, which says what is used.
        root: folder of local data sets.

    Raises:
        LensflowError: as in the stages that read the data.
    """
    data = Data()
    for name, languages in plan.used_corpora.items():
        corpus = plan.config.corpora[name]
        if corpus.path is not None:
            path = folder(corpus.path, plan.root)
            content = read_corpus(path)
            data.texts[name] = {
                language: rows_of(content, language, path, corpus.with_answers) for language in languages
            }
        elif (source := corpus.dataset) is not None and _is_here(source.path, root):
            first = CorpusDataset.model_validate(plan.pair_data(name, next(iter(languages)))["dataset"])
            found = data.texts.setdefault(name, {})
            for group in [list(languages)] if source.aligned else [[language] for language in languages]:
                read = joined(first if source.aligned else source, group, root)
                found |= {language: one.rows for language, one in read.items()}
    for name, names in plan.benchmarks.items():
        for language in names:
            if (items := _checked_items(plan, name, language, root)) is not None:
                data.items[name, language] = items
        _check_prompts(plan, data, name)
    return data


def _check_prompts(plan: Plan, data: Data, name: str) -> None:
    """Check that no two languages of a benchmark are asked the same prompts, as happens if they read one file.

    Raises:
        LensflowError: two languages are; `prompt_language` says that this is meant.
    """
    benchmark, prompts = plan.config.benchmarks[name], dict[str, list[str]]()
    if isinstance(benchmark, FromDataset):
        for (of, language), (items, _) in data.items.items():
            for column in benchmark.texts() if of == name else ():
                texts = [text_at(item, column, name) for item in items.values()]
                prompts.setdefault(benchmark.prompted_in(language), []).extend(texts)
    for one, other in combinations(prompts, 2):
        if len(prompts[one]) == len(prompts[other]):
            check_translated({one: prompts[one], other: prompts[other]}, f"benchmarks.{name}")


def _is_here(name: str, root: Path | None) -> bool:
    """Whether a data set is on this machine, or should be: a file is never fetched from the hub."""
    return is_table(name) or local_copy(name, root) is not None


def _checked_items(plan: Plan, name: str, language: str, root: Path | None) -> tuple[Items, Items] | None:
    benchmark = plan.config.benchmarks[name]
    if not isinstance(benchmark, FromDataset):
        return None
    stage = plan.fetch_items(name, language)
    source = Dataset.model_validate(stage["dataset"])
    if not _is_here(source.path, root):
        return None
    found = fetched(name, source, language, stage["config"], root, stage["texts"])
    examples = {id_: item for id_, item in found.fewshot.items() if id_ not in found.left_out}
    try:
        benchmark.check_items(found.items, examples, language, plan.task_roots)
    except LensflowError as error:
        raise LensflowError(f"benchmarks.{name}, {language}: {error}") from None
    return found.items, examples


def doubts(plan: Plan, data: Data) -> Iterator[str]:
    """Return hints about possible mistakes in corpora and items. The corpora of the package are left out."""
    for name, by_language in data.texts.items():
        if plan.config.corpora[name].path in EMBEDDED:
            continue
        texts = {language: [str(row["prompt"]) for row in rows] for language, rows in by_language.items()}
        for language, of_language in texts.items():
            for said in _of_one(language, of_language, list(texts)):
                yield f"corpora.{name}: {said}"
        for one, other in combinations(texts, 2):
            pairs = zip(texts[one], texts[other], strict=False)
            same = sum(folded(text) == folded(its) for text, its in pairs)
            if same and base_code(one) != base_code(other) and len(texts[one]) == len(texts[other]):
                yield (
                    f"corpora.{name}: {same} of {len(texts[one])} texts are the same in '{one}' and '{other}'; "
                    "translate them if they should not be"
                )
    for (name, language), (items, _) in data.items.items():
        columns = plan.config.benchmarks[name].canonical()["dataset"]["columns"]
        if copies := len(items) - len({identity(item, columns) for item in items.values()}):
            yield (
                f"benchmarks.{name}, {language}: {copies} of {len(items)} items are copies of others, which makes "
                "intervals too narrow; remove them, or name more columns"
            )


def _of_one(language: str, texts: Sequence[str], languages: Sequence[str]) -> Iterator[str]:
    if lost := sum(any(mark in text for mark in _LOST) for text in texts):
        yield f"{lost} of {len(texts)} texts in '{language}' hold U+0000 or U+FFFD instead of a character; correct them"
    worded = [text for text in texts if scripts_in(text)]
    if 2 * len(worded) < len(texts):
        yield f"{len(texts) - len(worded)} of {len(texts)} texts in '{language}' have no letter; name another column"
    elif (found := reads_as(worded, languages)) not in (language, UNKNOWN):
        yield f"the texts in '{language}' read as '{found}'; correct languages if they are swapped"
