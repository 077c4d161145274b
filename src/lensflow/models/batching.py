"""Batches of right-padded texts, and the state that represents each text in them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lensflow.schema.extraction import Pooling


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pad token ids on the right.

    With causal attention, no real token sees a pad on its right. Its states therefore do not depend on the batch, and
    no mask is needed.

    Returns:
        ids (n, T) and lengths (n,), both int64.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    ids = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids, lengths


def last_token(states: Tensor, lengths: Tensor) -> Tensor:
    """Pick the last real token of right-padded states: (n, T, d), (n,) -> (n, d)."""
    return states[torch.arange(len(states), device=states.device), lengths.to(states.device) - 1]


def pool(states: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """The state that represents each of n right-padded texts: its last real token's, or the mean over its real tokens.

    Args:
        states: (n, T, d).
        lengths: (n,).
        pooling: `last` or `mean`; the mean is computed in float32.

    Returns:
        (n, d), in the dtype of `states`.
    """
    if pooling == "last":
        return last_token(states, lengths)
    pads = torch.arange(states.shape[1], device=states.device) >= lengths.to(states.device)[:, None]
    sums = states.masked_fill(pads[..., None], 0).sum(dim=1, dtype=torch.float32)
    return (sums / lengths.to(states.device)[:, None]).to(states.dtype)


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group indices so that each batch holds texts of similar length and at most `batch_tokens` padded tokens.

    The longest texts come first, so that a lack of memory shows at once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
