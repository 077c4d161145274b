"""Parallel corpora: one JSON line per item, with the same item in every language."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any, Literal

from lensflow.artifacts.items import folded, is_blank
from lensflow.errors import LensflowError
from lensflow.languages import base_code
from lensflow.storage.digests import digest
from lensflow.storage.paths import resolve
from lensflow.storage.verified import read_jsonl

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Items = dict[Split, list[dict[str, Any]]]


@dataclass(frozen=True)
class Text:
    """One item in one language, and its line in the file."""

    id: str
    split: Split
    prompt: str
    line: int
    answer: str | None = None


# Corpora that the package carries, by their path in the configuration: a version's texts never change.
EMBEDDED = {"embedded": "corpus", "embedded-1": "corpus/version-1", "embedded-udhr": "corpus/udhr"}


def folder(path: str, root: Path) -> Path:
    """Return the folder of a corpus's files: in the package (a path in `EMBEDDED`) or below `root`."""
    return Path(str(files("lensflow.data"))) / EMBEDDED[path] if path in EMBEDDED else resolve(path, root)


def read_corpus(path: Path) -> Items:
    """Read and check the three splits of a corpus.

    A line is `{"id": ..., "source": language, "prompt": {language: text, ...}, "answer": {...}}`. `answer` is optional.
    `source` is also optional: it is the language in which the item was first written.

    Raises:
        LensflowError: a file is missing or has no items, a line is not valid, a text is empty, an id or a text occurs
            twice, or a line lacks a language that other lines have.
    """
    if not path.is_dir():
        raise LensflowError(f"corpus {path}: no such folder; it must hold train.jsonl, dev.jsonl and test.jsonl")
    corpus: Items = {split: read_jsonl(_present(path / f"{split}.jsonl")) for split in SPLITS}
    languages: set[str] | None = None
    seen_ids: dict[str, str] = {}
    seen_texts: dict[tuple[str, str], tuple[Split, str, str]] = {}
    for split, rows in corpus.items():
        if not rows:
            raise LensflowError(f"{path / split}.jsonl: no items; write at least one")
        for number, row in enumerate(rows, start=1):
            where = f"{path / split}.jsonl, line {number}"
            _check_shape(row, where)
            if row["id"] in seen_ids:
                raise LensflowError(f"{where}: id '{row['id']}' occurs already in {seen_ids[row['id']]}; rename one")
            seen_ids[row["id"]] = where
            languages = languages or set(row["prompt"])
            if set(row["prompt"]) != languages:
                odd = sorted(set(row["prompt"]) ^ languages)[0]
                verb = "lacks" if odd in languages else "has, unlike the lines before it,"
                raise LensflowError(f"{where}: {verb} language '{odd}'; every line needs the same languages")
            for language, text in row["prompt"].items():
                if is_blank(text):
                    raise LensflowError(f"{where}: the {language} prompt is empty; write or remove the item")
                other, there, said = seen_texts.setdefault((language, folded(text)), (split, where, text))
                # Within a split small and capital letters may differ; what is tested must not be trained on at all.
                if there != where and (said == text or other != split):
                    raise LensflowError(
                        f"{where}: the {language} prompt is the same as in {there}; rewrite or remove one"
                    )
    items = [row["prompt"] for rows in corpus.values() for row in rows]
    check_translated(
        {language: [item[language] for item in items] for language in languages_of(corpus)}, f"corpus {path}"
    )
    return corpus


def _present(file: Path) -> Path:
    if not file.is_file():
        raise LensflowError(f"{file}: no such file; write it, or name a file with a column per language")
    return file


def check_translated(texts: Mapping[str, Sequence[str]], where: str) -> None:
    """Check that two languages do not hold the same texts, as happens if one is not translated yet.

    Args:
        texts: language -> texts of the same items.
        where: the beginning of a message.

    Raises:
        LensflowError: more than half of the texts of two languages are the same.
    """
    forms = {language: [folded(text) for text in found] for language, found in texts.items()}
    for one, other in combinations(forms, 2):
        same = sum(text == its for text, its in zip(forms[one], forms[other], strict=True))
        if 2 * same > len(forms[one]) and base_code(one) != base_code(other):
            raise LensflowError(
                f"{where}: {same} of {len(forms[one])} texts are the same in '{one}' and '{other}'; translate them, or "
                "give each language its own texts"
            )


def _check_shape(row: Any, where: str) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row.get("prompt"):
        raise LensflowError(f'{where}: must be {{"id": text, "prompt": {{language: text, ...}}}}; correct the line')
    if not isinstance(row.get("source", ""), str):
        raise LensflowError(f"{where}: source must be the language that the item was written in; correct the line")
    for key in ("prompt", "answer"):
        if not isinstance(row.get(key, {}), dict):
            raise LensflowError(f"{where}: {key} must be {{language: text, ...}}; correct the line")
        for language, text in row.get(key, {}).items():
            if not isinstance(text, str):
                raise LensflowError(f"{where}: the {language} {key} is not text; correct the line")
            if key == "answer" and not folded(text):
                raise LensflowError(f"{where}: the {language} answer is empty; write or remove it")


def languages_of(corpus: Items) -> list[str]:
    """Return the languages of a checked corpus, in the order of its first line."""
    return list(corpus["train"][0]["prompt"])


def in_language(corpus: Items, language: str) -> list[dict[str, Any]]:
    """Return one language of a checked corpus: rows of id, split, prompt and, if there is one, answer."""
    rows = []
    for split, items in corpus.items():
        for item in items:
            row = {"id": item["id"], "split": split, "prompt": item["prompt"][language]}
            if language in item.get("answer", {}):
                row["answer"] = item["answer"][language]
            rows.append(row)
    return rows


def language_digests(corpus: Items) -> dict[str, str]:
    """Return the digest of each language's texts in a checked corpus.

    A new language does not change the others' digests.
    """
    return {language: digest(in_language(corpus, language)) for language in languages_of(corpus)}


def read_texts(path: Path, splits: Iterable[Split]) -> list[Text]:
    """Read the texts of some splits from a file of `pair_data`, in the file's order."""
    wanted = set(splits)
    rows = enumerate(read_jsonl(path), start=1)
    return [
        Text(row["id"], row["split"], row["prompt"], line, row.get("answer"))
        for line, row in rows
        if row["split"] in wanted
    ]


def check_aligned(texts: dict[str, Sequence[Text]]) -> None:
    """Check that several languages hold the same ids in the same order.

    Raises:
        LensflowError: they differ; the message names the first two languages that differ, and the first different item.
    """
    first, *others = texts
    for other in others:
        for one, two in zip_longest(texts[first], texts[other]):
            if one is None or two is None or one.id != two.id:
                ids = [f"'{text.id}'" if text else "nothing" for text in (one, two)]
                raise LensflowError(
                    f"{first} and {other} do not hold the same items in the same order: {' in place of '.join(ids)}; "
                    f"give "
                    "translations the same id, and name its column by the corpus's id"
                )
