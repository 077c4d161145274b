"""Supervised fine-tuning on instructions and answers: xSFT, a baseline of the Lens paper (arXiv 2410.04407).

The paper's xSFT sees as much data as Lens does, its xSFT-Full all that there is: `examples` is how much. By default
only the target languages are trained on, the ones that Lens pushes; `languages: all` adds the central one's answers,
and `replay` some of them, against forgetting. With `layers` the top blocks alone train, which are Lens's weights with
cross-entropy as the loss (LinguaMap, arXiv 2601.20009, tunes the last one or two blocks): embeddings, final norm and
output layer are frozen, too.

Training lowers the mean of -log p(y_i | x, y_1 … y_{i-1}) over the tokens of the answers y to prompts x, in the
backbone's own prompt format, EOS included. Defaults come from Stanford Alpaca and HF's Trainer, for adapters from QLoRA
(Dettmers et al., 2023), Alpaca-LoRA and peft; each key names its source. The method is told no language.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from lensflow.methods.base import FineTuning, Run, Trained
from lensflow.schema.setting import Setting
from lensflow.schema.types import Count


def check_answers(
    kind: str, items: Sequence[Mapping[str, Any]], setting: Setting, language: str
) -> list[Mapping[str, Any]]:
    """Return the items with an answer in a language.

    Raises:
        ValueError: there is none; see `Method.check_items`.
    """
    answered = [item for item in items if language in item.get("answer", {})]
    if not answered:
        raise ValueError(
            f"kind: {kind} trains on answers, and corpus '{setting.training}' has none in '{language}'; add "
            "them to its train.jsonl, or choose another method or corpus"
        )
    return answered


class Sft(FineTuning):
    """Supervised fine-tuning on prompts and answers; only the answers' tokens count in the loss."""

    kind: Literal["sft"]
    languages: Literal["targets", "all"] = "targets"
    """Train on the `targets`, or on `all` languages."""
    replay: Count | None = None
    """Number of items of the central language that are trained on as well, the first ones."""

    def languages_in(self, setting: Setting) -> tuple[str, ...]:
        """Return the languages that are trained on."""
        return setting.targets if self.languages == "targets" else setting.languages

    @model_validator(mode="after")
    def _replay_once(self) -> Self:
        if self.replay is not None and self.languages == "all":
            raise ValueError("replay: languages: all has the central language already; drop one of the two keys")
        return self

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check that there are answers in every language that is trained on."""
        for language in self.languages_in(setting):
            super().check_items(check_answers(self.kind, items, setting, language), setting)
        if self.replay is not None:
            there = sum(setting.central in item.get("answer", {}) for item in items)
            if self.replay > there:
                raise ValueError(
                    f"replay: {self.replay} is more than the {there} items with answers in '{setting.central}' to "
                    f"train on in corpus '{setting.training}'; lower it"
                )


Config = Sft


def train(run: Run[Sft]) -> Trained:
    """Train on every answer of the train split; the loss on dev is recorded where the dev split has answers."""
    from lensflow.methods import finetuning

    tokenizer, central = finetuning.tokenizer_of(run), run.setting.central

    def examples(language: str, split: str) -> list[finetuning.Example]:
        return [
            finetuning.answered(tokenizer, f"{language} {row['id']}", row["prompt"], row["answer"])
            for row in finetuning.rows_of(run, language, split, "answer")
        ]

    languages = run.method.languages_in(run.setting)
    texts, dev = ([e for language in languages for e in examples(language, split)] for split in ("train", "dev"))
    if run.method.replay is not None:
        texts += examples(central, "train")[: run.method.replay]
    return finetuning.fine_tune(run, texts, dev)
