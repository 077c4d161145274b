"""Supervised fine-tuning on instructions and answers: xSFT, a baseline of the Lens paper (arXiv 2410.04407).

In the paper, xSFT uses as much data as Lens, and xSFT-Full uses all data; `examples` sets the amount. By default only
the target languages are trained on, the same ones that Lens pushes. `languages: all` adds the central language's
answers, and `replay` adds some of them, so that the model forgets less. With `layers`, only the top blocks train;
embeddings, final norm and output layer are frozen, too. These are the weights that Lens trains, with cross-entropy as
the loss. (LinguaMap, arXiv 2601.20009, tunes the last one or two blocks.)

Training lowers the mean of -log p(y_i | x, y_1 … y_{i-1}) over the tokens of the answers y to prompts x, in the
backbone's own prompt format, EOS included. The defaults come from Stanford Alpaca and HF's Trainer. For adapters they
come from QLoRA (Dettmers et al., 2023), Alpaca-LoRA and peft. Each key names its source. The method is told no
language.
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
        ValueError: no item has an answer; see `Method.check_items`.
    """
    answered = [item for item in items if language in item.get("answer", {})]
    if not answered:
        raise ValueError(
            f"kind: {kind} trains on answers, and corpus '{setting.training}' has none in '{language}'; add "
            "them to its train.jsonl, or choose another method or corpus"
        )
    return answered


class Sft(FineTuning):
    """Supervised fine-tuning on prompts and answers; the loss counts only the answers' tokens."""

    kind: Literal["sft"]
    languages: Literal["targets", "all"] = "targets"
    """Train on the `targets`, or on `all` languages."""
    replay: Count | None = None
    """Number of items of the central language that are trained on as well. The first ones are taken."""

    def languages_in(self, setting: Setting) -> tuple[str, ...]:
        """Return the languages that are trained on."""
        return setting.targets if self.languages == "targets" else setting.languages

    @model_validator(mode="after")
    def _replay_once(self) -> Self:
        if self.replay is not None and self.languages == "all":
            raise ValueError("replay: languages: all already includes the central language; drop one of the two keys")
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
    """Train on every answer of the train split; the dev loss is recorded if the dev split has answers."""
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
