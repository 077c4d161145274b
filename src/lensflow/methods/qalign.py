"""Question alignment, the first stage of QAlign (Zhu et al., 2024, arXiv 2401.07817).

The model learns to translate a question from a target language into the central language. This needs parallel questions
but no answers. The second stage of QAlign, instruction tuning in the central language, is left out, so that the method
sees the same data as Lens.

Training lowers the mean of -log p over the tokens of the translation. The translation follows the instruction
"Translate this question from {language} into {central language}: …" (the wording is ours). The defaults are Stanford
Alpaca's values, as in the authors' code; adapters and their rate are QLoRA's. The method is told no language.
"""

from typing import Literal

from lensflow.methods.base import FineTuning, Run, Trained


class Qalign(FineTuning):
    """Translation of target-language prompts into the central language; the loss counts only the translation's
    tokens."""

    kind: Literal["qalign"]


Config = Qalign


def instruction(source: str, target: str, text: str) -> str:
    """Return the instruction for one pair of languages, with their English names."""
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
