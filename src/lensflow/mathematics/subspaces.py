"""The language-agnostic direction and the language-specific subspace of every layer, from each language's mean state.

Source: Lens (arXiv 2410.04407, "language subspace probing"). Lens takes the decomposition from LSAR (Xie et al., EMNLP
2022) and Piratla et al. (2020): M ≈ M_a 1ᵀ + M_s Γᵀ with M_a ⟂ M_s, where the columns of M are the K language means.

Both papers give an algorithm: centre M, SVD to rank r, rebuild M̂, M_a = pinv(M̂)ᵀ1 divided by its squared length, SVD
of M̂ − M_a 1ᵀ for M_s. This algorithm has a closed form, which the code uses:

- M̂ = m 1ᵀ + U S Vᵀ (m the grand mean, Vᵀ1 = 0). pinv(M̂)ᵀ1 is the shortest x with M̂ᵀx = 1, that is Uᵀx = 0 and mᵀx = 1,
  so x = w/‖w‖² with w = m − U Uᵀm, and M_a = x/‖x‖² = w: *the part of the grand mean that the differences between
  languages do not explain*.
- M̂ − M_a 1ᵀ = U (Uᵀm 1ᵀ + S Vᵀ) has the span of U, so the second SVD only rotates the basis within the same span. We
  keep the basis of the first SVD: its vectors are the principal axes of the differences between languages, in order.

With rank K-1 nothing is approximated: every language mean has the same projection on M_a (M_a itself), and δ_l is
simply m_l − m_c. A lower rank keeps the strongest differences, and only the fitted means M̂ agree on M_a.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lensflow.errors import LensflowError
from lensflow.mathematics.projections import project


@dataclass(frozen=True)
class Subspaces:
    """Language subspaces of one or more layers ("..." are the layer dimensions), in float64.

    `agnostic` (..., d): M_a in the units of the states, *not* of unit length. `specific` (..., d, r): M_s, orthonormal
    columns orthogonal to M_a, by falling share of the differences between languages, each one's largest entry positive.
    """

    agnostic: Tensor
    specific: Tensor


def fit_subspaces(means: Tensor, rank: int | None = None) -> Subspaces:
    """Fit the language-agnostic direction and the language-specific subspace to the language means (LSAR, algorithm 1).

    Args:
        means: (..., K, d), the mean state of each of K languages (rows) at each layer; the order of languages is free.
        rank: r, dimensions of the specific subspace, 1..K-1; by default K-1, as in Lens.

    Raises:
        LensflowError: there are fewer than two languages; `rank` is out of range; a mean is not finite; or the answer
            is not unique. The answer is not unique if the means differ in fewer than r dimensions (equal means, d <
            K-1), or if the grand mean lies in the specific subspace (zero or linearly dependent means at rank K-1, d <
            K). The published algorithm would then return an arbitrary axis or an M_a *inside* M_s. Both conditions are
            tested up to the rounding of the means' dtype.

    Limit: if several differences are equally strong, the axes (and at rank < K-1 even the span) are not unique.
    """
    count = means.shape[-2]
    if count < 2:
        raise LensflowError(f"languages: {count} given; at least 2 are needed to fit subspaces, add a target language")
    rank = count - 1 if rank is None else rank
    if not 1 <= rank < count:
        raise LensflowError(f"rank: {rank} is not in 1..{count - 1} (number of languages less one); change or drop it")
    rounding = 10 * torch.finfo(means.dtype).eps
    means = means.double()
    _refuse(~means.isfinite().all(dim=-1).all(dim=-1), "a language mean is not finite; extract the hidden states again")

    smallest = rounding * torch.linalg.matrix_norm(means)
    mean = means.mean(dim=-2, keepdim=True)
    axes, strengths, _ = torch.linalg.svd((means - mean).mT, full_matrices=False)
    dimensions = (strengths > smallest.unsqueeze(-1)).sum(dim=-1)
    _refuse(
        dimensions < rank,
        f"rank: the language means differ in fewer than {rank} dimensions; lower rank, or check for equal languages",
    )
    specific = axes[..., :rank]
    # An SVD leaves the signs open: fix them, for results that can be reproduced.
    specific = specific * specific.gather(-2, specific.abs().argmax(dim=-2, keepdim=True)).sign()

    agnostic = mean - project(mean, specific)
    agnostic = agnostic - project(agnostic, specific)  # removes what cancellation left: orthogonal to rounding
    _refuse(
        agnostic.norm(dim=(-2, -1)) <= smallest,
        "rank: no language-agnostic direction, the mean of all languages lies in the specific subspace; lower rank",
    )
    return Subspaces(agnostic.squeeze(-2), specific.contiguous())


def directions(means: Tensor, specific: Tensor, central: int) -> Tensor:
    """Direction of each language from the central one, δ_l = M_s M_sᵀ (m_l − m_c) (Lens, language subspace probing).

    Args:
        means: (..., K, d) language means.
        specific: (..., d, r) from `fit_subspaces`.
        central: index of the central language, whose own direction is zero.

    Returns:
        (..., K, d) float64, in the units of the states.
    """
    means = means.double()
    return project(means - means[..., [central], :], specific)


def _refuse(wrong: Tensor, reason: str) -> None:
    """Raise LensflowError with the first layer for which `wrong` (...) is true."""
    if wrong.any():
        layer = ", ".join(str(index) for index in wrong.nonzero()[0].tolist())
        raise LensflowError(f"layer {layer}: {reason}" if layer else reason)
