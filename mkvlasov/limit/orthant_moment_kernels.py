"""Compiled moments of four normal variables restricted to orthants: expectations for piecewise linear activations.

With F_C(k) = p(h_C = 0) E[prod_i h_i^k_i prod_{i in D} 1(h_i > 0) | h_C = 0], D a set of variables that excludes C,
integration by parts of the Gaussian weight (means mu and covariances V given h_C = 0) gives the recursion

    F_C(k + e_i) = mu_i F_C(k) + sum_j V_ij [ k_j F_C(k - e_j) + 1(j in D, k_j = 0) F_{C + j}(k) ],

from F_C(0), the probabilities of orthants (`mkvlasov.limit.orthant_kernels`).

R. Kan and C. Robotti, J. Comput. Graph. Stat. 26 (2017) 930.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.limit.orthant_kernels import TINY, Integers, dot, orthant, spread_rows

_FLOOR = 1e-14
"""Conditional deviations are not below this times the deviation: what rounding leaves of them."""


@njit(cache=True, nogil=True)
def _condition(
    mean: Array, rows: Array, least: Array, means: Array, vectors: Array, covs: Array, densities: Array
) -> None:
    """Fill the laws given h_C = 0, mean + vector . x, and the densities there, for every set C (16 of them)."""
    for given in range(16):
        densities[given] = 1.0
        before, j = 0, -1
        if given:
            j = 0
            while not given >> j & 1:
                j += 1
            before = given & ~(1 << j)
            size = math.sqrt(dot(vectors[before, j], vectors[before, j]))
            v, m = max(size, least[j]), means[before, j]
            densities[given] = densities[before] * math.exp(-0.5 * (m / v) ** 2) / (math.sqrt(2.0 * math.pi) * v)
        for a in range(4):
            slope = 0.0
            if given and size > least[j]:
                slope = dot(vectors[before, a], vectors[before, j]) / size**2
            means[given, a] = means[before, a] - slope * means[before, j] if given else mean[a]
            for c in range(4):
                vectors[given, a, c] = vectors[before, a, c] - slope * vectors[before, j, c] if given else rows[a, c]
        for a in range(4):
            for b in range(4):
                covs[given, a, b] = dot(vectors[given, a], vectors[given, b])


@njit(cache=True, nogil=True)
def _moments(
    inside: int,
    most: Integers,
    total: int,
    means: Array,
    vectors: Array,
    covs: Array,
    least: Array,
    densities: Array,
    x: Array,
    w: Array,
    f: Array,
) -> None:
    """Fill f[0, k] with E[prod h_i^k_i; h_i > 0 for i inside] for k_i <= most_i and sum k_i <= total.

    f has shape (16, (most_0 + 1) ... (most_3 + 1)); f[C] serves F_C.
    """
    strides = np.empty(4, np.int64)
    strides[3] = 1
    for i in range(2, -1, -1):
        strides[i] = strides[i + 1] * (most[i + 1] + 1)
    k = np.empty(4, np.int64)
    for given in range(15, -1, -1):
        if given & ~inside:
            continue
        mean, cov = means[given], covs[given]
        for place in range(strides[0] * (most[0] + 1)):
            degree, rest, step = 0, place, -1
            for i in range(4):
                k[i] = rest // strides[i]
                rest -= k[i] * strides[i]
                degree += k[i]
                if k[i] and step < 0:
                    step = i
            f[given, place] = 0.0
            wanted = degree <= total
            for i in range(4):
                wanted = wanted and not (given >> i & 1 and k[i])
            if not wanted:
                continue
            if step < 0:
                f[given, 0] = densities[given]
                if densities[given] > 0.0:
                    f[given, 0] *= orthant(mean, vectors[given], least, inside & ~given, x, w)
                continue
            below = place - strides[step]
            k[step] -= 1
            value = mean[step] * f[given, below]
            for j in range(4):
                if given >> j & 1:
                    continue
                if k[j]:
                    value += cov[step, j] * k[j] * f[given, below - strides[j]]
                elif inside >> j & 1:
                    value += cov[step, j] * f[given | 1 << j, below]
            f[given, place] = value


@njit(cache=True, nogil=True)
def _polynomial(slope: float, value: float, a: int, b: int, out: Array) -> None:
    """Write the coefficients of slope^a (value + slope h)^b."""
    for n in range(len(out)):
        out[n] = 0.0
    out[0] = 1.0
    for _ in range(a):
        out[0] *= slope
    for degree in range(b):
        for n in range(degree + 1, 0, -1):
            out[n] = value * out[n] + slope * out[n - 1]
        out[0] *= value


@njit(cache=True, nogil=True)
def products(
    mean: Array,
    loadings: Array,
    r: Array,
    shift: Array,
    same: npt.NDArray[np.bool_],
    exponents: Integers,
    kink: Array,
    x: Array,
    w: Array,
) -> Array:
    """Return expectations of products of powers of sigma' and sigma - shift of four pre-activations.

    Parameters
    ----------
    mean : ndarray, shape (rows, 4)
        Of h - position of the kink; 0 and 1 are of view 1, 2 and 3 of view 2.
    loadings : ndarray, shape (rows, 2, 2, 2)
        Of the canonical variables of each view: h^(v) = mean + loadings_v x^(v).
    r : ndarray, shape (rows, 2)
        Canonical correlations.
    shift : ndarray, shape (rows, 4)
    same : ndarray, shape (rows, 2, 2)
        Whether a variable of view 1 equals one of view 2.
    exponents : ndarray, shape (n, 4, 2)
        Powers of sigma' and of sigma - shift.
    kink : ndarray, shape (3,)
        Slope below the kink, slope above it, value at it.
    x, w : ndarray
        Gauss-Legendre rule on [0, 1].

    Returns
    -------
    ndarray, shape (rows, n)
    """
    rows, n = len(mean), len(exponents)
    result = np.zeros((rows, n))
    means, vectors, covs, densities = np.empty((16, 4)), np.empty((16, 4, 4)), np.empty((16, 4, 4)), np.empty(16)
    spread, least = np.empty((4, 4)), np.empty(4)
    most, powers = np.empty(4, np.int64), np.empty((n, 4, 2), np.int64)
    largest = 0
    for p in range(n):
        degree = 0
        for i in range(4):
            degree += exponents[p, i, 1]
        largest = max(largest, degree)
    # Coefficients below the kink, and their change at it.
    pieces, needed = np.empty((n, 4, 2, largest + 1)), np.empty((n, 16), np.bool_)
    f = np.empty((16, (largest + 1) ** 4))
    for row in range(rows):
        for p in range(n):
            for i in range(4):
                powers[p, i, 0], powers[p, i, 1] = exponents[p, i, 0], exponents[p, i, 1]
        for i in range(2):
            for j in range(2):
                if same[row, i, j]:  # equal variables are one variable
                    for p in range(n):
                        for letter in range(2):
                            powers[p, i, letter] += powers[p, 2 + j, letter]
                            powers[p, 2 + j, letter] = 0
        for i in range(4):
            most[i] = 0
            for p in range(n):
                most[i] = max(most[i], powers[p, i, 1])
        for p in range(n):
            _split(kink, shift[row], powers[p], pieces[p], needed[p])
        spread_rows(loadings[row, 0], loadings[row, 1], r[row], 1.0, spread)
        for i in range(4):
            least[i] = max(_FLOOR * math.sqrt(dot(spread[i], spread[i])), TINY)
        _condition(mean[row], spread, least, means, vectors, covs, densities)
        for inside in range(16):
            wanted = False
            for p in range(n):
                wanted = wanted or needed[p, inside]
            if not wanted:
                continue
            _moments(inside, most, largest, means, vectors, covs, least, densities, x, w, f)
            for p in range(n):
                if needed[p, inside]:
                    result[row, p] += _combine(inside, most, pieces[p], powers[p], f)
    return result


@njit(cache=True, nogil=True)
def _split(kink: Array, shift: Array, powers: Integers, pieces: Array, needed: npt.NDArray[np.bool_]) -> None:
    """Write every factor as p(h) + 1(h > 0) q(h), and which products of p and q are not zero."""
    for i in range(4):
        a, b = powers[i, 0], powers[i, 1]
        for side in range(2):
            _polynomial(kink[side], kink[2] - shift[i], a, b, pieces[i, side])
        for n in range(pieces.shape[2]):
            pieces[i, 1, n] -= pieces[i, 0, n]
    for inside in range(16):
        needed[inside] = True
        for i in range(4):
            zero = True
            for n in range(pieces.shape[2]):
                zero = zero and pieces[i, inside >> i & 1, n] == 0.0
            if zero:
                needed[inside] = False


@njit(cache=True, nogil=True)
def _combine(inside: int, most: Integers, pieces: Array, powers: Integers, f: Array) -> float:
    """Return E[prod_i p_i(h_i); h_i > 0 for i inside] from the moments f[0]."""
    total = 0.0
    for k0 in range(powers[0, 1] + 1):
        for k1 in range(powers[1, 1] + 1):
            for k2 in range(powers[2, 1] + 1):
                for k3 in range(powers[3, 1] + 1):
                    factor = pieces[0, inside & 1, k0] * pieces[1, inside >> 1 & 1, k1]
                    factor *= pieces[2, inside >> 2 & 1, k2] * pieces[3, inside >> 3 & 1, k3]
                    if factor != 0.0:
                        place = ((k0 * (most[1] + 1) + k1) * (most[2] + 1) + k2) * (most[3] + 1) + k3
                        total += factor * f[0, place]
    return total
