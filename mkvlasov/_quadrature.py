"""Nodes, weights and orthonormal functions for averages over Gaussian variables.

For analytic functions the trapezoidal rule with Gaussian weights converges like exp(-2 pi d / (spacing * spread)),
d the distance of the nearest pole of the function from the real axis and `spread` the standard deviation it is
evaluated with: far faster than Gauss-Hermite for activations such as tanh, and nested, so that coarser rules on the
same points give an error estimate for nothing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mkvlasov._typing import Array


class TrapezoidalRule(NamedTuple):
    """Rule for E[f(x)], x standard normal, with two coarser rules on the same points.

    Attributes
    ----------
    points : ndarray, shape (n,)
        Equidistant and symmetric about zero.
    weights : ndarray, shape (3, n)
        Weights with every point, every second one, every fourth one.
    """

    points: Array
    weights: Array


@lru_cache(maxsize=256)
def trapezoidal_rule(spacing: float, reach: float) -> TrapezoidalRule:
    """Return the trapezoidal rule with Gaussian weights on [-reach, reach] or slightly beyond."""
    half = 4 * math.ceil(reach / spacing / 4.0)
    points: Array = spacing * np.arange(-half, half + 1, dtype=np.float64)
    density = spacing * np.exp(-0.5 * points**2) / math.sqrt(2.0 * math.pi)
    weights = np.zeros((3, len(points)))
    for row, stride in enumerate((1, 2, 4)):
        weights[row, ::stride] = stride * density[::stride]
    points.flags.writeable = weights.flags.writeable = False
    return TrapezoidalRule(points, weights)


@lru_cache(maxsize=64)
def hermite_analysis(spacing: float, reach: float, order: int) -> Array:
    """Return the matrix that turns values on trapezoidal points into Hermite coefficients.

    Column k < `order` gives E[f(x) He_k(x) / sqrt(k!)], x standard normal, on the points of `trapezoidal_rule`; three
    more columns give E[f(x)] by the rule itself and by its two coarser ones.

    Returns
    -------
    ndarray, shape (n, order + 3)
    """
    points, weights = trapezoidal_rule(spacing, reach)
    root = np.exp(-0.25 * points**2) * (2.0 * math.pi) ** -0.25
    matrix = np.empty((len(points), order + 3))
    matrix[:, :order] = hermite_functions(points, order) * (spacing * root)[:, None]
    matrix[:, order:] = weights.T
    matrix.flags.writeable = False
    return matrix


def hermite_functions(x: Array, order: int) -> Array:
    """Return psi_k(x) = He_k(x) sqrt(phi(x) / k!) for k < `order`, phi the standard normal density.

    They are orthonormal on the real line, and stable to compute by their recurrence at any order.

    Parameters
    ----------
    x : ndarray, shape (n,)
    order : int

    Returns
    -------
    ndarray, shape (n, order)
    """
    psi = np.empty((order, len(x)))
    psi[0] = np.exp(-0.25 * x**2) * (2.0 * math.pi) ** -0.25
    if order > 1:
        psi[1] = x * psi[0]
    for k in range(1, order - 1):
        psi[k + 1] = (x * psi[k] - math.sqrt(k) * psi[k - 1]) / math.sqrt(k + 1)
    return psi.T


@lru_cache(maxsize=64)
def gauss_legendre(order: int) -> tuple[Array, Array]:
    """Return nodes and weights of the Gauss-Legendre rule on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(order)
    x, w = 0.5 * (x + 1.0), 0.5 * w
    x.flags.writeable = w.flags.writeable = False
    return x, w


def panel_rule(breaks: Array, order: int) -> tuple[Array, Array]:
    """Return Gauss-Legendre nodes and weights on consecutive intervals, for many sets of breakpoints at once.

    Parameters
    ----------
    breaks : ndarray, shape (..., b)
        Breakpoints in increasing order; equal ones make an empty interval, which has weight zero.
    order : int
        Nodes per interval.

    Returns
    -------
    nodes, weights : ndarray, shape (..., (b - 1) * order)
    """
    x, w = gauss_legendre(order)
    left, width = breaks[..., :-1, None], np.diff(breaks)[..., None]
    shape = (*breaks.shape[:-1], (breaks.shape[-1] - 1) * order)
    return (left + width * x).reshape(shape), (width * w).reshape(shape)
