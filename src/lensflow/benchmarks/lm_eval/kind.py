"""Tasks of lm-eval."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lensflow.benchmarks.base import Asker, FromDataset, Items, Row
from lensflow.languages import english_name
from lensflow.schema.types import TASK_PATTERN, Name, Seed


class Task(FromDataset):
    """A task of lm-eval, or the user's own task file in its format."""

    kind: Literal["lm_eval"]
    task: str = Field(pattern=TASK_PATTERN)
    """Task file, folder/name: below this project, or one of lm-eval's own. `{code}` stands for the language's
    configuration."""
    functions: bool = False
    """Whether your own task file may name Python functions, which then run."""
    chat: bool = False
    """true puts the text into the backbone's prompt format; false keeps it as lm-eval does."""
    fewshot_seed: Seed = 1234
    """Seed of the few-shot examples that lm-eval draws. Source: lm-eval."""
    variables: dict[str, Any] = {}
    """Constants that the task file's templates can name."""
    overrides: dict[str, Any] = {}
    """New values for keys of the task file, such as `num_fewshot`."""
    unit: str | None = None
    """Regular expression on an item's id. Items with the same first group count as one unit in statistics. By default
    each item is one unit."""
    metrics: dict[Name, str] = {"accuracy": "acc"}
    """Name in the tables -> lm-eval's `metric` or `metric,filter`."""

    def code_of(self, language: str, roots: Sequence[Path]) -> str:
        """Return the digest of the task's file and of the files that it names."""
        from lensflow.benchmarks.lm_eval import files

        return files.file_digest(self._file(language, roots))

    def check(self, language: str, roots: Sequence[Path]) -> None:
        """Check the task's file: the source of examples, and the metrics."""
        from lensflow.benchmarks.lm_eval import checks

        entry = self.languages[language]
        source = entry.dataset or self.dataset
        overrides = self.overrides | entry.overrides
        checks.check(self._file(language, roots), source, overrides, self.metrics, language)

    def check_items(self, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> None:
        """Check that every right answer is one of the choices, and that there are enough examples."""
        from lensflow.benchmarks.lm_eval import tasks

        tasks.LoadedTask(self, **self._loading(items, fewshot, language, roots)).check_targets()

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Answer the requests that lm-eval makes from the items."""
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

    def shots(self, language: str, roots: Sequence[Path]) -> int:
        """Return what `num_fewshot` is in overrides, else in the task's file."""
        from lensflow.benchmarks.lm_eval import files

        config = files.read_task(self._file(language, roots)) | self.overrides | self.languages[language].overrides
        return config.get("num_fewshot") or 0

    def own_metrics(self) -> tuple[str, ...]:
        """Return the names of lm-eval's metrics in our tables."""
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
