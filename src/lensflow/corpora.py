"""Parallel corpora: one JSON line an item, the same item in every language."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from lensflow.config import CorpusDataset, resolve
from lensflow.errors import LensflowError
from lensflow.files import digest, read_jsonl, write_jsonl
from lensflow.items import load_split, local_copy, write_origin

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Items = dict[Split, list[dict[str, Any]]]


@dataclass(frozen=True)
class Text:
    """One item in one language, and the line of its file that it stands in."""

    id: str
    split: Split
    prompt: str
    line: int


def folder(path: str, root: Path) -> Path:
    """Return where a corpus' files lie: in the package (`embedded`) or below `root`."""
    return Path(str(files("lensflow.data"))) / "corpus" if path == "embedded" else resolve(path, root)


def read_corpus(path: Path) -> Items:
    """Read and check the three splits of a corpus.

    A line is `{"id": ..., "prompt": {language: text, ...}, "answer": {...}}`; `answer` is optional.

    Raises:
        LensflowError: a file is missing or has no items, a line is not valid, a text is empty, an id or a text stands
            there twice, or a line lacks a language that others have.
    """
    if not path.is_dir():
        raise LensflowError(f"corpus {path}: no such folder; it must hold train.jsonl, dev.jsonl and test.jsonl")
    corpus: Items = {split: read_jsonl(path / f"{split}.jsonl") for split in SPLITS}
    languages: set[str] | None = None
    seen_ids: dict[str, str] = {}
    seen_texts: dict[tuple[str, str], str] = {}
    for split, rows in corpus.items():
        if not rows:
            raise LensflowError(f"{path / split}.jsonl: no items; write at least one")
        for number, row in enumerate(rows, start=1):
            where = f"{path / split}.jsonl, line {number}"
            _check_shape(row, where)
            if row["id"] in seen_ids:
                raise LensflowError(f"{where}: id '{row['id']}' stands already in {seen_ids[row['id']]}; rename one")
            seen_ids[row["id"]] = where
            languages = languages or set(row["prompt"])
            if set(row["prompt"]) != languages:
                odd = sorted(set(row["prompt"]) ^ languages)[0]
                verb = "lacks" if odd in languages else "has, unlike the lines before it,"
                raise LensflowError(f"{where}: {verb} language '{odd}'; every line needs the same languages")
            for language, text in row["prompt"].items():
                if not text.strip():
                    raise LensflowError(f"{where}: the {language} prompt is empty; write or remove the item")
                if (language, text) in seen_texts:
                    raise LensflowError(
                        f"{where}: the {language} prompt is that of {seen_texts[language, text]}; rewrite or remove one"
                    )
                seen_texts[language, text] = where
    return corpus


def _check_shape(row: Any, where: str) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row.get("prompt"):
        raise LensflowError(f'{where}: must be {{"id": text, "prompt": {{language: text, ...}}}}; mend the line')
    for key in ("prompt", "answer"):
        if not isinstance(row.get(key, {}), dict):
            raise LensflowError(f"{where}: {key} must be {{language: text, ...}}; mend the line")
        for language, text in row.get(key, {}).items():
            if not isinstance(text, str):
                raise LensflowError(f"{where}: the {language} {key} is not text; mend the line")


def languages_of(corpus: Items) -> list[str]:
    """Return the languages of a checked corpus, in the order of its first line."""
    return list(corpus["train"][0]["prompt"])


def in_language(corpus: Items, language: str) -> list[dict[str, Any]]:
    """Return one language of a checked corpus: rows of id, split, prompt and, where there is one, answer."""
    rows = []
    for split, items in corpus.items():
        for item in items:
            row = {"id": item["id"], "split": split, "prompt": item["prompt"][language]}
            if language in item.get("answer", {}):
                row["answer"] = item["answer"][language]
            rows.append(row)
    return rows


def language_digests(corpus: Items) -> dict[str, str]:
    """Return the digest of each language's texts in a checked corpus: a new one leaves the others' stages alone."""
    return {language: digest(in_language(corpus, language)) for language in languages_of(corpus)}


