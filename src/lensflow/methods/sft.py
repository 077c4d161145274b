"""Supervised fine-tuning on instructions and answers: the paper's baseline xSFT.

The paper's xSFT sees as much data as Lens does, its xSFT-Full all that there is: `examples` is how much. By default
only the target languages are trained on, the ones that Lens pushes; `languages: all` adds the central one's answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lensflow.methods.base import FineTuning, Run, Trained
from lensflow.schema.setting import Setting


class Sft(FineTuning):
    """Supervised fine-tuning on prompts and answers; the loss is of the answers' tokens."""

    kind: Literal["sft"]
    languages: Literal["targets", "all"] = "targets"
    """Train on the `targets`, or on `all` languages."""

    def languages_in(self, setting: Setting) -> tuple[str, ...]:
        """Return the languages that are trained on."""
        return setting.targets if self.languages == "targets" else setting.languages

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check that there are answers in every language that is trained on."""
        for language in self.languages_in(setting):
            answered = [item for item in items if language in item.get("answer", {})]
            if not answered:
                raise ValueError(
                    f"kind: sft trains on answers, and corpus '{setting.training}' has none in '{language}'; add "
                    "them to its train.jsonl, or choose another method or corpus"
                )
            super().check_items(answered, setting)


Config = Sft


def train(run: Run[Sft]) -> Trained:
    """Train on every answer of the train split; the loss on dev is recorded where the dev split has answers."""
    from lensflow.methods import finetuning

    tokenizer = finetuning.tokenizer_of(run)

    def examples(split: str) -> list[finetuning.Example]:
        return [
            finetuning.answered(tokenizer, f"{language} {row['id']}", row["prompt"], row["answer"])
            for language in run.method.languages_in(run.setting)
            for row in finetuning.rows_of(run, language, split, "answer")
        ]

    return finetuning.fine_tune(run, examples("train"), examples("dev"))
