"""Data sets that the items of benchmarks come from."""

import re
from typing import Any, Self

from pydantic import Field, model_validator

from lensflow.schema.strict import Strict
from lensflow.schema.types import HUB_NAME_PATTERN, PATH_BELOW_PATTERN, REVISION_PATTERN, TABLE_PATTERN, TASK_PATTERN


class Dataset(Strict):
    """Where a benchmark's items come from: a data set of the hub, a local folder that opens like it, or a generator."""

    path: str = Field(pattern=HUB_NAME_PATTERN)  # on the hub, or below datasets_root
    # Commit of the hub's data set; null: its newest, which is then written down beside the items.
    revision: str | None = Field(default=None, pattern=REVISION_PATTERN)
    file: str | None = Field(default=None, pattern=PATH_BELOW_PATTERN)  # of it, read as it is; {config}, {split}
    field: str | None = None  # key of a JSON file that holds the rows
    configs: tuple[str, ...] = Field(default=(), strict=False)  # read one after the other, for the language's config
    split: str = "test"
    fewshot_split: str | None = None  # where lm-eval takes examples from; null: there are none, or overrides holds them
    columns: tuple[str, ...] = Field(min_length=1, strict=False)  # that every item must have
    id: str | None = None  # column that identifies an item; null: its place

    @model_validator(mode="after")
    def _examples_of_their_own(self) -> Self:
        if self.fewshot_split == self.split:
            raise ValueError(
                f"fewshot_split: '{self.split}' is the evaluated split, whose items num_fewshot would show with their "
                "answers; name another"
            )
        one_file = self.file is not None or re.search(TABLE_PATTERN, self.path)
        if one_file and self.fewshot_split and "{split}" not in (self.file or ""):
            raise ValueError(
                "fewshot_split: num_fewshot would draw from the file of evaluated items; name each split's by {split}"
            )
        return self


class LanguageEntry(Strict):
    """What is particular to one language of a data set."""

    config: str  # name of the data set's configuration
    dataset: Dataset | None = None  # another data set with the same columns, such as an English original
    task: str | None = Field(default=None, pattern=TASK_PATTERN)
    variables: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
