"""The section `corpora`: parallel prompts."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lensflow.schema.extraction import Dtype
from lensflow.schema.strict import Strict
from lensflow.schema.types import HUB_NAME_PATTERN, PATH_BELOW_PATTERN, REVISION_PATTERN, Language, PromptText


class CorpusDataset(Strict):
    """A corpus that is a data set of the hub, or a local copy of one."""

    path: str = Field(pattern=HUB_NAME_PATTERN)
    """Data set of the hub or below `datasets_root`, or a file: CSV, TSV, JSON, JSON lines, Parquet, or a zip
    archive of these."""
    revision: str | None = Field(default=None, pattern=REVISION_PATTERN)
    """Commit of the hub's data set. The default is the newest one; it is recorded beside the texts."""
    file: str | None = Field(default=None, pattern=PATH_BELOW_PATTERN)
    """One file of the data set, read without a loading script. `{config}` stands for the language's configuration,
    `{split}` for the split."""
    field: str | None = None
    """Key of a JSON file that holds the rows."""
    config: str | None = None
    """Configuration of the data set. With layout `configs`, each language has its own."""
    split: str = "train"
    """Split of the data set that the items come from."""
    layout: Literal["columns", "configs", "rows"]
    """Where the languages are. `columns`: a column per language. `configs`: a configuration per language.
    `rows`: a column names each row's language."""
    languages: dict[Language, str] = Field(min_length=1)
    """Language -> its column, its configuration, or its value in the language column."""
    language: str | None = None
    """With layout `rows`, the column that names the language."""
    prompt: PromptText = "{prompt}"
    """With layouts `configs` and `rows`, the template of a prompt; `{column}` stands for the value of a column."""
    answer: PromptText | None = None
    """Template of the answer, like `prompt`. Without it, the corpus has no answers."""
    id: str | None = None
    """Column that identifies an item in every language. The default is the item's position."""
    strip: bool = True
    """Whether white space at the ends of a prompt is removed. Published code: only for its probing texts."""
    aligned: bool = True
    """Whether items with the same id are translations of each other. If not, the corpus can be used only for
    probing."""
    train: Annotated[int, Field(ge=0)]
    """Number of items to train on. The first ones are taken. 0 is for a corpus that only benchmarks read."""
    dev: Annotated[int, Field(ge=0)] = 0
    """Number of the next items, which form the dev split: they watch training."""
    test: Annotated[int, Field(ge=0)] = 0
    """Number of the next items, which form the test split: they are held out."""

    @field_validator("prompt", "answer")
    @classmethod
    def _has_a_column(cls, value: str | None) -> str | None:
        if value is not None and (not re.search(r"\{[^{}]+\}", value) or "{{" in value):
            raise ValueError(
                "must name a column in single braces, such as {question}; otherwise all items have the same text"
            )
        return value

    @model_validator(mode="after")
    def _fits_its_layout(self) -> Self:
        if (self.layout == "rows") != (self.language is not None):
            raise ValueError("language: names the column with the language; use it only with layout rows")
        values = [*self.languages.values()]
        if self.layout == "rows" and (twice := next((name for name in values if values.count(name) > 1), None)):
            raise ValueError(f"languages: '{twice}' stands for two languages; the rows of one language have one value")
        if self.layout == "columns" and self.prompt != "{prompt}":
            raise ValueError("prompt: with layout columns, languages names the columns of the prompts; remove prompt")
        if self.layout == "configs" and self.config is not None:
            raise ValueError("config: with layout configs, languages names the configurations; remove config")
        if not self.train + self.dev + self.test:
            raise ValueError("train, dev and test are all 0; ask for items")
        return self


class Corpus(Strict):
    """Parallel prompts: the embedded ones, `train.jsonl`, `dev.jsonl` and `test.jsonl` in a folder, or a data set."""

    path: str | None = None
    """Folder with train.jsonl, dev.jsonl and test.jsonl, or `embedded`, `embedded-1`, `embedded-udhr`."""
    dataset: CorpusDataset | None = None
    """A data set, instead of `path`."""
    license: str
    """Licence of the texts."""
    with_answers: bool = False
    """Whether each text of a folder is a prompt and its answer in one string. Published code: to probe."""
    max_tokens: Annotated[int, Field(ge=2)] | None = None
    """Longest prompt in tokens. The default is `extraction.max_tokens`. Published code: 64 to probe, 128 to train."""
    dtype: Dtype | None = None
    """Precision in which the model reads this corpus's texts. The default is `extraction.dtype`. Published code:
    float16 to probe, bfloat16 to train."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("needs either path or dataset")
        if self.with_answers and self.dataset is not None:
            raise ValueError('with_answers: a data set has dataset.prompt for this, such as "{inputs}{targets}"')
        return self
