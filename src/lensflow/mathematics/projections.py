"""Orthogonal projections of hidden states, and angles between subspaces."""

import torch
from torch import Tensor


def coordinates(states: Tensor, basis: Tensor) -> Tensor:
    """Coordinates of `states` (..., d) in an orthonormal `basis` (d, r): h B, of shape (..., r), in the states' dtype.

    They have the same length as the projection (‖h B‖ = ‖h B Bᵀ‖), with r numbers instead of d.
    """
    return states @ basis.to(states)


def project(states: Tensor, basis: Tensor) -> Tensor:
    """Orthogonal projection h B Bᵀ of `states` (..., d) on the span of an orthonormal `basis` (d, r).

    Batches work as in a matrix product: states (L, n, d) and basis (L, d, r) are projected layer by layer. The result
    has the states' shape and dtype. The product is computed from the left, so the d×d projection matrix is never built.
    """
    basis = basis.to(states)
    return states @ basis @ basis.mT


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Principal angles between span(a) and span(b), in radians, the largest first.

    `a` (d, r) and `b` (d, s) need full column rank but not orthonormal columns. Returns float64 (min(r, s),). The
    angles are accurate to rounding at any size, because they come from cosines *and* sines (Björck & Golub 1973). The
    cosine alone has an error of 1e-8 near 0. So has the smallest angle of `scipy.linalg.subspace_angles` (1.17) if
    another angle is above 45°.
    """
    smaller, larger = sorted((torch.linalg.qr(a.double()).Q, torch.linalg.qr(b.double()).Q), key=lambda q: q.shape[-1])
    cosines = torch.linalg.svdvals(larger.mT @ smaller).flip(-1)
    sines = torch.linalg.svdvals(smaller - project(smaller.mT, larger).mT)
    return torch.atan2(sines, cosines)
