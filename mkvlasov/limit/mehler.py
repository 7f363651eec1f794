"""Mehler's formula: E[f(x) k(x')] = sum_n r^n f_n k_n for standard normal x, x' with correlation r.

f_n = E[f(x) He_n(x)] / sqrt(n!) come from one-dimensional nodes. Nothing is singular as r -> 1 or as a variance
vanishes. This module chooses how many nodes and terms to take, and estimates what is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mkvlasov import _quadrature
from mkvlasov._typing import Array

_POLE = math.pi / 2.0
"""Distance of the poles of tanh from the real axis: the first guess for any activation, refined where it fails."""


T = TypeVar("T")
Key = tuple[int, int, int]
IntArray = npt.NDArray[np.int64]

ROUNDING = 4e-16
"""Relative to the product of norms."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Discretization of one standard normal variable, correlated between the views.

    Attributes
    ----------
    points : ndarray, shape (n,)
    weights : ndarray, shape (3, n)
        Of the rule and of its two coarser ones.
    terms : int
        Number of coefficients of a function.
    matrix : ndarray, shape (n, terms + 3), or None
        Hermite analysis and the three rules. None if the variables of the two views are equal or opposite: then the
        coefficients are the values at the nodes times the root of the weights, and no powers of r appear.
    opposite : bool
        In that case, whether the variable of view 2 is minus that of view 1.
    """

    points: Array
    weights: Array
    terms: int
    matrix: Array | None
    opposite: bool

    @property
    def is_direct(self) -> bool:
        """Whether the variables of the two views determine each other."""
        return self.matrix is None

    @property
    def beyond(self) -> float:
        """Weight to give to the outermost squares in an estimate of what lies outside of the nodes."""
        return 4.0 * float(self.weights[0, 0])

    def powers(self, r: Array) -> Array:
        """Return r^n, shape r.shape + (terms,)."""
        if self.is_direct:
            return np.ones((*r.shape, self.terms))
        return np.asarray(np.asarray(r)[..., None] ** np.arange(self.terms))

    def analyse(self, values: Array, view: int) -> Array:
        """Return coefficients and the means by three rules, (..., n) -> (..., terms + 3)."""
        if self.matrix is not None:
            return values @ self.matrix
        if view and self.opposite:
            values = values[..., ::-1]
        return np.concatenate([values * np.sqrt(self.weights[0]), values @ self.weights.T], axis=-1)

    def analyse_rows(self, values: Array, view: int) -> Array:
        """Do the same along the second last axis, (..., n, k) -> (..., terms + 3, k)."""
        if self.matrix is not None:
            return self.matrix.T @ values
        if view and self.opposite:
            values = values[..., ::-1, :]
        return np.concatenate([values * np.sqrt(self.weights[0])[:, None], self.weights @ values], axis=-2)


def level(spread: float, r: float, rtol: float, effort: int) -> Key:
    """Return which spacing, which reach and how many terms to take; `axis` turns the key into nodes.

    Parameters
    ----------
    spread : float
        Standard deviation of the pre-activations along the variable.
    r : float
        Correlation of the variable between the views.
    rtol : float
    effort : int
        0 at first; one more after the error estimate has failed.
    """
    digits = -math.log(rtol)
    spread = max(spread, 1e-3)
    spacing = min(0.38, 4.0 * _POLE**2 / (spread * (digits + 22.0)))
    steps = math.ceil(-math.log(spacing) / math.log(1.2) - 1e-9) + 2 * effort
    if abs(r) >= 1.0 - 1e-13:
        return steps, effort, -1 if r > 0.0 else -2
    # Terms decay like exp(-n log(1/r) - 2 sqrt(n) pole / spread): solve for the order where they are negligible.
    wanted = digits + 12.0
    rate, slope = -math.log(max(abs(r), 1e-10)), 2.0 * _POLE / spread
    root = 2.0 * wanted / (slope + math.sqrt(slope**2 + 4.0 * rate * wanted))
    return steps, effort, max(math.ceil(math.log(root**2 / 16.0) / math.log(1.25)), 0) + 2 * effort


@lru_cache(maxsize=64)
def axis(key: Key, rtol: float) -> Axis:
    """Return the discretization for a key made by `level`."""
    spacing, reach = spacing_and_reach(key, rtol)
    points, weights = _quadrature.trapezoidal_rule(spacing, reach)
    if key[2] < 0:
        return Axis(points, weights, len(points), None, key[2] == -2)
    terms = 8 * math.ceil(2.0 * 1.25 ** key[2])
    return Axis(points, weights, terms, _quadrature.hermite_analysis(spacing, reach, terms), False)


def spacing_and_reach(key: Key, rtol: float) -> tuple[float, float]:
    """Return the spacing of the nodes and how far they go, for a key made by `level`."""
    return 1.2 ** -float(key[0]), math.sqrt(2.0 * (10.0 - math.log(rtol))) + 1.5 * key[1]


def groups(keys: list[T]) -> dict[T, IntArray]:
    """Return the distinct keys with the indices where they occur."""
    found: dict[T, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return {key: np.array(indices) for key, indices in found.items()}


def nodal_error(results: Array, norm: Array) -> Array:
    """Estimate the error of the finest of three nested rules, relative to the norms of the functions.

    The largest differences between the rules, over all functions on the same nodes, are extrapolated by their ratio.
    Halving the spacing squares an exponentially small error; a ratio that is not small means slower, algebraic
    convergence, where the next difference shrinks by the same ratio.

    Parameters
    ----------
    results : ndarray, shape (functions, ..., 3)
        Finest rule first.
    norm : ndarray, shape (functions, ...)

    Returns
    -------
    ndarray, shape (...)
    """
    differences = (np.abs(results[..., :2] - results[..., 1:]) / np.maximum(norm, 1e-300)[..., None]).max(axis=0)
    last, before = differences[..., 0], differences[..., 1]
    ratio = np.clip(last / np.maximum(before, 1e-300), 1e-300, 1.0)
    exponential = np.clip(-0.5 * (np.log10(ratio) + 1.0), 0.0, 1.0)
    return np.asarray(last * ratio ** (1.0 + 0.75 * exponential))


def tail(series: Array) -> Array:
    """Estimate the rest of series (..., terms) from the absolute sums of their last two quarters."""
    terms = series.shape[-1]
    quarter = terms // 4
    last = np.abs(series[..., terms - 2 * quarter :])
    return tail_of_quarters(last[..., :quarter].sum(axis=-1), last[..., quarter:].sum(axis=-1))


def tail_of_quarters(third: Array, fourth: Array) -> Array:
    """Estimate the rest of a series from the absolute sums of its last two quarters."""
    ratio = np.minimum(fourth / np.maximum(third, 1e-300), 0.9)
    return fourth * ratio / (1.0 - ratio)
