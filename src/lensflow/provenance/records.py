"""Records: the inputs of every file that a stage wrote, and the code that wrote it.

Each run of a stage leaves a record beside its output, `{output}.record.json`. Paths in a record start from the record's
folder, so that a results folder can be moved or shared. A record does not name other paths of the machine.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lensflow.storage.atomic import write_json
from lensflow.storage.digests import current_digest
from lensflow.storage.environment import commit, machine, versions
from lensflow.storage.integrity import MANIFEST, RECORD, checked, record_of, relative
from lensflow.storage.journal import Journal, journal, spans


@contextmanager
def recording(stage: str, code: str, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[None]:
    """Check the inputs of a stage, and leave a record when the stage has succeeded.

    Args:
        stage: name of the stage.
        code: digest of the code behind the stage.
        config: configuration of the stage.
        arguments: arguments of the command line: paths, including `output`.

    Raises:
        LensflowError: an input is not the file that another stage wrote.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    with journal() as kept:
        for name, value in arguments.items():
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path) and name != "output":
                    checked(path)
        yield
    output: Path = arguments["output"].absolute()
    # What Snakemake knows of a checkpoint, and of tables and figures, is their folder.
    made = output.parent if output.name == MANIFEST else output
    inputs, sources = _read(kept, made)
    write_json(
        made.with_name(f"{made.name}{RECORD}"),
        {
            "stage": stage,
            "output": made.name,
            "config": without_places(config),
            "seed": config.get("seed"),
            "inputs": inputs,
            "lines": _used(kept, made, inputs),
            "sources": sources,
            "outputs": _written(kept, made),
            "code": {"commit": commit(), "digest": code},
            "versions": versions(),
            "machine": machine(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
        },
    )


def is_finished(output: Path, code: str, config: Mapping[str, Any], inputs: Iterable[Path]) -> bool:
    """Return whether an output exists and its record names these inputs, this code and this configuration.

    Raises:
        LensflowError: the record is damaged.
    """
    if not output.is_file() or (found := record_of(output)) is None:
        return False
    path, record = found
    made_of = {*record["inputs"].values(), *(source["sha256"] for source in record["sources"])}
    return (
        (record["code"]["digest"], record["config"]) == (code, without_places(config))
        and record["outputs"][relative(output, path.parent)] == current_digest(output)
        and made_of.issuperset(current_digest(file) for file in inputs)
    )


def _read(kept: Journal, made: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the files that were read, as path -> sha256. Files outside the results folder are listed by name only."""
    package, here = Path(__file__).parents[1], Path.cwd()
    inputs, sources = {}, []
    for path, sha256 in kept.read.items():
        if path.is_relative_to(made):  # of a checkpoint that is being written
            continue
        if path.is_relative_to(package):
            sources.append({"name": path.relative_to(package.parent).as_posix(), "sha256": sha256})
        elif record_of(path) or (path.is_relative_to(here) and made.is_relative_to(here)):
            inputs[relative(path, made.parent)] = sha256
        else:
            sources.append({"name": path.name, "sha256": sha256})
    return inputs, sources


def _used(kept: Journal, made: Path, inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the lines of inputs that a stage reported as used: path -> spans."""
    lines = {relative(path, made.parent): spans(numbers) for path, numbers in kept.lines.items()}
    return {name: numbers for name, numbers in lines.items() if name in inputs}


def _written(kept: Journal, made: Path) -> dict[str, str]:
    """Return the files that were written and still exist, as path -> sha256.

    Hidden files only help an interrupted run to continue.
    """
    folder = made if made.is_dir() else made.parent
    files = [path for path in kept.written if path.is_relative_to(folder) and path.is_file()]
    named = {relative(path, made.parent): path for path in sorted(files)}
    return {name: current_digest(path) for name, path in named.items() if "/." not in f"/{name}"}


def without_places(value: Any) -> Any:
    """Return a configuration in which absolute paths are shortened to their last name."""
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_places(inner) for inner in value]
    is_place = isinstance(value, str) and value.startswith(("/", "~")) and Path(value).expanduser().exists()
    return f".../{Path(value).name}" if is_place else value
