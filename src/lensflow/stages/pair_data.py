"""One language of a corpus as JSON lines (stage `pair_data`)."""

import logging
import re
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from lensflow.artifacts.hub import load_split, local_copy
from lensflow.artifacts.items import check_plain, folded, id_at, is_blank, text_at, value_at, write_origin
from lensflow.artifacts.texts import Items, check_translated, folder, in_language, languages_of, read_corpus
from lensflow.errors import LensflowError
from lensflow.schema.corpus import CorpusDataset
from lensflow.schema.stages import Pairing
from lensflow.storage.atomic import write_jsonl

LOG = logging.getLogger(__name__)
NAMED = 10  # most gaps that a message names


def pair_data(path: Path, language: str, output: Path, with_answers: bool = False) -> None:
    """Write one language of a corpus as JSON lines (stage `pair_data`), and `{language}.source.json` beside it.

    Args:
        path: folder of the corpus.
        language: one of its languages.
        output: the file.
        with_answers: whether each prompt is followed directly by its answer.

    Raises:
        LensflowError: the corpus is not valid, lacks the language, or has a prompt without an answer.
    """
    corpus = read_corpus(path)
    if language not in languages_of(corpus):
        raise LensflowError(f"corpus {path}: no language '{language}'; it has {', '.join(languages_of(corpus))}")
    write_jsonl(output, rows_of(corpus, language, path, with_answers))
    write_origin(output, path=path.name, config=None, split=None, local=True, revision=None)


def rows_of(corpus: Items, language: str, path: Path, with_answers: bool) -> list[dict[str, Any]]:
    """Return one language of a checked corpus; see `pair_data`."""
    rows = in_language(corpus, language)
    if with_answers:
        rows = [row | {"prompt": row["prompt"] + _answer(row, language, path)} for row in rows]
    return rows


def _answer(row: Mapping[str, Any], language: str, path: Path) -> str:
    if "answer" not in row:
        raise LensflowError(
            f"corpus {path}: item '{row['id']}' has no {language} answer; write one, or set with_answers: false"
        )
    return str(row["answer"])


def pair_dataset(source: CorpusDataset, language: str, root: Path | None, output: Path) -> None:
    """Write one language of a data set as JSON lines (stage `pair_data`). The first items are train, the next ones dev.

    `{language}.source.json` is written beside it. This file names the source of the items, with the hub's revision, and
    the items that are left out because a language lacks them.

    Args:
        source: the data set; translations are joined over all of its languages.
        language: one of its languages.
        root: folder of local data sets. If it has a data set of this name, it is used instead of the hub's.
        output: the file.

    Raises:
        LensflowError: as in `paired`.
    """
    joined = paired(source, language, root)
    write_jsonl(output, joined.rows)
    origin = {"path": source.path, "config": _config(source, language), "split": source.split}
    local = local_copy(source.path, root) is not None
    gaps = {"left_out": joined.left_out} if joined.left_out else {}
    write_origin(output, **origin, local=local, revision=joined.revision, **gaps)


@dataclass(frozen=True)
class Joined:
    """One language of a data set.

    Attributes:
        rows: `id`, `split`, `prompt` and optionally `answer` of each item that all languages have.
        left_out: number of items that a language lacks, or whose answer it lacks, among the items that were read.
        revision: revision of the hub's data set.
    """

    rows: list[dict[str, Any]]
    left_out: int
    revision: str | None


def paired(source: CorpusDataset, language: str, root: Path | None) -> Joined:
    """Return the items of one language of a data set; see `joined`."""
    return joined(source, list(source.languages) if source.aligned else [language], root)[language]


