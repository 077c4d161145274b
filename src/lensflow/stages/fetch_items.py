"""The items of benchmarks, fetched and checked before any model runs (stage `fetch_items`).

Fetching is its own stage for three reasons. First, a wrong column or an unreachable hub is reported at once, not after
a training. Second, evaluation needs no network. Third, the identity of a cell is the text of its items, not the source
of the items.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import date, datetime, time
from itertools import chain
from pathlib import Path
from typing import Any

from lensflow.artifacts.hub import load_split, local_copy
from lensflow.artifacts.items import (
    check_plain,
    id_at,
    identity,
    is_blank,
    is_missing,
    text_at,
    value_at,
    write_origin,
)
from lensflow.errors import LensflowError
from lensflow.schema.dataset import Dataset, LanguageEntry
from lensflow.schema.stages import Fetching
from lensflow.storage.atomic import write_jsonl

LOG = logging.getLogger(__name__)
EMBEDDED = "embedded/"  # data sets that the package generates: embedded/cldr


def fetch(
    name: str,
    dataset: Dataset,
    language: str,
    entry: LanguageEntry,
    root: Path | None,
    output: Path,
    texts: Sequence[str] = (),
) -> None:
    """Write one language's items of a benchmark as JSON lines `{"split": ..., "id": ..., "item": {...}}`.

    `{language}.source.json` is written beside it. This file names the source of the items, with the hub's revision, and
    the number of examples that are left out because they are evaluated items.

    Args:
        name: name of the benchmark, for messages.
        dataset: the source of the items.
        language: code of the language.
        entry: the settings of this language.
        root: folder of local data sets. If it has a data set of this name, it is used instead of the hub's.
        output: the file.
        texts: columns that must hold text, because the model is asked with this text.

    Raises:
        LensflowError: as in `fetched`.
    """
    source = entry.dataset or dataset
    found = fetched(name, source, language, entry.config, root, texts)
    examples = {id_: item for id_, item in found.fewshot.items() if id_ not in found.left_out}
    rows = [
        {"split": role, "id": id_, "item": item}
        for role, items in (("items", found.items), ("fewshot", examples))
        for id_, item in items.items()
    ]
    write_jsonl(output, rows)
    splits = {"split": source.split, "fewshot_split": source.fewshot_split}
    left_out = {"fewshot_left_out": len(found.left_out)} if found.left_out else {}
    local = local_copy(source.path, root) is not None
    write_origin(
        output, path=source.path, config=entry.config, **splits, local=local, revision=found.revision, **left_out
    )


@dataclass(frozen=True)
class Fetched:
    """One language's items of a benchmark.

    Attributes:
        items: id -> item, in order.
        fewshot: id -> item of the split from which examples are taken.
        left_out: ids of examples that are also evaluated items. A prompt with such an example would contain its own
            answer.
        revision: revision of the hub's data set.
    """

    items: dict[str, dict[str, Any]]
    fewshot: dict[str, dict[str, Any]]
    left_out: frozenset[str]
    revision: str | None


def fetched(
    name: str, source: Dataset, language: str, config: str, root: Path | None, texts: Sequence[str] = ()
) -> Fetched:
    """Return one language's items of a benchmark, checked.

    Args:
        name: name of the benchmark, for messages.
        source: the source of the items.
        language: code of the language.
        config: the data set's name of the language.
        root: folder of local data sets.
        texts: columns that must hold text.

    Raises:
        LensflowError: the data set or its split cannot be loaded or is empty, lacks a column, holds an id twice, or
            holds a list where a text is needed.
    """
    local = local_copy(source.path, root)
    by_role: dict[str, dict[str, dict[str, Any]]] = {"items": {}, "fewshot": {}}
    revision = source.revision
    for role, split in (("items", source.split), ("fewshot", source.fewshot_split)):
        if split is None:
            continue
        items: Iterable[dict[str, Any]] = ()
        with ExitStack() as opened:
            for named in [part.replace("{config}", config) for part in source.configs or ("{config}",)]:
                where = f"benchmarks.{name}: data set {source.path} ({named}, {split})"
                if source.path.startswith(EMBEDDED):
                    items = _generate(source.path.removeprefix(EMBEDDED), language, where)
                else:
                    more, revision = load_split(
                        source.path, named, split, local, revision, where, source.file, source.field
                    )
                    items = chain(items, opened.enter_context(closing(more)))
            where = f"benchmarks.{name}: data set {source.path} ({config}, {split})"
            by_role[role] = _checked(source, _chosen(source, items, where), where, texts)
    evaluated = {identity(item, source.columns) for item in by_role["items"].values()}
    left_out = frozenset(id_ for id_, item in by_role["fewshot"].items() if identity(item, source.columns) in evaluated)
    if left_out:
        LOG.warning("benchmarks.%s: %d examples are left out, which are evaluated items", name, len(left_out))
    if left_out and len(left_out) == len(by_role["fewshot"]):
        raise LensflowError(
            f"benchmarks.{name}.dataset.fewshot_split: num_fewshot would show evaluated items with their answers, for "
            f"all items of '{source.fewshot_split}' are in '{source.split}', too; name another split"
        )
    return Fetched(by_role["items"], by_role["fewshot"], left_out, revision)


def _generate(what: str, language: str, where: str) -> list[dict[str, Any]]:
    from lensflow.data import cldr

    if what != "cldr":
        raise LensflowError(f"{where}: the package generates no data set of this name; it has embedded/cldr")
    if language not in cldr.LANGUAGES:
        raise LensflowError(f"{where}: no language '{language}'; it has {', '.join(cldr.LANGUAGES)}")
    return [vars(question) | {"choices": list(question.choices)} for question in cldr.questions([language])[language]]


def _chosen(source: Dataset, items: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    """Yield the rows that have the wanted values."""
    for item in items:
        if all(text_at(item, column, where) == value for column, value in source.where.items()):
            yield item


def _checked(
    source: Dataset, items: Iterable[dict[str, Any]], where: str, texts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Map ids to items; every item has the wanted columns."""
    wanted = (*source.columns, *([source.id] if source.id else []))
    checked: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    for number, item in enumerate(items, start=1):
        for column in wanted:
            if is_missing(value_at(item, column, where)):
                raise LensflowError(f"{where}, item {number}: column '{column}' is empty; fill it or remove the item")
        for column in texts:
            if is_blank(text_at(item, column, f"{where}, item {number}")):
                raise LensflowError(f"{where}, item {number}: column '{column}' is empty; fill it or remove the item")
        id_ = id_at(item, source.id, f"{where}, item {number}") if source.id else str(number - 1)
        if id_ in checked:
            raise LensflowError(
                f"{where}: id '{id_}' ({source.id}) occurs at items {places[id_]} and {number}; rename or remove one"
            )
        checked[id_], places[id_] = _plain(item, where, number), number
    for column in texts:
        check_plain([text_at(item, column, where) for item in checked.values()], f"{where}: column '{column}'")
    if not checked:
        chosen = " and ".join(f"{column}: {value}" for column, value in source.where.items())
        raise LensflowError(
            f"{where}: the split {f'has no row with {chosen}; correct where' if chosen else 'is empty; choose another'}"
            " or fill it"
        )
    _restore_whole_numbers(checked.values())
    return checked


