"""Law of the pre-activations of the two views, given the order parameters (docs/theory.md, section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.problem.hidden import HiddenNodes


@dataclass(frozen=True, slots=True)
class ViewLaw:
    """Gaussian mixture of the pre-activations: given point p of the hidden law they are normal.

    Attributes
    ----------
    mean : ndarray, shape (S, P, m)
        R c_p, the same for both views; S states, P points.
    own : tuple of two ndarrays, shape (S, m, m)
        Covariance within each view.
    cross : ndarray, shape (S, m, m)
        Covariance between the views. Symmetric, because both views contain the same sample.
    weights : ndarray, shape (P,)
        Probabilities of the points.
    points : ndarray, shape (P, K)
    exchangeable : bool
        Whether the two views have the same law.
    """

    mean: Array
    own: tuple[Array, Array]
    cross: Array
    weights: Array
    points: Array
    exchangeable: bool

    def take(self, states: npt.NDArray[np.int64] | slice, points: slice = slice(None)) -> ViewLaw:
        """Return the law of some states, and of some of the points."""
        own = (self.own[0][states], self.own[1][states])
        mean = self.mean[states][:, points]
        return ViewLaw(mean, own, self.cross[states], self.weights[points], self.points[points], self.exchangeable)

    def deviations(self) -> tuple[Array, Array]:
        """Return the standard deviations of the pre-activations in each view, shape (S, m) each."""
        first, second = self.own
        sigma = np.sqrt(np.maximum(np.diagonal(first, axis1=-2, axis2=-1), 0.0))
        if self.exchangeable:
            return sigma, sigma
        return sigma, np.sqrt(np.maximum(np.diagonal(second, axis1=-2, axis2=-1), 0.0))

    def correlations(self) -> Array:
        """Return the correlations of entry j of view 1 with entry l of view 2, (S, m, m); 0 without variance."""
        first, second = self.deviations()
        product = first[:, :, None] * second[:, None, :]
        safe = np.where(product > 0.0, product, 1.0)
        return np.where(product > 0.0, np.clip(self.cross / safe, -1.0, 1.0), 0.0)


def view_law(Q: Array, R: Array, nodes: HiddenNodes, noise: Array, background: float) -> tuple[ViewLaw, Array]:
    """Return the law of the pre-activations for states (Q, R), and how far the states are from admissible ones.

    Cov(h^v, h^v' | point) = R Cov(c) R^T + eta (Q - R R^T) + S_vv' Q. Solvers may step slightly outside of
    Q - R R^T >= 0; its negative part is then removed.

    Parameters
    ----------
    Q : ndarray, shape (S, m, m)
    R : ndarray, shape (S, m, K)
    nodes : HiddenNodes
    noise : ndarray, shape (2, 2)
        S, the covariance of the augmentation noises.
    background : float
        eta.

    Returns
    -------
    law : ViewLaw
    violation : ndarray, shape (S,)
        Size of the negative part of Q - R R^T relative to the largest entry of Q.
    """
    learnt = R @ R.mT
    rest, removed = _positive_part((Q if Q.shape[-1] == 1 else 0.5 * (Q + Q.mT)) - learnt)
    overlap = rest + learnt
    shared = background * rest
    if nodes.covariance.any():
        shared = shared + R @ nodes.covariance @ R.mT
    exchangeable = bool(noise[0, 0] == noise[1, 1])
    first = shared + noise[0, 0] * overlap
    own = (first, first if exchangeable else shared + noise[1, 1] * overlap)
    mean = nodes.points @ R.mT
    law = ViewLaw(mean, own, shared + noise[0, 1] * overlap, nodes.weights, nodes.points, exchangeable)
    if removed.any():
        size = np.maximum(np.abs(Q).max(axis=(-2, -1)), np.abs(learnt).max(axis=(-2, -1)))
        removed = removed / size
    return law, removed


def _positive_part(matrix: Array) -> tuple[Array, Array]:
    """Return the nearest positive semidefinite matrices, and the size of what was removed."""
    if matrix.shape[-1] == 1:
        return np.maximum(matrix, 0.0), np.maximum(-matrix[:, 0, 0], 0.0)
    values, vectors = np.linalg.eigh(matrix)
    removed = np.maximum(-values[:, 0], 0.0)
    if not removed.any():
        return matrix, removed
    kept = np.maximum(values, 0.0)
    return (vectors * kept[:, None, :]) @ vectors.mT, removed


def folded(nodes: HiddenNodes) -> HiddenNodes:
    """Return the nodes of a symmetric law with one of each pair +-c; the nodes unchanged if the law is not symmetric.

    Averages of functions that are even in c are the same.
    """
    points, weights = nodes.points, nodes.weights
    order = np.lexsort(points.T)
    mirrored = np.lexsort(-points.T)
    same = np.array_equal(points[order], -points[mirrored]) and np.allclose(weights[order], weights[mirrored], 1e-14, 0)
    n = len(points)
    if not same or n < 2:
        return nodes
    kept = order[: (n + 1) // 2]
    doubled = 2.0 * weights[kept]
    if n % 2:  # the middle one is its own mirror image
        doubled[-1] *= 0.5
    return HiddenNodes(points[kept], doubled, nodes.covariance)
