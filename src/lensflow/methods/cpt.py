"""Continual pre-training on the training corpus's texts, outside of any prompt format (Gururangan et al., 2020).

A text x is the prompt of an item. If the item has an answer, the answer follows on the next line. EOS ends the text.
Training lowers the mean of -log p(x_i | x_1 … x_{i-1}) over all tokens of the target languages' texts.

The defaults are the same as for `sft`: the values of Alpaca and QLoRA. The method is told no language.
"""

from typing import Literal

from lensflow.methods.base import FineTuning, Run, Trained
from lensflow.schema.setting import Setting

TEXTS = ("prompt", "answer")


class Cpt(FineTuning):
    """Continual pre-training on plain text: each prompt with its answer, if it has one. The loss counts every token."""

    kind: Literal["cpt"]
    languages: Literal["targets", "all"] = "targets"
    """Train on the `targets`, or on `all` languages."""

    def languages_in(self, setting: Setting) -> tuple[str, ...]:
        """Return the languages that are trained on."""
        return setting.targets if self.languages == "targets" else setting.languages


Config = Cpt


def train(run: Run[Cpt]) -> Trained:
    """Train on all text of the train split."""
    from lensflow.methods import finetuning

    tokenizer = finetuning.tokenizer_of(run)

    def examples(split: str) -> list[finetuning.Example]:
        return [
            finetuning.plain(tokenizer, f"{language} {row['id']}", "\n".join(row[key] for key in TEXTS if key in row))
            for language in run.method.languages_in(run.setting)
            for row in finetuning.rows_of(run, language, split)
        ]

    return finetuning.fine_tune(run, examples("train"), examples("dev"))
