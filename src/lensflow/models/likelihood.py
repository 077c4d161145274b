"""Scores from whole next-token distributions, from one pass over each sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensflow.mathematics.probabilities import coarse_divergence, target_script_share
from lensflow.models.batching import batches_by_length, last_token, pad

# Rows of logits that exist at a time; with a vocabulary of 262 k and float32 they take 268 MB.
BATCH_TOKENS = 256
KEPT = 256  # tokens of a distribution; the rest of the vocabulary counts as one
Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]
Counted = Sequence[tuple[list[int], list[bool]]]  # token ids, and which of them count


@dataclass(frozen=True)
class Likeliest:
    """Next-token distributions at n positions of a sequence, restricted to k tokens per position.

    Attributes:
        tokens: (n, k) int64.
        logp: (n, k) float32, the log-probabilities of these tokens.
    """

    tokens: Tensor
    logp: Tensor


@torch.inference_mode()
def read_prompts(
    model: Any, sequences: Sequence[list[int]], counted: Sequence[list[bool]], masks: Masks | None
) -> list[dict[str, float]]:
    """Score prompts with a causal language model.

    Equivalent code for one prompt: `model(ids).logits.log_softmax(-1)`, gathered at the next token and summed over the
    counted tokens; and the softmax of the last row, summed over the tokens of each script.

    Args:
        model: a transformers causal language model.
        sequences: N lists of token ids of whole rendered prompts.
        counted: N lists of the same lengths, true for tokens that belong to the text and not to the template. The first
            token is never counted, because no token comes before it.
        masks: vocabulary masks (V,) of the target script and of Latin, or None for a language in Latin script.

    Returns:
        For each prompt `nll` (nats, summed over its counted tokens), `tokens` (the number of counted tokens), and with
        masks `script_mass`.
    """
    rows: list[dict[str, float]] = [{} for _ in sequences]
    for batch in batches_by_length([len(sequence) for sequence in sequences], BATCH_TOKENS):
        ids, lengths = pad([sequences[index] for index in batch])
        ids = ids.to(model.device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        final = last_token(logits, lengths).float().cpu()
        for row, index in enumerate(batch):
            here, length = torch.tensor(counted[index][1:]), len(sequences[index])
            # A prompt at a time, in float32: in bfloat16 a sum over the vocabulary would be rounded to 8 bits.
            logp = logits[row, : length - 1].float().log_softmax(1).gather(1, ids[row, 1:length, None])[:, 0].cpu()
            rows[index] = {"nll": float((-logp)[here].double().sum()), "tokens": int(here.sum())}
        if masks is not None:
            target, latin = (_fit(mask, final.shape[1]) for mask in masks)
            mass = target_script_share(final.softmax(-1), target, latin)
            for row, index in enumerate(batch):
                rows[index]["script_mass"] = float(mass[row])
    return rows


def _fit(mask: NDArray[np.bool_], size: int) -> Tensor:
    """Pad or cut a vocabulary mask of the tokenizer to the size of the model's vocabulary, which some families round
    up."""
    fitted = torch.zeros(size, dtype=torch.bool)
    kept = min(size, len(mask))
    fitted[:kept] = torch.from_numpy(mask[:kept])
    return fitted


@torch.inference_mode()
def distributions(model: Any, sequences: Counted, candidates: Sequence[Tensor] | None = None) -> list[Likeliest]:
    """Read next-token distributions of a causal language model, restricted to some tokens of the vocabulary.

    Equivalent code for one sequence: `model(ids).logits.log_softmax(-1)`, at the positions before the counted tokens,
    gathered at the candidates.

    Args:
        model: a transformers causal language model.
        sequences: N pairs of token ids and a list of the same length, true for counted tokens. The first token never
            counts.
        candidates: N tensors (n, k) of token ids; None takes the k = `KEPT` likeliest tokens of each position.
    """
    found: dict[int, Likeliest] = {}
    for batch in batches_by_length([len(ids) for ids, _ in sequences], BATCH_TOKENS):
        ids, _ = pad([sequences[index][0] for index in batch])
        logits: Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits
        for row, index in enumerate(batch):
            counted = torch.tensor(sequences[index][1][1:], device=logits.device)
            logp = logits[row, : len(counted)][counted].float().log_softmax(1)
            if candidates is None:
                kept = logp.topk(min(KEPT, logp.shape[1]), 1).indices
            else:
                kept = candidates[index].to(logp.device)
            found[index] = Likeliest(kept.cpu(), logp.gather(1, kept).cpu())
    return [found[index] for index in range(len(sequences))]


def drift(before: Sequence[Likeliest], after: Sequence[Likeliest]) -> list[dict[str, float]]:
    """Compare the distributions of two models at the same tokens, both read by `distributions`.

    Returns:
        For each sequence `kl` (nats, summed over positions) and `tokens` (the number of positions).
    """
    return [
        {"kl": float(coarse_divergence(one.logp, other.logp).sum()), "tokens": len(one.logp)}
        for one, other in zip(before, after, strict=True)
    ]
