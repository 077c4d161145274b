"""The loss of `midalign`: the cross-entropy of answers, plus a term that aligns translations in one layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lensflow.mathematics.losses import contrast
from lensflow.methods import finetuning
from lensflow.models.batching import pad


@dataclass(frozen=True)
class Aligned(finetuning.Example):
    """An answered prompt, with the token ids of one sentence in the central language and of its translation."""

    source: Sequence[int] = ()
    target: Sequence[int] = ()


def padded_sentences(examples: Sequence[Aligned]) -> dict[str, Tensor]:
    """Pad the sentences of n examples: `sentences` (2n, T), with the central language first, and `lengths` (2n,)."""
    sentences, lengths = pad([list(e.source) for e in examples] + [list(e.target) for e in examples])
    return {"sentences": sentences, "lengths": lengths}


class AlignedLoss(nn.Module):
    """The cross-entropy of answers plus the weighted contrastive loss of sentences after one block."""

    def __init__(
        self, model: Any, blocks: nn.ModuleList, layer_of: Callable[[int], int], temperature: float, weight: float
    ) -> None:
        super().__init__()
        self.task = finetuning.Loss(model, blocks)
        self.temperature, self.weight, self.states = temperature, weight, torch.empty(0)
        blocks[layer_of(len(blocks))].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self.states = output[0] if isinstance(output, tuple) else output

    def forward(self, sentences: Tensor, lengths: Tensor, **answered: Tensor) -> dict[str, Tensor]:
        """Return the sum of both terms; the batch comes from `finetuning.Loss` and `padded_sentences`."""
        task = self.task(**answered)["loss"]
        self.task.model(sentences, use_cache=False, logits_to_keep=1)  # causal: the pads on the right change nothing
        places = torch.arange(sentences.shape[1], device=sentences.device)
        counted = ((places > 0) & (places < lengths[:, None])).float()
        means = torch.einsum("ntd,nt->nd", self.states.float(), counted) / counted.sum(1, keepdim=True).clamp(min=1)
        source, target = means.chunk(2)
        return {"loss": task + self.weight * contrast(source, target, self.temperature)}
