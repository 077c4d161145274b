"""Tasks of lm-eval."""

from typing import Any, Literal

from pydantic import Field

from lensflow.schema.dataset import FromDataset
from lensflow.schema.types import TASK_PATTERN, Name


class Task(FromDataset):
    """A task of lm-eval, or a task file of one's own in its format."""

    kind: Literal["lm_eval"]
    # folder/name, the folder below the project's or below lm-eval's own tasks; {code} is the language's configuration
    task: str = Field(pattern=TASK_PATTERN)
    functions: bool = False  # whether a task file of one's own may name Python functions, which then run
    chat: bool = False  # in the backbone's prompt format; False: the task's text as it is, as lm-eval does
    variables: dict[str, Any] = {}  # constants that the task file's templates can name
    overrides: dict[str, Any] = {}  # keys of the task file with other values, such as num_fewshot
    metrics: dict[Name, str] = {"accuracy": "acc"}  # name in the tables -> lm-eval's "metric" or "metric,filter"
