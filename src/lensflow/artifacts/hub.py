"""Data sets of the Hugging Face hub, and local folders that open like them."""

import os
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensflow.artifacts import tables
from lensflow.errors import LensflowError, of_the_hub
from lensflow.storage.parsing import LARGEST_JSON, LONGEST_LINE

if TYPE_CHECKING:
    from pyarrow import Table

ROOT_VARIABLE = "LENSFLOW_DATASETS_ROOT"
_SHIFTED = "__index_level_0__"  # pandas' column for the first cells of lines that have a cell too many
CONVERTED = "refs/convert/parquet"  # the branch of a data set with the hub's conversion, {config}/{split}/*.parquet


def datasets_root(configured: str | None) -> Path | None:
    """Return the folder of local copies of the hub's data sets: the configured one, or else the environment
    variable's."""
    value = configured or os.environ.get(ROOT_VARIABLE)
    return Path(value).expanduser() if value else None


def local_copy(name: str, root: Path | None) -> Path | None:
    """Return a data set's local copy below `root`, or the local file of this name; None if there is neither."""
    if root and (root / name).exists():
        return root / name
    return Path(name) if Path(name).is_file() else None


def local_files(name: str, root: Path | None) -> list[Path]:
    """Return the files of a data set's local copy; empty if there is no copy."""
    copy = local_copy(name, root)
    if copy is None or copy.is_file():
        return [copy] if copy else []
    return sorted(path for path in copy.rglob("*") if path.is_file())


def load_split(
    name: str,
    config: str | None,
    split: str,
    local: Path | None,
    revision: str | None,
    where: str,
    file: str | None = None,
    field: str | None = None,
) -> tuple[Generator[dict[str, Any]], str | None]:
    """Open a split of a data set: from its local copy if there is one, else from the hub.

    Args:
        name: name on the hub.
        config: the data set's configuration; None for its only one.
        split: split of the data set.
        local: folder of a copy.
        revision: commit of the hub's data set; None for the newest.
        where: the beginning of messages.
        file: a file of the data set that is read without a loading script; `{config}` and `{split}` are filled in.
        field: key of a JSON file that holds the rows.

    Returns:
        The items, read one after the other, and the revision of the hub's data set. Close the items: their file
        is open.

    Raises:
        LensflowError: one line that says why the split cannot be loaded and what to do.
    """
    if file is not None or tables.is_table(name) or (local and local.is_file()):
        named = (file or "").replace("{config}", config or "").replace("{split}", split)
        return _as_published(name, named, local, revision, field, where)
    if field is not None:
        raise LensflowError(f"{where}: field is a key of a JSON file; name the file by file, or remove field")
    if local:
        return _of_a_copy(local, config, split, where), None
    with _named(where, local):
        loaded, revision = _of_the_hub(name, config, split, revision)
    return _rows(loaded, where, local), revision


@contextmanager
def _named(where: str, local: Path | None) -> Iterator[None]:
    try:
        yield
    except LensflowError:
        raise
    except StopIteration:
        raise LensflowError(f"{where}: the split has an empty file; fill or remove it") from None
    except Exception as error:  # the hub's, the builders' and the file formats' errors have no common type
        raise LensflowError(f"{where}: {_reason(error, local)}") from None


def _rows(loaded: Any, where: str, local: Path | None) -> Generator[dict[str, Any]]:
    is_csv = getattr(loaded, "builder_name", None) == "csv"
    with _named(where, local):
        for row in loaded:
            if is_csv and _SHIFTED in row:
                raise LensflowError(f"{where}: the lines of its CSV file have more cells than columns; correct them")
            yield dict(row)


def _of_a_copy(local: Path, config: str | None, split: str, where: str) -> Generator[dict[str, Any]]:
    """Read a split of a local folder that opens like a data set of the hub; only the needed rows are read."""
    import datasets

    _check_lines(local, where)
    # A cache of its own: the local files may have changed under the same name.
    with tempfile.TemporaryDirectory() as cache, _named(where, local):
        builder = datasets.load_dataset_builder(str(local), config, cache_dir=cache)
        yield from _rows(_streamed(builder, split), where, local)


def _as_published(
    name: str, file: str, local: Path | None, revision: str | None, field: str | None, where: str
) -> tuple[Generator[dict[str, Any]], str | None]:
    """Open one file as its authors published it, from the local copy or from the hub's data set."""
    if tables.is_table(name) or (local and local.is_file()):
        if local is None:
            raise LensflowError(f"{where}: no such file, neither here nor below datasets_root; correct path")
        return tables.read_rows(local, file or None, field, where), None
    from huggingface_hub import HfApi, hf_hub_download

    outer, member = tables.of_archive(file)
    if local is None:
        with _named(where, local):
            revision = revision or HfApi().dataset_info(name).sha
            path = Path(hf_hub_download(name, outer, repo_type="dataset", revision=revision))
        return tables.read_rows(path, member, field, where), revision
    if not (local / outer).is_file():
        raise LensflowError(f"{where}: {local} has no file {outer}; correct file, or put the data set there")
    return tables.read_rows(local / outer, member, field, where), None


