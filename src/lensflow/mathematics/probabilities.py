"""Shares of next-token probability, and how far two distributions are apart."""

import torch
from torch import Tensor


def target_script_share(probabilities: Tensor, target: Tensor, latin: Tensor) -> Tensor:
    """Script mass: how much of the next-token probability on target-script or Latin tokens is on target-script ones.

    Args:
        probabilities: (n, V), at the last prompt token.
        target: (V,) bool, the tokens in the target language's scripts (`languages.script_masks`).
        latin: (V,) bool, the tokens in Latin script; no token is in both.

    Returns:
        (n,) float32 in [0, 1]; nan where neither has any probability.
    """
    probabilities = probabilities.float()
    on_target, on_latin = (probabilities @ mask.to(probabilities) for mask in (target, latin))
    return on_target / (on_target + on_latin)


def coarse_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of distributions over k tokens and the rest of the vocabulary, taken as one.

    It is at most the divergence over the whole vocabulary, and close to it if the k tokens have most of the probability
    of p.

    Args:
        p: (n, k), log-probabilities of k tokens each.
        q: (n, k), log-probabilities of the same tokens.

    Returns:
        (n,) float64 in nats, at least 0.
    """
    p, q = p.double(), q.double()
    # What float32 rounds to less than nothing counts as nothing.
    rest_p, rest_q = ((1 - logp.exp().sum(1)).clamp(min=1e-9) for logp in (p, q))
    return ((p.exp() * (p - q)).sum(1) + rest_p * (rest_p / rest_q).log()).clamp(min=0)


def families_among(logits: Tensor, families: Tensor, k: int, p: float) -> Tensor:
    """Return which families of tokens are among the k likeliest tokens that reach probability p together.

    A token counts if fewer than k tokens are likelier, and these have less than p together. With p = 1, k alone counts.

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
