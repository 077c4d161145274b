"""A run as an RO-Crate (https://w3id.org/ro/crate): its readable files, its records, and every step as an action."""

import tempfile
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from rocrate.rocrate import ROCrate

from lensflow.errors import LensflowError
from lensflow.provenance.results import inside, records
from lensflow.storage.digests import SHA256, current_digest
from lensflow.storage.integrity import CORRUPT, RECORD, read_record, unchanged
from lensflow.storage.verified import read_json

SMALL = (
    *("tables/*", "figures/*/*", "report.html", "*.csv", "config.json", f"**/*{RECORD}", "**/manifest.json"),
    *("**/scores.json", "**/judged.json", "**/cost.json", "**/history.jsonl", "*/*/*/seed*/config.json"),
    "**/*.source.json",
)
DELTAS = ("**/delta.safetensors", "**/intervention.safetensors")
LICENSE = "https://spdx.org/licenses/Apache-2.0"


def write(results: Path, output: Path, *, deltas: bool) -> None:
    """Write a run's small files as a Workflow RO-Crate, with the Snakefile as its main entity.

    Args:
        results: folder of the run.
        output: a new folder, or a zip file if its name ends in .zip.
        deltas: whether to include the results of trainings.

    Raises:
        LensflowError: `output` exists, the folder has no records, or a record or file is damaged.
    """
    if output.exists():
        raise LensflowError(f"{output}: exists already; give a new folder or file")
    runs = [(path, read_record(path)) for path, _ in records(results)]
    crate = ROCrate()
    config = read_json(results / "config.json")
    crate.name = config["title"]
    crate.description = f"A run of Lensflow: {config['command']}"
    crate.license = LICENSE  # of the workflow; a backbone's own stands in config.json
    snakefile = _snakefile()
    crate.add_workflow(snakefile, "Snakefile", main=True, lang="snakemake", properties={"license": LICENSE})
    chosen = [*SMALL, *(DELTAS if deltas else ())]
    found = {
        path for pattern in chosen for path in results.glob(pattern) if path.is_file() and CORRUPT not in path.name
    }
    entities = {}
    for path in sorted(found):
        place = path.relative_to(results).as_posix()
        about = {"sha256": current_digest(unchanged(path), SHA256)}
        entities[path] = crate.add_file(path, f"results/{place}", properties=about)
    stages: dict[str, Any] = {}
    for path, record in runs:
        started = datetime.fromisoformat(record["started"])
        ended = started + timedelta(seconds=record["seconds"])
        name, commit = record["stage"], record["code"]["commit"]
        if name not in stages:
            about = {"@type": "SoftwareApplication", "name": f"lensflow {name}", "softwareVersion": commit or "unknown"}
            stages[name] = crate.add_jsonld({"@id": f"#{name}"} | about)
        read, wrote = (
            [entities[file] for key in record[role] if (file := inside(path, key)) in entities]
            for role in ("inputs", "outputs")
        )
        crate.add_action(
            stages[name],
            f"#{path.relative_to(results).as_posix().removesuffix(RECORD)}",
            object=read,
            result=wrote,
            properties={"name": name, "startTime": started.isoformat(), "endTime": ended.isoformat()},
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        whole = Path(temporary) / output.name
        crate.write_zip(whole) if output.suffix == ".zip" else crate.write(whole)
        whole.rename(output)


def _snakefile() -> Path:
    """Return the workflow that belongs to this code."""
    path = Path(str(files("lensflow"))).parents[1] / "Snakefile"
    if not path.is_file():
        raise LensflowError(f"{path}: no such file; write the crate from a checkout of Lensflow")
    return path
