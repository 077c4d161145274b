"""Contrastive alignment of a middle layer during fine-tuning (mid-align, arXiv 2502.14830).

A batch has sentences in the central language and their translations. p_i is the mean state of the i-th sentence after a
middle block, and q_i is the mean state of its translation, both without the first token. Training lowers the
cross-entropy of answers, as `sft` does, and also

    L = -mean_i log [exp(cos(p_i, q_i)/τ) / Σ_j exp(cos(p_i, q_j)/τ)]

The authors alternate batches of the task with batches of translations, with weight 1 and accumulated gradients. Here,
one step has both, and the translations of a batch are its own prompts. The defaults are the paper's: block 16 of 32
(the first half), τ = 0.1; adapters of rank 8, α 16 and dropout 0.1 on all linear layers; rate 5e-4 with the inverse
square root and 3 % warm-up; 10 epochs of batches of 32 (the authors accumulate 4). The method is told no language.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from lensflow.methods.base import Block, FineTuning, Lora, Run, Trained, blocks_of
from lensflow.methods.sft import check_answers
from lensflow.schema.setting import Setting
from lensflow.schema.types import Count, NonNegative, Positive


class MidAlign(FineTuning):
    """Fine-tuning on answers that also aligns translations in a middle layer."""

    of_blocks: ClassVar[tuple[str, ...]] = ("layer",)

    kind: Literal["midalign"]
    layer: Block | None = None
    """Block after which translations are aligned. The default is L/2 - 1 (paper)."""
    temperature: Positive = 0.1
    """Temperature τ of the contrastive loss. Source: paper."""
    weight: NonNegative = 1.0
    """Weight of the contrastive loss. Source: paper."""
    lora: Lora | None = Lora(dropout=0.1)
    """Adapters on every linear layer except the output layer; null trains all weights. Source: paper."""
    lr: Positive = 5e-4
    """Learning rate. Source: paper."""
    schedule: Literal["cosine", "linear", "inverse_sqrt", "constant"] = "inverse_sqrt"
    """Schedule of the learning rate. Source: paper."""
    epochs: Count = 10
    """Number of epochs. Source: paper."""
    batch_size: Count = 32
    """Examples per step. Source: paper."""

    @model_validator(mode="after")
    def _one_gpu(self) -> Self:
        if self.gpus > 1:
            raise ValueError("gpus: midalign compares all sentences of a batch with each other; drop this key")
        return self

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check that every target language has answers, and as many as the method asks for."""
        for language in setting.targets:
            super().check_items(check_answers(self.kind, items, setting, language), setting)


Config = MidAlign


def train(run: Run[MidAlign]) -> Trained:
    """Train on the answers of the train split and on the translations of their prompts."""
    import functools

    from lensflow.methods import alignment, finetuning

    tokenizer, method = finetuning.tokenizer_of(run), run.method

    def plain(text: str) -> list[int]:
        return tokenizer.ids_of(tokenizer.literal(text), add_special_tokens=True)

    def examples(split: str) -> list[finetuning.Example]:
        return [
            alignment.Aligned(
                f"{language} {row['id']}",
                *tokenizer.encode_answered(row["prompt"], row["answer"]),
                source=plain(central["prompt"]),
                target=plain(row["prompt"]),
            )
            for language in run.setting.targets
            for central, row in finetuning.pairs_of(run, language, split, "answer")
        ]

    def layer_of(depth: int) -> int:
        return depth // 2 - 1 if method.layer is None else blocks_of(method.layer, depth, "layer")[0]

    loss = functools.partial(
        alignment.AlignedLoss, layer_of=layer_of, temperature=method.temperature, weight=method.weight
    )
    return finetuning.fine_tune(run, examples("train"), examples("dev"), loss, alignment.padded_sentences)
