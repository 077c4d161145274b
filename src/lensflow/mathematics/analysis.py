"""What hidden states tell about languages, layer by layer: separability, retrieval, spectrum, angles, neighbourhoods.

Texts are parallel: the n-th state of every language belongs to the same text. All functions are pure and take NumPy
arrays.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from lensflow.errors import LensflowError
from lensflow.mathematics import statistics
from lensflow.mathematics.statistics import CONFIDENCE, Sample

Floats = NDArray[np.floating[Any]]
PERPLEXITY = 30.0  # sklearn's


def variance_shares(states: Floats) -> NDArray[np.float64]:
    """The share of the states' variance that is between languages, and the share that is between texts.

    The model of the states is x_li = m + a_l + b_i + e_li. The variances of a, b and e, summed over the dimensions, are
    estimated by equating mean squares (Searle, Casella and McCulloch, *Variance Components*, 1992, ch. 4). The estimate
    of a component that is 0 can be slightly negative. This is Fisher's criterion, between-class against within-class
    scatter, with the within-class part split into text and rest. A linear classifier would tell less: on the demo's
    models it separates the languages in every layer (96 to 100 % right).

    Args:
        states: (K, N, d), K >= 2 languages of N >= 3 texts.

    Returns:
        (2, 3): for language and for text, the share of the sum of the three variances, with its 95 % interval by the
        jackknife over
        texts (Efron and Stein, 1981) with Student's t.

    Raises:
        LensflowError: there are fewer than three texts, or all states are equal.
    """
    count, n, _ = states.shape
    if n < 3:
        raise LensflowError(f"hidden states: {n} texts are too few to estimate variances; use a corpus of 3 or more")
    x = states - states.mean((0, 1), dtype=np.float64)
    languages, texts = x.sum(1), x.sum(0)  # (K, d), (N, d)
    squares, of_texts = (x**2).sum(2), (texts**2).sum(1)  # (K, N), (N,)
    if not squares.any():
        raise LensflowError("hidden states: all states are equal; extract them again")
    whole = _shares(squares.sum(), (languages**2).sum(), of_texts.sum(), 0.0, count, n)
    # The same sums without one text each; x has mean 0, so that what is left adds up to minus that text.
    left_languages = ((languages**2).sum(1)[:, None] - 2 * np.einsum("kd,knd->kn", languages, x) + squares).sum(0)
    left = _shares(
        squares.sum() - squares.sum(0), left_languages, of_texts.sum() - of_texts, of_texts, count, n - 1
    )  # (2, N)
    half = t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.sqrt((n - 1) * left.var(1))
    return np.stack([whole, whole - half, whole + half], axis=1)


def _shares(total: Any, languages: Any, texts: Any, grand: Any, count: int, n: int) -> NDArray[np.float64]:
    """Shares of language and text from sums of squares: of states, of sums over texts, of sums over languages, and of
    both."""
    correction = grand / (count * n)
    between, by_text = languages / n - correction, texts / count - correction
    rest = (total - correction - between - by_text) / ((count - 1) * (n - 1))
    of_language, of_text = (between / (count - 1) - rest) / n, (by_text / (n - 1) - rest) / count
    return np.asarray(np.stack([of_language, of_text]) / (of_language + of_text + rest))


def retrieval_hits(states: Floats, central: int) -> NDArray[np.bool_]:
    """Whether the central language's nearest state, by cosine, belongs to the same text (cross-lingual retrieval).

    Args:
        states: (K, N, d).
        central: index of the central language.

    Returns:
        (K-1, N), for the other languages in their order.
    """
    unit = states / np.linalg.norm(states, axis=-1, keepdims=True)
    nearest = (np.delete(unit, central, axis=0) @ unit[central].T).argmax(-1)
    return np.asarray(nearest == np.arange(states.shape[1]))


def share_interval(hits: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Mean over languages of a share, with its 95 % interval, from (L, N).

    A text in all of its languages counts as one item.
    """
    if len(hits) == 1:
        return (float(hits.mean()), *statistics.proportion_interval(hits.sum(), hits.size))
    numerators = hits[:, None].astype(np.float64)
    sample = Sample(numerators, np.ones_like(numerators))
    return (sample.value, *statistics.interval(sample))


def without(states: Floats, basis: Floats) -> Floats:
    """The states (..., d) minus their projection on the span of an orthonormal basis (d, r): h − h B Bᵀ."""
    return np.asarray(states - states @ basis @ basis.T)


def spectrum(means: Floats) -> NDArray[np.float64]:
    """Singular values of the centred language means of each layer: (L, K, d) -> (L, K-1), the largest first.

    The squares of a layer add up to the sum of the squared distances of the means from their mean.
    """
    centred = means - means.mean(-2, keepdims=True, dtype=np.float64)
    return np.asarray(np.linalg.svd(centred, compute_uv=False)[..., : means.shape[-2] - 1])


def cosines(directions: Floats, others: Floats) -> NDArray[np.float64]:
    """Cosines of the angles between (..., K, d) directions and (..., J, d) others: (..., K, J)."""
    first, second = (np.asarray(x, dtype=np.float64) for x in (directions, others))
    first, second = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (first, second))
    return np.asarray(first @ np.swapaxes(second, -1, -2))


def neighbour_embedding(points: Floats) -> NDArray[np.float64]:
    """Embed (n, d) points, n >= 4, in the plane so that neighbours stay neighbours: (n, 2), by t-SNE.

    The algorithm is sklearn's version of van der Maaten and Hinton (2008). Distances between far groups, the sizes of
    groups, and the axes have no meaning. It uses one thread, so that the order of additions, and therefore the picture,
    does not depend on the number of cores.
    """
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    with threadpool_limits(limits=1):
        embedded = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    return np.asarray(embedded, dtype=np.float64)


def pareto_front(costs: ArrayLike, gains: ArrayLike) -> list[int]:
    """Indices, by rising cost, of the points that no other point beats.

    A point beats another one if it is better in one respect and not worse in the other.
    """
    costs, gains = np.asarray(costs, float), np.asarray(gains, float)
    no_worse = (costs[None] <= costs[:, None]) & (gains[None] >= gains[:, None])
    better = no_worse & ((costs[None] < costs[:, None]) | (gains[None] > gains[:, None]))
    return sorted(np.flatnonzero(~better.any(1)).tolist(), key=lambda index: (costs[index], index))
