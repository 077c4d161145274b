"""Data sets that the items of benchmarks come from."""

from typing import Any

from pydantic import Field

from lensflow.schema.strict import Strict
from lensflow.schema.types import HUB_NAME_PATTERN, REVISION_PATTERN, TASK_PATTERN


class Dataset(Strict):
    """Where a benchmark's items come from: a data set of the hub, a local folder that opens like it, or a generator."""

    path: str = Field(pattern=HUB_NAME_PATTERN)  # on the hub, or below datasets_root
    # Commit of the hub's data set; null: its newest, which is then written down beside the items.
    revision: str | None = Field(default=None, pattern=REVISION_PATTERN)
    split: str = "test"
    fewshot_split: str | None = None  # where lm-eval takes examples from; null: there are none, or overrides holds them
    columns: tuple[str, ...] = Field(min_length=1, strict=False)  # that every item must have
    id: str | None = None  # column that identifies an item; null: its place


class LanguageEntry(Strict):
    """What is particular to one language of a data set."""

    config: str  # name of the data set's configuration
    dataset: Dataset | None = None  # another data set with the same columns, such as an English original
    task: str | None = Field(default=None, pattern=TASK_PATTERN)
    variables: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
