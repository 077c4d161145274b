"""The data sets from which the items of benchmarks come."""

import re
from typing import Any, Self

from pydantic import Field, model_validator

from lensflow.schema.strict import Strict
from lensflow.schema.types import HUB_NAME_PATTERN, PATH_BELOW_PATTERN, REVISION_PATTERN, TABLE_PATTERN, TASK_PATTERN


class Dataset(Strict):
    """Source of a benchmark's items: a data set of the hub, a local copy of one, or a generator."""

    path: str = Field(pattern=HUB_NAME_PATTERN)
    """Data set of the hub or below `datasets_root`, or a file."""
    revision: str | None = Field(default=None, pattern=REVISION_PATTERN)
    """Commit of the hub's data set. The default is the newest one; it is recorded beside the items."""
    file: str | None = Field(default=None, pattern=PATH_BELOW_PATTERN)
    """One file of the data set, read without a loading script. `{config}` stands for the language's configuration,
    `{split}` for the split."""
    field: str | None = None
    """Key of a JSON file that holds the rows."""
    configs: tuple[str, ...] = Field(default=(), strict=False)
    """Configurations that are read one after the other, instead of the language's own. `{config}` in a name stands for
    the language's own configuration."""
    where: dict[str, str] = {}
    """Reads only the rows where a column has this value, such as `category: math`. The default is all rows."""
    split: str = "test"
    """Split that is evaluated."""
    fewshot_split: str | None = None
    """Split that lm-eval takes few-shot examples from. Without it there are no examples, unless `overrides` holds
    them."""
    columns: tuple[str, ...] = Field(min_length=1, strict=False)
    """Columns that every item must have."""
    id: str | None = None
    """Column that identifies an item. The default is the item's position."""

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
    """The settings of one language of a data set."""

    config: str
    """The data set's configuration of the language."""
    dataset: Dataset | None = None
    """Another data set with the same columns, such as an English original."""
    task: str | None = Field(default=None, pattern=TASK_PATTERN)
    """Task of lm-eval for this language only."""
    variables: dict[str, Any] = {}
    """Constants for the task file's templates in this language."""
    overrides: dict[str, Any] = {}
    """New values for keys of the task file in this language."""
