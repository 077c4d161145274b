"""One language of a corpus as JSON lines (stage `pair_data`)."""

import re
from pathlib import Path
from typing import Any

from lensflow.artifacts.hub import load_split, local_copy
from lensflow.artifacts.items import write_origin
from lensflow.artifacts.texts import folder, in_language, languages_of, read_corpus
from lensflow.errors import LensflowError
from lensflow.schema.corpus import CorpusDataset
from lensflow.schema.stages import Pairing
from lensflow.storage.atomic import write_jsonl


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


def run(config: Pairing, *, root: Path, datasets_root: Path | None, output: Path) -> None:
    """Write one language of a corpus."""
    if config.dataset is not None:
        pair_dataset(config.dataset, config.language, datasets_root, output)
    elif config.path is not None:
        pair_data(folder(config.path, root), config.language, output)
    else:
        raise LensflowError("--config: needs key 'dataset' or 'path'; see lensflow show-config")
