"""Where runs of finite dimension start: spread and bias of the overlaps of rows that are drawn independently."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from mkvlasov._typing import Array
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit.entries import Entries
from mkvlasov.limit.increments import sphere_projection
from mkvlasov.order_parameters import square_root
from mkvlasov.problem.conditional import GaussianMixture
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import Empirical, InitialLaw


@dataclass(frozen=True)
class RandomStart:
    """N times the covariance of the start and N times its bias."""

    covariance: Array
    bias: Array


def independent_start(problem: Problem, initial: InitialLaw) -> RandomStart:
    """Return covariance and bias (times N) of the start of runs whose rows are drawn independently.

    With A = mean of a a^T, orthonormalized loadings are a A^(-1/2), so that to second order R is moved by

        mean(w a^T) - R - (1/2) R (A - 1)  -  (1/2) (mean(w a^T) - R) (A - 1) + (3/8) R (A - 1)^2.

    All averages are polynomials of degree four in (w, a), taken exactly with Gauss-Hermite nodes.
    """
    Q, R = initial.overlaps(problem)
    entries = Entries(*R.shape)
    w, a, weights = _row_nodes(problem, initial)
    own = w[:, :, None] * w[:, None, :] - Q
    cross = w[:, :, None] * a[:, None, :] - R
    gram = a[:, :, None] * a[:, None, :] - np.eye(a.shape[1])
    change = entries.pack(own, cross - 0.5 * R @ gram)
    covariance = (change * weights[:, None]).T @ change
    second = np.einsum("n,nij->ij", weights, -0.5 * cross @ gram + 0.375 * R @ gram @ gram)
    bias = entries.pack(np.zeros_like(Q), second)
    if problem.constraint == "sphere":
        linear, shift = sphere_projection(entries, Q, R, covariance)
        covariance, bias = linear @ covariance @ linear.T, linear @ bias + shift
    return RandomStart(covariance, bias)


def _row_nodes(problem: Problem, initial: InitialLaw) -> tuple[Array, Array, Array]:
    """Return rows w (n, m), loadings a (n, K) and weights (n,) with the fourth moments of the initial law."""
    if isinstance(initial, Empirical):
        return initial.weights, initial.loadings, initial.row_probabilities
    x, p = special.roots_hermitenorm(3)
    m = problem.outputs
    normals = np.array(list(itertools.product(x, repeat=m)))
    chances = np.array([math.prod(ps) for ps in itertools.product(p / p.sum(), repeat=m)])
    rows, loadings, weights = [], [], []
    for a, weight in zip(*initial.loading_nodes(problem, 5), strict=True):
        law = initial.conditional(a, problem)
        if not isinstance(law, GaussianMixture):
            raise UnsupportedError(f"initial: the spread of a start is known for mixtures only, not for {initial!r}")
        for part, mean, covariance in zip(law.weights, law.means, law.covariances, strict=True):
            rows.append(mean + normals @ square_root(covariance))
            loadings.append(np.tile(a, (len(normals), 1)))
            weights.append(weight * part * chances)
    return np.concatenate(rows), np.concatenate(loadings), np.concatenate(weights)
