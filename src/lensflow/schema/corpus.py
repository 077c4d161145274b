"""The section `corpora`: parallel prompts."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lensflow.schema.extraction import Dtype
from lensflow.schema.strict import Strict
from lensflow.schema.types import HUB_NAME_PATTERN, PATH_BELOW_PATTERN, REVISION_PATTERN, Count, Language


class CorpusDataset(Strict):
    """A data set of the hub, or a local folder that opens like it, as a corpus."""

    path: str = Field(pattern=HUB_NAME_PATTERN)  # on the hub, or below datasets_root
    revision: str | None = Field(default=None, pattern=REVISION_PATTERN)  # null: its newest
    file: str | None = Field(default=None, pattern=PATH_BELOW_PATTERN)  # of it, read as it is; {config}, {split}
    field: str | None = None  # key of a JSON file that holds the rows
    config: str | None = None  # its configuration; not with layout `configs`
    split: str = "train"
    # columns: a column a language; configs: a configuration a language; rows: a column says each row's language
    layout: Literal["columns", "configs", "rows"]
    languages: dict[Language, str] = Field(min_length=1)  # language -> name of its column, configuration or value
    language: str | None = None  # layout rows: the column with the language
    prompt: str = "{prompt}"  # layouts configs and rows: text with {column} for what stands in a column
    answer: str | None = None  # the same for the answer
    id: str | None = None  # column that identifies an item in every language; null: its place
    strip: bool = True  # white space at a prompt's ends; code: only of its probing texts
    aligned: bool = True  # whether items of one id are translations of each other; others serve only for probing
    train: Count  # so many items, then so many of dev and of test
    dev: Annotated[int, Field(ge=0)] = 0
    test: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits_its_layout(self) -> Self:
        if (self.layout == "rows") != (self.language is not None):
            raise ValueError("language: the column with the language; it belongs to layout rows, and only there")
        if self.layout == "configs" and self.config is not None:
            raise ValueError("config: with layout configs every language has its own; remove it")
        return self


class Corpus(Strict):
    """Parallel prompts: the embedded ones, `train.jsonl`, `dev.jsonl` and `test.jsonl` in a folder, or a data set."""

    path: str | None = None  # folder, or `embedded`, `embedded-1`, `embedded-udhr`
    dataset: CorpusDataset | None = None
    license: str
    with_answers: bool = False  # of a folder: a text is a prompt and its answer run together; code: to probe
    max_tokens: Annotated[int, Field(ge=2)] | None = None  # null: extraction.max_tokens; code: 64 to probe, 128 else
    dtype: Dtype | None = None  # null: extraction.dtype; code: float16 to probe, bfloat16 else

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("needs either path or dataset")
        if self.with_answers and self.dataset is not None:
            raise ValueError('with_answers: a data set has dataset.prompt for this, such as "{inputs}{targets}"')
        return self
