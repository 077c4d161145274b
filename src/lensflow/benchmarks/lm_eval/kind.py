"""Tasks of lm-eval."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lensflow.benchmarks.base import Asker, FromDataset, Items, Row
from lensflow.languages import english_name
from lensflow.schema.types import TASK_PATTERN, Name


class Task(FromDataset):
    """A task of lm-eval, or a task file of one's own in its format."""

    kind: Literal["lm_eval"]
    # folder/name, the folder below the project's or below lm-eval's own tasks; {code} is the language's configuration
    task: str = Field(pattern=TASK_PATTERN)
    functions: bool = False  # whether a task file of one's own may name Python functions, which then run
    chat: bool = False  # in the backbone's prompt format; False: the task's text as it is, as lm-eval does
    fewshot_seed: int = Field(default=1234, ge=0)  # of the examples that are drawn; lm-eval's own
    variables: dict[str, Any] = {}  # constants that the task file's templates can name
    overrides: dict[str, Any] = {}  # keys of the task file with other values, such as num_fewshot
    # Regular expression whose first group, in an item's id, names the unit that statistics count; null: the item.
    unit: str | None = None
    metrics: dict[Name, str] = {"accuracy": "acc"}  # name in the tables -> lm-eval's "metric" or "metric,filter"

    def code_of(self, language: str, roots: Sequence[Path]) -> str:
        """Return the digest of the task's file and of what the file names."""
        from lensflow.benchmarks.lm_eval import files

        return files.file_digest(self._file(language, roots))

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Answer the requests that lm-eval makes of the items."""
        from lensflow.benchmarks.lm_eval import model, tasks

        task = tasks.LoadedTask(self, **self._loading(items, fewshot, language, roots))
        return task.ask(model.asking(asker, self.chat))

    def samples(self, rows: Sequence[Row], items: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Have lm-eval score the stored answers."""
        from lensflow.benchmarks.lm_eval import model, tasks

        # How examples were drawn is settled; lm-eval only has to read the answers.
        loading = self._loading(items, {}, language, roots)
        overrides = {key: value for key, value in loading["overrides"].items() if key != "fewshot_config"}
        task = tasks.LoadedTask(self, **loading | {"overrides": overrides | {"num_fewshot": 0}})
        return task.samples(model.replaying(rows), rows)

    def unit_of(self, id_: str) -> str:
        """Return the unit that an item's id names."""
        found = re.search(self.unit, id_) if self.unit else None
        return found[1] if found else id_

    def own_metrics(self) -> tuple[str, ...]:
        """Return the names that the tables have for lm-eval's metrics."""
        return tuple(self.metrics)

    def _file(self, language: str, roots: Sequence[Path]) -> Path:
        from lensflow.benchmarks.lm_eval import files

        return files.task_file(files.task_name(self.task, self.languages[language]), roots)

    def _loading(self, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> dict[str, Any]:
        entry = self.languages[language]
        constants = {"language_name": english_name(language), **self.variables, **entry.variables}
        return {
            "path": self._file(language, roots),
            "items": items,
            "fewshot": fewshot,
            "constants": constants,
            "overrides": self.overrides | entry.overrides,
        }


Config = Task