def joined(source: CorpusDataset, languages: Sequence[str], root: Path | None) -> dict[str, Joined]:
    """Return the items of some languages of a data set, which is read once.

    Items with the same id are translations of each other. An item is taken if all of the languages have it. The rows
    are read in turn, one row per language, and items are taken in the order in which they become complete. So only the
    needed rows are read, and every language gets the same items. Without ids, all rows are counted, because rows with
    the same number need not be translations if the languages have different numbers of rows. Items without an answer
    are left out.

    Raises:
        LensflowError: the data set cannot be loaded, lacks a column or a language, has too few items, an empty prompt,
            an id twice, the same texts in two languages, or a train text again in dev or test.
    """
    wanted = source.train + source.dev + source.test
    splits = ["train"] * source.train + ["dev"] * source.dev + ["test"] * source.test
    by_place = len(languages) > 1 and source.id is None and source.layout != "columns"
    items: list[dict[str, dict[str, Any]]] = []
    waiting: dict[str, dict[str, dict[str, Any]]] = {}
    unanswered: set[str] = set()
    seen: dict[str, dict[str, int]] = {name: {} for name in languages}
    counts = dict.fromkeys(languages, 0)
    with Reading(source, languages, root) as reading:
        for name, number, item in reading.items():
            counts[name] = number
            if len(items) < wanted:
                row = _row(source, name, number, item, seen[name])
                if not folded(row.get("answer", "none")):
                    unanswered.add(row["id"])
                    continue
                found = waiting.setdefault(row["id"], {})
                found[name] = row
                if len(found) == len(languages):
                    items.append(waiting.pop(row["id"]))
            elif not by_place:
                break
    where = _where(source, languages[0])
    _check_counts(source, counts, by_place, reading.values)
    gaps = _lacking(waiting, languages)
    gaps += [f"no answer to item '{id_}'" for id_ in sorted(unanswered)[:NAMED]]
    if len(items) < wanted:
        said = "".join(f"; {gap}" for gap in gaps)
        raise LensflowError(f"{where}: {len(items)} items, {wanted} are asked for{said}; lower train, dev or test")
    left_out = len(waiting.keys() | unanswered)
    if left_out:
        LOG.warning("%s: %d of the items that were read are left out: %s", where, left_out, "; ".join(gaps))
    check_translated({name: [item[name]["prompt"] for item in items] for name in languages}, where)
    found_rows = {
        name: [{"id": item[name]["id"], "split": split} | item[name] for split, item in zip(splits, items, strict=True)]
        for name in languages
    }
    for name, rows in found_rows.items():
        check_plain([row["prompt"] for row in rows], _where(source, name))
        _check_splits(rows, _where(source, name))
    return {name: Joined(rows, left_out, reading.revision) for name, rows in found_rows.items()}


def _check_counts(source: CorpusDataset, counts: Mapping[str, int], by_place: bool, values: Collection[str]) -> None:
    """Check that every language has rows and, if translations are paired by row number, the same number of rows.

    Raises:
        LensflowError: a language has no rows, or another number of rows.
    """
    first, *others = counts
    for language, count in counts.items():
        if not count:
            held = ", ".join(list(values)[:NAMED])
            said = f": column '{source.language}' never holds '{source.languages[language]}'; it holds {held}"
            advice = f"{said}; correct languages" if values else "; choose another split, or fill it"
            raise LensflowError(f"{_where(source, language)}: no rows{advice}")
    if by_place and (other := next((name for name in others if counts[name] != counts[first]), None)):
        raise LensflowError(
            f"{_where(source, first)}: {counts[first]} rows, and '{other}' has {counts[other]}; without ids, rows "
            f"with the same number count as translations; set id to the column that names the item"
        )


