"""Benchmarks whose items come from a data set."""

from typing import Any

from pydantic import Field, field_validator

from lensflow.schema.strict import Strict
from lensflow.schema.types import HUB_NAME_PATTERN, REVISION_PATTERN, TASK_PATTERN, Language


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


class FromDataset(Strict):
    """A benchmark whose items come from a data set, with a configuration a language."""

    dataset: Dataset
    # language -> the data set's name for it (ja: jp), or what else is particular to it
    languages: dict[Language, LanguageEntry] = Field(min_length=1)

    @field_validator("languages", mode="before", json_schema_input_type=dict[Language, str | LanguageEntry])
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: {"config": entry} if isinstance(entry, str) else entry for key, entry in value.items()}
        return value
