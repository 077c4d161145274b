"""Files with the items of a benchmark in one language."""

from pathlib import Path
from typing import Any

from lensflow.storage.atomic import write_json
from lensflow.storage.verified import read_jsonl


def write_origin(output: Path, **origin: str | bool | None) -> None:
    """Write where the rows of `output`, `{language}.jsonl`, came from: `{language}.source.json` beside it."""
    write_json(output.with_suffix(".source.json"), origin)


def read_items(path: Path, split: str = "items") -> dict[str, dict[str, Any]]:
    """Read what `fetch` wrote of one split: id -> item, in order."""
    return {row["id"]: row["item"] for row in read_jsonl(path) if row["split"] == split}
