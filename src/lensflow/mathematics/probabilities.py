"""Shares of next-token probability, and how far two distributions are apart."""

import torch
from torch import Tensor


def target_script_share(probabilities: Tensor, target: Tensor, latin: Tensor) -> Tensor:
    """Script mass: the share of target-script tokens in the next-token probability of target-script and Latin tokens.

    Args:
        probabilities: (n, V), at the last prompt token.
        target: (V,) bool, the tokens in the target language's scripts (`languages.script_masks`).
        latin: (V,) bool, the tokens in Latin script; no token is in both.

    Returns:
        (n,) float32 in [0, 1]; nan if neither group has any probability.
    """
    probabilities = probabilities.float()
    on_target, on_latin = (probabilities @ mask.to(probabilities) for mask in (target, latin))
    return on_target / (on_target + on_latin)


def coarse_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of distributions over k tokens and one class for the rest of the vocabulary.

    It is at most the divergence over the whole vocabulary. It is close to that divergence if the k tokens have most of
    the probability of p.

    Args:
        p: (n, k), log-probabilities of k tokens.
        q: (n, k), log-probabilities of the same tokens.

    Returns:
        (n,) float64 in nats, at least 0.
    """
    p, q = p.double(), q.double()
    # What float32 rounds to less than nothing counts as nothing.
    rest_p, rest_q = ((1 - logp.exp().sum(1)).clamp(min=1e-9) for logp in (p, q))
    return ((p.exp() * (p - q)).sum(1) + rest_p * (rest_p / rest_q).log()).clamp(min=0)


def families_among(logits: Tensor, families: Tensor, k: int, p: float) -> Tensor:
    """Return which families of tokens are among the likeliest tokens, up to k tokens or up to total probability p.

    A token counts if fewer than k tokens are likelier and these tokens have less than p together. With p = 1, only k
    matters.

    Args:
        logits: (n, V).
        families: (V,) int64, from 0 to 3.
        k: number of tokens.
        p: probability.

    Returns:
        (n, 4) bool.
    """
    top = logits.topk(min(k, logits.shape[-1]), dim=-1)
    likely = (top.values - logits.logsumexp(-1, keepdim=True)).double().exp()
    kept = (likely.cumsum(-1) - likely < p) | (p >= 1)
    return torch.stack([((families[top.indices] == family) & kept).any(-1) for family in range(4)], dim=-1)
