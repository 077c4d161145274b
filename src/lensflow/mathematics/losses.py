"""The three terms of language subspace manipulation (Lens, arXiv 2410.04407; the sum is weighted by the caller).

All compare states of the top layer, the first dimension being the batch of n texts. `reduction` says what becomes of
the squared differences of one text: "sum" adds them over d (the squared norm of the paper), "mean" averages them over d
(the mean squared error of the published code, d times smaller). Both average over the batch.

Norms are taken in the r coordinates of a subspace instead of the d of the states: the same value, ‖B Bᵀx‖ = ‖Bᵀx‖ for
an orthonormal B, without n×d projections kept for the backward pass. Half-precision states are compared in float32.

The published code swaps the names (its "pull" is push here, and the other way round). As there, no term detaches its
arguments: whoever wants no gradient through the central states in `pull` passes them detached.
"""

from typing import Literal

import torch
from torch import Tensor

from lensflow.mathematics.projections import coordinates

Reduction = Literal["sum", "mean"]


def pull(target: Tensor, central: Tensor, agnostic: Tensor, reduction: Reduction = "sum") -> Tensor:
    """‖P_a(h_t) − P_a(h_c)‖²: the target language takes over the central one's semantics.

    Args:
        target: (n, d) last-token states of the target language.
        central: (n, d) of the same texts in the central language.
        agnostic: (d,) M_a, of any length but zero.
        reduction: see the module.
    """
    difference = _difference(target, central)
    unit = torch.nn.functional.normalize(agnostic, dim=-1).unsqueeze(-1)
    return _reduce(coordinates(difference, unit), target.shape[-1], reduction)


def push(target: Tensor, reference: Tensor, shift: Tensor, specific: Tensor, reduction: Reduction = "sum") -> Tensor:
    """‖P_s(h_t) − P_s(h⁰_t) − λ_t δ_t‖²: the target language moves along its own direction, to P_s(h⁰_t) + λ_t δ_t.

    Args:
        target: (n, d) last-token states of the target language.
        reference: (n, d) the same from the untouched backbone.
        shift: (d,) or (n, d), λ_t δ_t in the units of the states. It must lie in M_s, as `directions` has it: a part
            outside (which no state could reach in the projection, and which would only add a constant) is not counted.
        specific: (d, r) M_s, orthonormal.
        reduction: see the module.
    """
    moved = coordinates(_difference(target, reference), specific)
    wanted = coordinates(shift.to(moved), specific)
    return _reduce(moved - wanted, target.shape[-1], reduction)


def retain(central: Tensor, reference: Tensor, reduction: Reduction = "sum") -> Tensor:
    """‖h_c − h⁰_c‖²: the central language stays where it was.

    Args:
        central: (n, d) states of the central language: last tokens' (the paper), or means over token positions, whose
            difference is then the mean difference (the published code).
        reference: like `central`, from the untouched backbone.
        reduction: see the module.
    """
    return _reduce(_difference(central, reference), central.shape[-1], reduction)


def residual(target: Tensor, reference: Tensor, shift: Tensor, specific: Tensor) -> Tensor:
    """‖P_s(h_t) − P_s(h⁰_t) − λ_t δ_t‖ / ‖λ_t δ_t‖, (n,): what is left of the way to push's target.

    1 for untouched states, 0 for those that are there; more than 1 for those that went astray.

    Args:
        target: (n, d) states of the target language.
        reference: (n, d) the same from the untouched backbone.
        shift: (d,) λ_t δ_t, in M_s as for `push`, and not 0.
        specific: (d, r) M_s, orthonormal.
    """
    moved = coordinates(_difference(target, reference), specific)
    wanted = coordinates(shift.to(moved), specific)
    left: Tensor = (moved - wanted).norm(dim=-1) / wanted.norm()
    return left


def contrast(source: Tensor, target: Tensor, temperature: float) -> Tensor:
    """−mean_i log [exp(cos(p_i, q_i)/τ) / Σ_j exp(cos(p_i, q_j)/τ)]: translations come closer than other sentences.

    Source: mid-align (arXiv 2502.14830), one direction.

    Args:
        source: p, (n, d) states of n sentences.
        target: q, (n, d) of their translations.
        temperature: τ.
    """
    p, q = (torch.nn.functional.normalize(states, dim=-1) for states in (source, target))
    return torch.nn.functional.cross_entropy(p @ q.mT / temperature, torch.arange(len(p), device=p.device))


def _difference(states: Tensor, others: Tensor) -> Tensor:
    """`states` − `others` in float32 or better."""
    dtype = torch.promote_types(states.dtype, torch.float32)
    return states.to(dtype) - others.to(states.device, dtype)


def _reduce(residuals: Tensor, width: int, reduction: Reduction) -> Tensor:
    """Mean over the batch of the squared length of `residuals` (n, any), divided by d = `width` for "mean"."""
    length = residuals.square().sum(dim=-1).mean()
    return length / width if reduction == "mean" else length
