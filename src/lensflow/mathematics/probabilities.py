"""Shares of next-token probability."""

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
