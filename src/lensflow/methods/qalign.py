"""Question alignment (QAlign: Zhu et al., 2024, arXiv 2401.07817), its first stage.

The model learns to translate a question of a target language into the central language, which needs parallel questions
and no answers. QAlign's second stage, instruction tuning in the central language, is not part of it, so that the method
sees the same data as Lens.

Training lowers the mean of -log p over the tokens of the translation, which follows the instruction "Translate this
question from {language} into {central language}: …" (its words are ours). The authors' code has Stanford Alpaca's
values, and so have the defaults here; adapters and their rate are QLoRA's. The method is told no language.
"""

from typing import Literal

from lensflow.methods.base import FineTuning, Run, Trained


class Qalign(FineTuning):
    """Translation of target-language prompts into the central language; only its tokens count in the loss."""

    kind: Literal["qalign"]


Config = Qalign


def instruction(source: str, target: str, text: str) -> str:
    """Return what the model is asked, with languages by their English names."""
    return f"Translate this question from {source} into {target}: {text}"


def train(run: Run[Qalign]) -> Trained:
    """Train on the train split's pairs of every target language with the central one."""
    from lensflow.languages import english_name
    from lensflow.methods import finetuning

    tokenizer, central = finetuning.tokenizer_of(run), run.setting.central

    def examples(split: str) -> list[finetuning.Example]:
        return [
            finetuning.answered(
                tokenizer,
                f"{language} {row['id']}",
                instruction(english_name(language), english_name(central), row["prompt"]),
                translation["prompt"],
            )
            for language in run.setting.targets
            for translation, row in finetuning.pairs_of(run, language, split)
        ]

    return finetuning.fine_tune(run, examples("train"), examples("dev"))