def pair_data(path: Path, language: str, output: Path) -> None:
    """Write one language of a corpus as JSON lines (stage `pair_data`), and `{language}.source.json` beside it.

    Raises:
        LensflowError: the corpus is not valid or lacks the language.
    """
    corpus = read_corpus(path)
    if language not in languages_of(corpus):
        raise LensflowError(f"corpus {path}: no language '{language}'; it has {', '.join(languages_of(corpus))}")
    write_jsonl(output, in_language(corpus, language))
    write_origin(output, path=path.name, config=None, split=None, local=True, revision=None)


def pair_dataset(source: CorpusDataset, language: str, root: Path | None, output: Path) -> None:
    """Write one language of a data set as JSON lines (stage `pair_data`); the first items are train, dev is next.

    Beside it, `{language}.source.json` says where they came from, with the revision that the hub gave.

    Args:
        source: the data set.
        language: one of its languages.
        root: folder of local data sets, of which one with the data set's name is used instead of the hub's.
        output: the file.

    Raises:
        LensflowError: the data set cannot be had, lacks a column, has too few items or an empty prompt.
    """
    name = source.languages[language]
    config = name if source.layout == "configs" else source.config
    where = f"corpus {source.path} ({config or 'default'}, {source.split}), language '{language}'"
    local = local_copy(source.path, root)
    items, revision = load_split(source.path, config, source.split, local, source.revision, where)
    if source.layout == "rows":
        items = [item for item in items if item.get(str(source.language)) == name]
    wanted = source.train + source.dev + source.test
    if len(items) < wanted:
        raise LensflowError(f"{where}: {len(items)} items, {wanted} are asked for; lower train, dev or test")
    splits = ["train"] * source.train + ["dev"] * source.dev + ["test"] * source.test
    prompt = f"{{{name}}}" if source.layout == "columns" else source.prompt
    rows = []
    places: dict[str, int] = {}
    for number, (split, item) in enumerate(zip(splits, items, strict=False), start=1):
        here = f"{where}, item {number}"
        row = {"id": _filled(f"{{{source.id}}}", item, here) if source.id else str(number - 1), "split": split}
        if row["id"] in places:
            raise LensflowError(
                f"{here}: id '{row['id']}' ({source.id}) is that of item {places[row['id']]}; choose another column"
            )
        places[row["id"]] = number
        row["prompt"] = _filled(prompt, item, here)
        if not row["prompt"]:
            raise LensflowError(f"{here}: the prompt is empty; choose other columns or fewer items")
        if source.answer is not None:
            row["answer"] = _filled(source.answer, item, here)
        rows.append(row)
    write_jsonl(output, rows)
    origin = {"path": source.path, "config": config, "split": source.split}
    write_origin(output, **origin, local=local is not None, revision=revision)


def _filled(template: str, item: dict[str, Any], where: str) -> str:
    """Fill `{column}` in a template from an item, without spaces at the ends."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in item:
            raise LensflowError(f"{where}: no column '{match[1]}'; it has {', '.join(item)}")
        return str(item[match[1]] if item[match[1]] is not None else "")

    return re.sub(r"\{([^{}]+)\}", value, template).strip()


def read_texts(path: Path, splits: Iterable[Split]) -> list[Text]:
    """Read the texts of some splits from what `pair_data` wrote, in the file's order."""
    wanted = set(splits)
    rows = enumerate(read_jsonl(path), start=1)
    return [Text(row["id"], row["split"], row["prompt"], line) for line, row in rows if row["split"] in wanted]


def check_aligned(texts: dict[str, Sequence[Text]]) -> None:
    """Check that several languages hold the same ids in the same order.

    Raises:
        LensflowError: naming the first two languages that differ.
    """
    first, *others = texts
    for other in others:
        if [text.id for text in texts[other]] != [text.id for text in texts[first]]:
            raise LensflowError(f"{first} and {other} do not hold the same items in one order; run pair_data again")