def _of_the_hub(name: str, config: str | None, split: str, revision: str | None) -> tuple[Any, str | None]:
    """Return a split of a data set of the hub, and its revision; only the rows that are read are fetched.

    A loading script is never run. If no revision is asked for, the hub's own conversion of such a data set is used
    (branch `CONVERTED`). The revision of the conversion can be asked for like any other.
    """
    import datasets
    from huggingface_hub import HfApi

    found = revision or HfApi().dataset_info(name).sha
    try:
        return _streamed(datasets.load_dataset_builder(name, config, revision=found), split), found
    except (RuntimeError, ValueError) as error:  # the library's for a script, and for a configuration that is not there
        if revision is None and not _is_script(error):
            raise
        converted = HfApi().dataset_info(name, revision=revision or CONVERTED)
        folder = f"{config or 'default'}/{split}/"
        if not any(file.rfilename.startswith(folder) for file in converted.siblings or ()):
            raise
        files = {split: f"{folder}*.parquet"}
        builder = datasets.load_dataset_builder(name, data_files=files, revision=converted.sha)
        return _streamed(builder, split), converted.sha


def _streamed(builder: Any, split: str) -> Iterable[Mapping[str, Any]]:
    """Return a split of an opened data set, whose rows are read when they are asked for.

    Where the library reads Parquet files in threads, they are read in this one; see `tables.parquet_batches`.
    """
    if builder.name == "parquet":
        builder._generate_tables = partial(_of_parquet, builder)
    rows: Iterable[Mapping[str, Any]] = builder.as_streaming_dataset(split=split)
    return rows


def _of_parquet(builder: Any, files: Iterable[str], **parts: Any) -> Iterator[tuple[tuple[int, int], "Table"]]:
    """Yield the parts of Parquet files, with their keys, as the library's builder of such data sets does."""
    import fsspec
    from pyarrow import Table

    for place, name in enumerate(files):
        with fsspec.open(name, "rb") as file:
            for number, batch in enumerate(tables.parquet_batches(file, builder.config.columns)):
                yield (place, number), builder._cast_table(Table.from_batches([batch]))


def _is_script(error: Exception) -> bool:
    return "scripts are no longer supported" in str(error)


def _check_lines(folder: Path, where: str) -> None:
    """Check that no line of a text file and no JSON file of a data set is large enough to fill the memory.

    Raises:
        LensflowError: one is too large; the message names the file and the line.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".json" and path.stat().st_size > LARGEST_JSON:
            raise LensflowError(f"{where}: {path} has more than {LARGEST_JSON} bytes; write it as .jsonl or parquet")
        if path.suffix in (".jsonl", ".ndjson", ".csv", ".tsv", ".txt"):
            with path.open("rb") as file:
                for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
                    if len(line) > LONGEST_LINE:
                        raise LensflowError(
                            f"{where}: {path}, line {number}: more than {LONGEST_LINE} bytes; shorten or remove it"
                        )


def _reason(error: Exception, local: Path | None) -> str:
    """Return in one line why a data set cannot be loaded, and what to do."""
    text = of_the_hub(error)
    if match := re.search(r"BuilderConfig '?([^']+?)'? not found\. Available: \[(.*?)\]", text):
        return f"no configuration '{match[1]}'; it has {match[2]}"
    if match := re.search(
        r"(?:Unknown|Bad) split:? [\"']?([^\"']+?)[\"']?\. (?:Should be|Available)[^[]*\[(.*?)\]", text
    ):
        return f"no split '{match[1]}'; it has {match[2]}"
    if _is_script(error):
        return (
            "is a script, which is not run, and no conversion of this configuration and split was found; set revision "
            f"to a commit of its branch {CONVERTED} or to null, or path to another data set with these items"
        )
    if local:
        return f"cannot be read ({text[:200]}); mend the files in {local}"
    if "gated" in text.lower():
        return "the hub wants its terms accepted; do that on its page and set HF_TOKEN"
    if re.search(r"Revision .*(doesn't exist|Not Found)", text, re.IGNORECASE):
        return "the hub has no such revision; set it to another commit, or to null for the newest"
    if "doesn't exist on the Hub" in text:
        return "the hub has no such data set, or it is private; check its name, or set HF_TOKEN"
    hint = f"check name, revision and network, or set {ROOT_VARIABLE} to a folder that holds a copy"
    return f"cannot be fetched from the hub ({text[:160]}); {hint}"