def _restore_whole_numbers(items: Collection[dict[str, Any]]) -> None:
    """Change 7.0 back to 7 in columns of numbers that a data frame has written as decimals, because a row is empty."""
    for column in dict.fromkeys(name for item in items for name in item):
        values = [item.get(column) for item in items]
        numbers = [value for value in values if value is not None]
        if len(numbers) < len(values) and all(isinstance(n, float) and n.is_integer() for n in numbers):
            for item in items:
                if item.get(column) is not None:
                    item[column] = int(item[column])


def _plain(item: Mapping[str, Any], where: str, number: int) -> dict[str, Any]:
    plain = {}
    for column, value in item.items():
        try:
            plain[column] = _written(value)
        except TypeError as error:
            raise LensflowError(
                f"{where}, item {number}: column '{column}' holds {error}, not text or numbers; choose a data set of "
                "texts"
            ) from None
    return plain


def _written(value: Any) -> Any:
    """Return a value as the file's authors wrote it.

    Readers make a date of a text such as 2024-07-26. Data frames write NaN for an empty cell.

    Raises:
        TypeError: JSON has no such value; the message is its type.
    """
    if isinstance(value, Mapping):
        return {key: _written(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return list(map(_written, value))
    if is_missing(value):
        return None
    if isinstance(value, datetime) and value.time() == time() and value.tzinfo is None:
        value = value.date()
    if isinstance(value, date | time):
        return value.isoformat()
    if not isinstance(value, str | int | float | bool):
        raise TypeError(type(value).__name__)
    return value


def run(config: Fetching, *, language: str, datasets_root: Path | None, output: Path) -> None:
    """Write one language's items of a benchmark."""
    entry = LanguageEntry(config=config.config)
    fetch(config.benchmark, config.dataset, language, entry, datasets_root, output, config.texts)
