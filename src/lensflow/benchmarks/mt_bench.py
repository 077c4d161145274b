"""Two-turn questions whose answers a judge rates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from lensflow.benchmarks.base import Asker, FromDataset, Items, Row, said
from lensflow.errors import LensflowError
from lensflow.schema.decoding import Decoding
from lensflow.schema.judge import Judge
from lensflow.schema.types import NonNegative

NEEDED = ("category", "turns")  # columns of a question; `reference` may be missing


class MtBench(FromDataset, Decoding):
    """Two-turn questions whose answers a judge rates from 1 to 10 (MT-Bench: Zheng et al., 2023)."""

    kind: Literal["mt_bench"]
    judged: ClassVar[str] = "quality"
    judge: Judge
    """The model that rates answers."""
    temperatures: dict[str, NonNegative] = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
    """Category -> temperature of sampling; other categories have `temperature`. Source: Zheng et al. (2023)."""

    def narrowed(self, languages: Sequence[str]) -> dict[str, Any]:
        """Return the configuration with these languages. The judge is left out, because no answer depends on it."""
        return super().narrowed(languages) | {"judge": Judge(model="").canonical()}

    def check(self, language: str, roots: Sequence[Path]) -> None:
        """Check that every item must have the columns that the questions are made of."""
        columns = (self.languages[language].dataset or self.dataset).columns
        if missing := next((column for column in NEEDED if column not in columns), None):
            raise LensflowError(f"dataset.columns: a benchmark of kind {self.kind} needs '{missing}', too; add it")

    def decoding(self, category: str) -> Decoding:
        """Return how answers to questions of a category are generated."""
        settings = {name: getattr(self, name) for name in Decoding.model_fields}
        return Decoding(**settings | {"temperature": self.temperatures.get(category, self.temperature)})

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Have every turn of every question answered, with the turns before it in the prompt."""
        messages: dict[str, list[dict[str, str]]] = {id_: [] for id_ in items}
        tokens: dict[str, list[list[int]]] = {id_: [] for id_ in items}
        for turn in range(max(len(item["turns"]) for item in items.values())):
            asked = [id_ for id_, item in items.items() if turn < len(item["turns"])]
            for id_ in asked:
                messages[id_].append({"role": "user", "content": asker.instruct(items[id_]["turns"][turn])})
            for category in dict.fromkeys(items[id_]["category"] for id_ in asked):
                here = [id_ for id_ in asked if items[id_]["category"] == category]
                tokenizer = asker.tokenizer
                prompts = [tokenizer.encode_rendered(tokenizer.conversation(messages[id_])) for id_ in here]
                for id_, answer in zip(here, said(asker, prompts, self.decoding(category)), strict=True):
                    messages[id_].append({"role": "assistant", "content": answer["answer"].strip()})
                    tokens[id_].append(answer["tokens"])
        return [
            {"answers": [turn["content"] for turn in messages[id_] if turn["role"] == "assistant"], "tokens": found}
            for id_, found in tokens.items()
        ]

    def samples(self, rows: Sequence[Row], items: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Return questions with their answers, as the judge reads them."""
        return [
            {"id": id_, "reference": item.get("reference") or []}
            | {key: item[key] for key in NEEDED}
            | {"answers": row["answers"]}
            for (id_, item), row in zip(items.items(), rows, strict=True)
        ]


Config = MtBench
