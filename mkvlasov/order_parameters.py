"""Order parameters: the overlaps that all routes are compared by, and what is read off them.

Shapes: weights w (..., N, m), loadings a (..., N, K), Q (..., m, m), R (..., m, K).
"""

from __future__ import annotations

import numpy as np

from mkvlasov._typing import Array


def overlaps(w: Array, a: Array) -> tuple[Array, Array]:
    """Return Q = mean of w w^T and R = mean of w a^T over the coordinates.

    Parameters
    ----------
    w : ndarray, shape (..., N, m)
    a : ndarray, shape (..., N, K)

    Returns
    -------
    Q : ndarray, shape (..., m, m)
    R : ndarray, shape (..., m, K)
    """
    transposed = np.swapaxes(w, -1, -2)
    return transposed @ w / w.shape[-2], transposed @ a / w.shape[-2]


def cosine_similarity(Q: Array, R: Array) -> Array:
    """Return q_jk = R_jk / sqrt(Q_jj), shape (..., m, K); zero where Q_jj = 0 (no weights, no direction)."""
    norm = np.sqrt(np.diagonal(Q, axis1=-2, axis2=-1))[..., None]
    return R / np.where(norm > 0.0, norm, 1.0)


def readout_alignment(Q: Array, R: Array) -> Array:
    """Return how well a linear read-out of the outputs can align with each feature, shape (..., K).

    The best combination W v of the columns of the weights has the cosine sqrt(R_k^T Q^+ R_k) with the feature u_k, the
    length of its projection onto the span of the weights; for one output this is |q_k|. Directions in which Q vanishes
    carry nothing (pseudo-inverse).
    """
    squared = np.einsum("...jk,...jl,...lk->...k", R, np.linalg.pinv(Q, rcond=1e-12, hermitian=True), R)
    return np.sqrt(np.clip(squared, 0.0, None))


def cosine_error(Q: Array, R: Array, Q_error: Array, R_error: Array) -> Array:
    """Return the error of the cosine similarity that errors of Q and R cause, to first order and at worst."""
    diagonal = np.diagonal(Q, axis1=-2, axis2=-1)[..., None]
    safe = np.where(diagonal > 0.0, diagonal, 1.0)
    diagonal_error = np.diagonal(Q_error, axis1=-2, axis2=-1)[..., None]
    return R_error / np.sqrt(safe) + 0.5 * np.abs(R) * diagonal_error / safe**1.5


def orthonormalize(a: Array) -> Array:
    """Return the loadings (..., N, K) nearest to `a` with mean of a a^T equal to the identity.

    The symmetric square root (polar decomposition) moves each loading the least: by O(1/sqrt N) for independent
    draws from a law with E[a a^T] = identity.
    """
    gram = np.swapaxes(a, -1, -2) @ a / a.shape[-2]
    values, vectors = np.linalg.eigh(gram)
    return a @ (vectors / np.sqrt(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)


def match_overlaps(w: Array, a: Array, Q: Array, R: Array) -> Array:
    """Return weights near `w` whose overlaps with orthonormal loadings `a` are exactly Q and R.

    The part of w along the features is replaced by R a; the rest is mapped linearly to covariance Q - R R^T. If
    Q - R R^T has directions of zero variance, they are zero in the result.

    Raises
    ------
    ValueError
        If the part of `w` off the features does not span the directions in which Q - R R^T has variance, so that no
        linear map gives it the wanted covariance.
    """
    n = w.shape[-2]
    R = np.broadcast_to(R, (*w.shape[:-2], *R.shape[-2:]))
    rest = w - a @ (np.swapaxes(a, -1, -2) @ w) / n
    values, vectors = np.linalg.eigh(np.swapaxes(rest, -1, -2) @ rest / n)
    spanned = values > 1e-12 * values.max(axis=-1, keepdims=True)
    inverse_roots = np.where(spanned, 1.0 / np.sqrt(np.where(spanned, values, 1.0)), 0.0)
    whitened = rest @ (vectors * inverse_roots[..., None, :] @ np.swapaxes(vectors, -1, -2))
    wanted = Q - R @ np.swapaxes(R, -1, -2)
    matched = whitened @ square_root(wanted)
    if np.abs(np.swapaxes(matched, -1, -2) @ matched / n - wanted).max() > 1e-9 * np.abs(Q).max():
        raise ValueError("the start has too little spread off the features for its overlaps to be matched exactly")
    return matched + a @ np.swapaxes(R, -1, -2)


def square_root(covariance: Array) -> Array:
    """Return the symmetric square root of positive semidefinite matrices (..., m, m); rounding below zero is cut."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :] @ np.swapaxes(vectors, -1, -2)
