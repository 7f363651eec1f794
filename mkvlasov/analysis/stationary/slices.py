"""Loadings as the stationary densities see them: sorted by the tilt s = H . a, on which alone p(w | a) depends."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mkvlasov._quadrature import trapezoidal_rule
from mkvlasov._typing import Array
from mkvlasov.problem.loadings import MOST_NODES, Gaussian, LoadingLaw

_REACH = 8.0
"""Standard deviations of Gaussian loadings: beyond lie 1e-15 of them."""
_FINEST = 7
"""Levels of the quadrature: spacings 2^0 to 2^-7 for Gaussian loadings."""


class Slices(NamedTuple):
    """Tilts of L loadings for each of S states, and the moments of the loadings that have them.

    Attributes
    ----------
    s : ndarray, shape (S, L)
        H . a.
    gram : ndarray, shape (S, L, 1 + K, 1 + K)
        E[(1, a)(1, a)^T] of the loadings with this tilt, times their probability.
    """

    s: Array
    gram: Array


def levels(law: LoadingLaw, features: int) -> range:
    """Return the levels of refinement that `slices` knows for a law: one where it is exact."""
    if law.is_exact:
        return range(1)
    if isinstance(law, Gaussian):
        return range(_FINEST + 1)
    return range(max(2, sum((8 * 2**level) ** features <= MOST_NODES for level in range(_FINEST + 1))))


def slices(law: LoadingLaw, H: Array, level: int, *, even: bool) -> Slices:
    """Return the slices for tilts H (S, K), with `even` phi one of each pair of Gaussian loadings +-a.

    Atoms are taken one by one. Gaussian loadings need a quadrature along H only, by the trapezoidal rule; across H
    they have mean 0 and variance 1 whatever the tilt. Other laws give nodes of their own, 4 * 2^level per feature.
    """
    states, features = H.shape
    if not isinstance(law, Gaussian):
        a, weights = law.nodes(features, 8 * 2**level)
        one = np.column_stack([np.ones(len(a)), a])
        gram = weights[:, None, None] * one[:, :, None] * one[:, None, :]
        return Slices(H @ a.T, np.broadcast_to(gram, (states, *gram.shape)))
    rule = trapezoidal_rule(0.5**level, _REACH)
    z, weights = rule.points, rule.weights[0] / rule.weights[0].sum()
    if even:
        # With phi even, (w, a) -> (-w, -a) maps the densities of a to those of -a; what couples them is invariant.
        z, weights = z[z >= 0.0], np.where(z > 0.0, 2.0, 1.0)[z >= 0.0] * weights[z >= 0.0]
    size = np.linalg.norm(H, axis=1)
    along = np.where(size[:, None] > 0.0, H / np.where(size > 0.0, size, 1.0)[:, None], np.eye(features)[0])
    gram = np.empty((states, len(z), 1 + features, 1 + features))
    gram[..., 0, 0] = 1.0
    gram[..., 0, 1:] = gram[..., 1:, 0] = z[:, None] * along[:, None]
    projector = along[:, :, None] * along[:, None, :]
    gram[..., 1:, 1:] = np.eye(features) + (z**2 - 1.0)[:, None, None] * projector[:, None]
    return Slices(size[:, None] * z, weights[:, None, None] * gram)