class Reading(ExitStack):
    """Reads the rows of some languages of a data set in turn, one row per language; closes what it opened.

    Args:
        source: the data set.
        languages: the languages that are read.
        root: folder of local data sets.

    Attributes:
        revision: revision of the hub's data set; known after reading has begun.
        values: with layout `rows`, the values of the language column so far.
    """

    def __init__(self, source: CorpusDataset, languages: Sequence[str], root: Path | None) -> None:
        super().__init__()
        self.source, self.languages, self.root = source, languages, root
        self.revision = source.revision
        self.values: dict[str, None] = {}

    def items(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Return the language, the number of the row in its language (from 1), and the row."""
        if self.source.layout == "configs":
            yield from self._in_turn({language: self._open(language) for language in self.languages})
            return
        of_value = {self.source.languages[language]: language for language in self.languages}
        numbers = dict.fromkeys(self.languages, 0)
        for item in self._open(self.languages[0]):
            one = [] if self.source.layout == "columns" else [of_value.get(self._language_of(item))]
            for language in filter(None, one or self.languages):
                numbers[language] += 1
                yield language, numbers[language], item

    def _language_of(self, item: Mapping[str, Any]) -> str:
        value = str(value_at(item, str(self.source.language), f"corpus {self.source.path}"))
        self.values[value] = None
        return value

    def _in_turn(self, opened: Mapping[str, Iterator[dict[str, Any]]]) -> Iterator[tuple[str, int, dict[str, Any]]]:
        for number, items in enumerate(zip_longest(*opened.values()), start=1):
            for language, item in zip(opened, items, strict=True):
                if item is not None:
                    yield language, number, item

    def _open(self, language: str) -> Generator[dict[str, Any]]:
        source = self.source
        items, self.revision = load_split(
            source.path,
            _config(source, language),
            source.split,
            local_copy(source.path, self.root),
            source.revision,
            _where(source, language),
            source.file,
            source.field,
        )
        return self.enter_context(closing(items))


def _config(source: CorpusDataset, language: str) -> str | None:
    return source.languages[language] if source.layout == "configs" else source.config


def _where(source: CorpusDataset, language: str) -> str:
    return f"corpus {source.path} ({_config(source, language) or 'default'}, {source.split}), language '{language}'"


def _row(
    source: CorpusDataset, language: str, number: int, item: Mapping[str, Any], places: dict[str, int]
) -> dict[str, Any]:
    """Return id, prompt and answer of an item; `places` maps the ids so far to their numbers."""
    here = f"{_where(source, language)}, item {number}"
    id_ = id_at(item, source.id, here) if source.id else str(number - 1)
    if id_ in places:
        raise LensflowError(
            f"{here}: id '{id_}' ({source.id}) is also the id of item {places[id_]}; choose another column"
        )
    places[id_] = number
    name = source.languages[language]
    prompt = text_at(item, name, here) if source.layout == "columns" else _filled(source.prompt, item, here)
    if source.strip:
        prompt = prompt.strip()
    if is_blank(prompt):
        raise LensflowError(
            f"{here}: the prompt is empty; fill it in, remove its row, or read other columns (id '{id_}')"
        )
    answer = {} if source.answer is None else {"answer": _filled(source.answer, item, here).strip()}
    return {"id": id_, "prompt": prompt, **answer}


def _lacking(waiting: Mapping[str, Mapping[str, Any]], languages: Sequence[str]) -> list[str]:
    """Return which language lacks each of the first items that not all languages have."""
    return [
        f"'{language}' lacks item '{id_}'"
        for id_, found in islice(waiting.items(), NAMED)
        for language in languages
        if language not in found
    ]


def _check_splits(rows: Sequence[Mapping[str, Any]], where: str) -> None:
    """Check that no prompt occurs in two splits.

    Raises:
        LensflowError: a prompt does; the message names both items.
    """
    seen: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        other = seen.setdefault(folded(row["prompt"]), row)
        if other["split"] != row["split"]:
            raise LensflowError(
                f"{where}: item '{row['id']}' of {row['split']} has the prompt of item '{other['id']}' of "
                f"{other['split']}; lower dev or test, or remove one"
            )


def _filled(template: str, item: Mapping[str, Any], where: str) -> str:
    """Fill `{column}` in a template from an item."""
    return re.sub(r"\{([^{}]+)\}", lambda match: text_at(item, match[1], where), template)


def run(config: Pairing, *, root: Path, datasets_root: Path | None, output: Path) -> None:
    """Write one language of a corpus."""
    if config.dataset is not None:
        pair_dataset(config.dataset, config.language, datasets_root, output)
    elif config.path is not None:
        pair_data(folder(config.path, root), config.language, output, config.with_answers)
    else:
        raise LensflowError("--config: needs key 'dataset' or 'path'; see lensflow show-config")
