"""The parallel texts that a user names, or else the texts in the catalog for these languages."""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensflow.artifacts import tables, texts
from lensflow.errors import LensflowError
from lensflow.languages import base_code, english_name, names
from lensflow.schema.types import HUB_NAME_PATTERN
from lensflow.workflow.drafts.naming import new_name, relative
from lensflow.workflow.experiment import Config

FEWEST_TEXTS, MOST_TRAIN, MOST_DEV, MOST_TEST = 10, 1000, 50, 200
OF_THE_HUB = 100  # held-out items of a corpus of the hub
BACTRIAN = "bactrian-x"  # corpus of the catalog, whose configurations are these language codes (arXiv 2305.15011)
_OF_BACTRIAN = (
    "af ar az bn cs de en es et fa fi fr gl gu he hi hr id it ja ka kk km ko lt lv mk ml mn mr my ne nl pl ps pt ro ru"
    " si sl sv sw ta te th tl tr uk ur vi xh zh"
)
BACTRIAN_LANGUAGES = frozenset(_OF_BACTRIAN.split())


@dataclass(frozen=True)
class FoundTexts:
    """A corpus with its number of test items, its entry if the catalog's is not enough, and a description."""

    name: str
    test: int
    about: str
    entry: Mapping[str, Any] = field(default_factory=dict)
    root: str | None = None


def find_texts(
    data: Path | None, languages: Sequence[str], known: Config, folder: Path, *, held_out: bool = True
) -> FoundTexts:
    """Return the corpus for some languages; the first one is the central language.

    Args:
        data: a file with a column per language, or a folder with train.jsonl, dev.jsonl and test.jsonl; None for a
            corpus of the catalog.
        languages: the wanted languages.
        known: the catalogs.
        folder: folder from which relative paths of the configuration start.
        held_out: whether rows of a file are kept for evaluation.

    Raises:
        LensflowError: the data cannot be read, or lacks a language.
    """
    if data is None:
        return _of_the_catalog(languages, known)
    entry: dict[str, Any] = {"license": "unknown"}
    if data.is_dir():
        try:
            content = texts.read_corpus(data)
        except LensflowError as error:
            raise LensflowError(f"--data: {error}") from None
        has = texts.languages_of(content)
        _check_has(languages, has, f"--data: {data}", has)
        entry |= {"path": relative(data, folder)}
        return FoundTexts(new_name(data.resolve().name, known.corpora), len(content["test"]), "your texts", entry)
    name, dataset, root, rows = table(data, languages, folder, "--data")
    if not held_out:
        dataset |= {"train": min(MOST_TRAIN, rows - dataset["dev"]), "test": 0}
    about = f"{rows} rows; the first {dataset['train']} train, the next {dataset['dev']} watch training"
    about += f", the next {dataset['test']} test" if held_out else ""
    entry |= {"dataset": dataset}
    return FoundTexts(new_name(name, known.corpora), dataset["test"], about, entry, root)


def find_questions(path: Path, languages: Sequence[str], known: Config, folder: Path) -> FoundTexts:
    """Return a file of questions as a corpus that is used only for evaluation.

    Args:
        path: a file with one column per language and one question per row.
        languages: the wanted languages, the central one first.
        known: the catalogs.
        folder: folder from which relative paths of the configuration start.

    Raises:
        LensflowError: the file cannot be read, is too short or lacks a language.
    """
    name, dataset, root, rows = table(path, languages, folder, "--questions", "for intervals that say something")
    entry = {"license": "unknown", "dataset": dataset | {"train": 0, "dev": 0, "test": rows}}
    return FoundTexts(new_name(name, known.corpora), rows, f"{rows} questions to evaluate on", entry, root)


def table(
    path: Path, languages: Sequence[str], folder: Path, where: str = "", purpose: str = "to train and to test"
) -> tuple[str, dict[str, Any], str | None, int]:
    """Return how to read a file with one column per language as a corpus.

    Args:
        path: the file.
        languages: the wanted languages, the central one first.
        folder: folder from which relative paths of the configuration start.
        where: the beginning of a message, before the path; may be empty.
        purpose: the purpose of the rows, for messages.

    Returns:
        A name, the corpus's `dataset`, the `datasets_root` that it needs if the file is not below `folder`, and the
        number of rows.

    Raises:
        LensflowError: the file cannot be read, is too short or lacks a language.
    """
    here = f"{where}: {path}" if where else str(path)
    rows = [_flat(row) for row in tables.read_rows(path, where=where)]
    if len(rows) < FEWEST_TEXTS:
        count = f"{len(rows)} row{'s' * (len(rows) != 1)}"
        raise LensflowError(f"{here}: {count}; at least {FEWEST_TEXTS} are needed {purpose}")
    columns = {language: _column(list(rows[0]), language) for language in languages}
    found = {language: column for language, column in columns.items() if column is not None}
    _check_has(languages, found, here, list(rows[0]))
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
    """Return the columns of a row.

    A column inside another one is named by its path: `{"a": {"en": 1}}` -> `{"a.en": 1}`.
    """
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= {f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _column(columns: Sequence[str], language: str) -> str | None:
    """Return the column of a language, which is called by its code or by a name: `hi`, `Hindi`, `hin_Deva`."""
    called = {column: column.rsplit(".", 1)[-1].strip().lower().replace("_", "-") for column in columns}
    exact = [column for column, name in called.items() if name in {language.lower(), *names(language)}]
    return next(iter(exact or (column for column, name in called.items() if _is_code_of(name, language))), None)


def _is_code_of(name: str, language: str) -> bool:
    try:
        return base_code(name) == language
    except LensflowError:
        return False


def _check_has(wanted: Sequence[str], has: Container[str], where: str, columns: Sequence[str]) -> None:
    """Check that the data has every language; the first one is the central language."""
    for language in wanted:
        if language not in has:
            also = ", or name another central language by --central" if language == wanted[0] and "--" in where else ""
            name = english_name(language)
            raise LensflowError(
                f"{where}: no column for {language} ({name}); the columns are called "
                f"{', '.join(columns)}; call the one of {name} texts '{language}'{also}"
            )


def _of_the_catalog(languages: Sequence[str], known: Config) -> FoundTexts:
    """Return the embedded corpus, or the hub's corpus if the embedded one lacks a language."""
    embedded = texts.read_corpus(texts.folder("embedded", Path()))
    if set(languages) <= set(texts.languages_of(embedded)):
        return FoundTexts("embedded", len(embedded["test"]), "comes with Lensflow")
    if missing := [language for language in languages if language not in BACTRIAN_LANGUAGES]:
        raise LensflowError(
            f"--languages: Lensflow knows no parallel texts in '{missing[0]}' ({english_name(missing[0])}); give some "
            "by --data FILE, a CSV or JSONL file with a column per language"
        )
    dataset = known.corpora[BACTRIAN].dataset
    assert dataset is not None
    more = {language: language for language in languages if language not in dataset.languages}
    changed = {"test": OF_THE_HUB} | ({"languages": more} if more else {})
    return FoundTexts(BACTRIAN, OF_THE_HUB, "of the hub (CC BY-NC 4.0)", {"dataset": changed})
