"""The items of benchmarks, fetched and checked before any model runs (stage `fetch_items`).

Fetching is a stage of its own for three reasons. A wrong column or an unreachable hub is reported at once and not
after a training. Evaluation needs no network. The identity of a cell is the text of its items, not where they came
from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensflow.artifacts.hub import load_split, local_copy
from lensflow.artifacts.items import write_origin
from lensflow.errors import LensflowError
from lensflow.schema.dataset import Dataset, LanguageEntry
from lensflow.schema.stages import Fetching
from lensflow.storage.atomic import write_jsonl

EMBEDDED = "embedded/"  # data sets that the package generates: embedded/cldr


def fetch(name: str, dataset: Dataset, language: str, entry: LanguageEntry, root: Path | None, output: Path) -> None:
    """Write one language's items of a benchmark as JSON lines `{"split": ..., "id": ..., "item": {...}}`.

    Beside it, `{language}.source.json` says where they came from, with the revision that the hub gave.

    Args:
        name: of the benchmark, for messages.
        dataset: where its items come from.
        language: their code.
        entry: what is particular to the language.
        root: folder of local data sets, of which one with the data set's name is used instead of the hub's.
        output: the file.

    Raises:
        LensflowError: the data set or its split cannot be had or is empty, lacks a column, or holds an id twice.
    """
    source = entry.dataset or dataset
    local = local_copy(source.path, root)
    rows, revision = [], source.revision
    for role, split in (("items", source.split), ("fewshot", source.fewshot_split)):
        if split is None:
            continue
        where = f"benchmarks.{name}: data set {source.path} ({entry.config}, {split})"
        if source.path.startswith(EMBEDDED):
            items = _generate(source.path.removeprefix(EMBEDDED), language, where)
        else:
            items, revision = load_split(source.path, entry.config, split, local, revision, where)
        rows += [{"split": role, "id": id_, "item": item} for id_, item in _checked(source, items, where).items()]
    write_jsonl(output, rows)
    splits = {"split": source.split, "fewshot_split": source.fewshot_split}
    write_origin(output, path=source.path, config=entry.config, **splits, local=local is not None, revision=revision)


def _generate(what: str, language: str, where: str) -> list[dict[str, Any]]:
    from lensflow.data import cldr

    if what != "cldr":
        raise LensflowError(f"{where}: the package generates no data set of this name; it has embedded/cldr")
    if language not in cldr.LANGUAGES:
        raise LensflowError(f"{where}: no language '{language}'; it has {', '.join(cldr.LANGUAGES)}")
    return [vars(question) | {"choices": list(question.choices)} for question in cldr.questions([language])[language]]


def _checked(source: Dataset, items: list[dict[str, Any]], where: str) -> dict[str, dict[str, Any]]:
    """Map ids to items, every one of which has the columns that are asked for."""
    if not items:
        raise LensflowError(f"{where}: the split is empty; choose another or fill it")
    wanted = (*source.columns, *([source.id] if source.id else []))
    checked: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    for number, item in enumerate(items, start=1):
        for column in wanted:
            if column not in item:
                raise LensflowError(f"{where}: no column '{column}'; it has {', '.join(item)}")
            if item[column] is None:
                raise LensflowError(f"{where}, item {number}: column '{column}' is empty; fill it or remove the item")
        id_ = str(item[source.id]) if source.id else str(number - 1)
        if id_ in checked:
            raise LensflowError(
                f"{where}: id '{id_}' ({source.id}) stands at items {places[id_]} and {number}; rename or remove one"
            )
        checked[id_], places[id_] = _plain(item, where, number), number
    return checked


def _plain(item: Mapping[str, Any], where: str, number: int) -> dict[str, Any]:
    for column, value in item.items():
        if not isinstance(value, str | int | float | bool | list | dict | None):
            raise LensflowError(
                f"{where}, item {number}: column '{column}' holds {type(value).__name__}, not text or numbers; "
                "choose a data set of texts"
            )
    return dict(item)


def run(config: Fetching, *, language: str, datasets_root: Path | None, output: Path) -> None:
    """Write one language's items of a benchmark."""
    fetch(config.benchmark, config.dataset, language, LanguageEntry(config=config.config), datasets_root, output)
