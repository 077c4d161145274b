"""The three terms of language subspace manipulation (Lens, arXiv 2410.04407). The caller computes their weighted sum.

All terms compare states of the top layer; the first dimension is the batch of n texts. `reduction` says how the squared
differences of one text are combined: "sum" adds them over d (the squared norm of the paper), "mean" averages them over
d (the mean squared error of the published code, d times smaller). Both average over the batch.

Norms are computed in the r coordinates of a subspace, not in the d coordinates of the states. The value is the same, ‖B
Bᵀx‖ = ‖Bᵀx‖ for an orthonormal B, and the backward pass does not keep n×d projections. Half-precision states are
compared in float32.

The published code swaps the names: its "pull" is push here, and its "push" is pull. As in the published code, no term
detaches its arguments. If the central states in `pull` should get no gradient, pass them detached.
"""

from typing import Literal

import torch
from torch import Tensor

from lensflow.mathematics.projections import coordinates

Reduction = Literal["sum", "mean"]


def pull(target: Tensor, central: Tensor, agnostic: Tensor, reduction: Reduction = "sum") -> Tensor:
    """‖P_a(h_t) − P_a(h_c)‖²: the target language takes the meaning from the central language.

    Args:
        target: (n, d) last-token states of the target language.
        central: (n, d) states of the same texts in the central language.
        agnostic: (d,) M_a, of any length except zero.
        reduction: see the module.
    """
    difference = _difference(target, central)
    unit = torch.nn.functional.normalize(agnostic, dim=-1).unsqueeze(-1)
    return _reduce(coordinates(difference, unit), target.shape[-1], reduction)


def push(target: Tensor, reference: Tensor, shift: Tensor, specific: Tensor, reduction: Reduction = "sum") -> Tensor:
    """‖P_s(h_t) − P_s(h⁰_t) − λ_t δ_t‖²: the target language moves along its own direction, to P_s(h⁰_t) + λ_t δ_t.

    Args:
        target: (n, d) last-token states of the target language.
        reference: (n, d) the same states from the untouched backbone.
        shift: (d,) or (n, d), λ_t δ_t in the units of the states. It must lie in M_s, as `directions` ensures. A part
            outside of M_s does not count: no state could reach it in the projection, and it would only add a constant.
        specific: (d, r) M_s, orthonormal.
        reduction: see the module.
    """
    moved = coordinates(_difference(target, reference), specific)
    wanted = coordinates(shift.to(moved), specific)
    return _reduce(moved - wanted, target.shape[-1], reduction)


def retain(central: Tensor, reference: Tensor, reduction: Reduction = "sum") -> Tensor:
    """‖h_c − h⁰_c‖²: the central language does not move.

    Args:
        central: (n, d) states of the central language: the last tokens' states (the paper), or means over token
            positions (the published code). The difference of such means is the mean difference.
        reference: as `central`, from the untouched backbone.
        reduction: see the module.
    """
    return _reduce(_difference(central, reference), central.shape[-1], reduction)


def residual(target: Tensor, reference: Tensor, shift: Tensor, specific: Tensor) -> Tensor:
    """‖P_s(h_t) − P_s(h⁰_t) − λ_t δ_t‖ / ‖λ_t δ_t‖, (n,): the share of the way to push's target that is left.

    The share is 1 for untouched states, 0 for states at the target, and above 1 for states that moved in a wrong
    direction.

    Args:
        target: (n, d) states of the target language.
        reference: (n, d) the same states from the untouched backbone.
        shift: (d,) λ_t δ_t, in M_s as for `push`, and not 0.
        specific: (d, r) M_s, orthonormal.
    """
    moved = coordinates(_difference(target, reference), specific)
    wanted = coordinates(shift.to(moved), specific)
    left: Tensor = (moved - wanted).norm(dim=-1) / wanted.norm()
    return left


def contrast(source: Tensor, target: Tensor, temperature: float) -> Tensor:
    """−mean_i log [exp(cos(p_i, q_i)/τ) / Σ_j exp(cos(p_i, q_j)/τ)]: a translation should be closer than other
    sentences.

    Source: mid-align (arXiv 2502.14830), in one direction.

    Args:
        source: p, (n, d) states of n sentences.
        target: q, (n, d) states of their translations.
        temperature: τ.
    """
    p, q = (torch.nn.functional.normalize(states, dim=-1) for states in (source, target))
    return torch.nn.functional.cross_entropy(p @ q.mT / temperature, torch.arange(len(p), device=p.device))


def _difference(states: Tensor, others: Tensor) -> Tensor:
    """`states` − `others` in float32 or better."""
    dtype = torch.promote_types(states.dtype, torch.float32)
    return states.to(dtype) - others.to(states.device, dtype)


def _reduce(residuals: Tensor, width: int, reduction: Reduction) -> Tensor:
    """Mean over the batch of the squared length of `residuals` (n, any); for "mean" it is divided by d = `width`."""
    length = residuals.square().sum(dim=-1).mean()
    return length / width if reduction == "mean" else length
