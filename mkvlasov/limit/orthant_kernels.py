"""Compiled probabilities that two to four normal variables, two of each view, are positive.

Those of two variables are Genz's bivariate normal probability. Three and four variables are two blocks, the views;
their cross-covariance is turned on by a factor s from 0 to 1, along which (Plackett)
dP/ds = sum_ij V_ij p(h_i = h_j = 0) P(the others > 0 | h_i = h_j = 0), i and j of different blocks. The
integrand is analytic but for 1/s being a canonical correlation or minus one: Gauss-Legendre panels that halve towards
s = 1, down to the distance of the nearest such point, converge like 6^(-2 order) for nearly equal views as well.
Covariances are kept as linear forms in independent normals, which loses half as many digits near singularity.

A. Genz, Stat. Comput. 14 (2004) 251; R. L. Plackett, Biometrika 41 (1954) 351.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from mkvlasov._typing import Array

Integers = npt.NDArray[np.int64]

_NODES_6, _WEIGHTS_6 = np.polynomial.legendre.leggauss(6)
_NODES_12, _WEIGHTS_12 = np.polynomial.legendre.leggauss(12)
_NODES_20, _WEIGHTS_20 = np.polynomial.legendre.leggauss(20)

TINY = 1e-140
"""Deviations are not below this either, so that one can divide by them."""

_DEEPEST = 50


@njit(cache=True, nogil=True)
def _cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@njit(cache=True, nogil=True)
def bivariate(h: float, k: float, r: float, q: float) -> float:
    """Return P(X > h, Y > k) for standard normals with correlation r, q^2 = 1 - r^2, to rounding (Genz 2004)."""
    if h > 40.0 or k > 40.0:
        return 0.0
    h, k = max(h, -40.0), max(k, -40.0)
    if abs(r) < 0.3:
        x, w = _NODES_6, _WEIGHTS_6
    elif abs(r) < 0.75:
        x, w = _NODES_12, _WEIGHTS_12
    else:
        x, w = _NODES_20, _WEIGHTS_20
    hk = h * k
    total = 0.0
    if abs(r) < 0.925:
        hs, angle = 0.5 * (h * h + k * k), math.asin(r)
        for i in range(len(x)):
            s = math.sin(0.5 * angle * (x[i] + 1.0))
            total += w[i] * math.exp((s * hk - hs) / (1.0 - s * s))
        return total * angle / (4.0 * math.pi) + _cdf(-h) * _cdf(-k)
    if r < 0.0:
        k, hk = -k, -hk
    if q > 0.0:
        a, square = q, q * q
        bs = (h - k) ** 2
        c, d = (4.0 - hk) / 8.0, (12.0 - hk) / 16.0
        exponent = -0.5 * (bs / square + hk)
        if exponent > -100.0:
            total = a * math.exp(exponent) * (
                1.0 - c * (bs - square) * (1.0 - d * bs / 5.0) / 3.0 + c * d * square * square / 5.0
            )  # fmt: skip
        if hk > -100.0:
            b = math.sqrt(bs)
            outer = math.exp(-0.5 * hk) * math.sqrt(2.0 * math.pi) * _cdf(-b / a) * b
            total -= outer * (1.0 - c * bs * (1.0 - d * bs / 5.0) / 3.0)
        a *= 0.5
        for i in range(len(x)):
            xs = (a * (x[i] + 1.0)) ** 2
            exponent = -0.5 * (bs / xs + hk)
            if exponent > -100.0:
                rs = math.sqrt(1.0 - xs)
                exact = math.exp(-0.5 * hk * xs / (1.0 + rs) ** 2) / rs
                total += a * w[i] * math.exp(exponent) * (exact - (1.0 + c * xs * (1.0 + d * xs)))
        total /= -2.0 * math.pi
    if r > 0.0:
        return total + _cdf(-max(h, k))
    total = -total
    if k > h:
        total += _cdf(k) - _cdf(h) if h < 0.0 else _cdf(-h) - _cdf(-k)
    return total


@njit(cache=True, nogil=True)
def dot(a: Array, b: Array) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]


@njit(cache=True, nogil=True)
def _one(mean: float, row: Array, least: float) -> float:
    """Return P(h > 0) for h = mean + row . x."""
    return _cdf(mean / max(math.sqrt(dot(row, row)), least))


@njit(cache=True, nogil=True)
def _two(m1: float, m2: float, row1: Array, row2: Array, least1: float, least2: float) -> float:
    """Return P(h_1 > 0, h_2 > 0) for h = mean + row . x."""
    n1, n2 = max(math.sqrt(dot(row1, row1)), least1), max(math.sqrt(dot(row2, row2)), least2)
    slope, square = dot(row1, row2) / (n1 * n1), 0.0
    for i in range(4):
        square += (row2[i] - slope * row1[i]) ** 2
    r = min(1.0, max(-1.0, slope * n1 / n2))
    return bivariate(-m1 / n1, -m2 / n2, r, min(1.0, math.sqrt(square) / n2))


@njit(cache=True, nogil=True)
def _inside(mean: Array, rows: Array, least: Array, which: Integers, n: int) -> float:
    """Return the probability that n (at most 2) variables are positive."""
    if n == 0:
        return 1.0
    i, j = which[0], which[1]
    if n == 1:
        return _one(mean[i], rows[i], least[i])
    return _two(mean[i], mean[j], rows[i], rows[j], least[i], least[j])


@njit(cache=True, nogil=True)
def _triangle(rows: Array, least: Array, which: Integers, n: int, basis: Array, lower: Array) -> None:
    """Write rows = lower @ basis for one or two rows, basis orthonormal."""
    for c in range(4):
        basis[0, c] = basis[1, c] = 0.0
    lower[0, 0] = lower[0, 1] = lower[1, 0] = lower[1, 1] = 0.0
    for a in range(n):
        i = which[a]
        for b in range(a):
            lower[a, b] = dot(rows[i], basis[b])
        square = 0.0
        for c in range(4):
            basis[a, c] = rows[i, c] - (lower[a, 0] * basis[0, c] if a else 0.0)
            square += basis[a, c] ** 2
        size = math.sqrt(square)
        # What rounding left of a vanishing remainder has no direction.
        lower[a, a] = size if size > least[i] else 0.0
        for c in range(4):
            basis[a, c] = basis[a, c] / size if size > least[i] else 0.0


@njit(cache=True, nogil=True)
def _canonical(
    rows: Array, least: Array, first: Integers, n1: int, second: Integers, n2: int, a: Array, b: Array, r: Array
) -> None:
    """Write loadings a, b (2, 2) of the canonical variables of two blocks, and their correlations r."""
    basis, lower = np.empty((2, 2, 4)), np.empty((2, 2, 2))
    _triangle(rows, least, first, n1, basis[0], lower[0])
    _triangle(rows, least, second, n2, basis[1], lower[1])
    k11, k12 = dot(basis[0, 0], basis[1, 0]), dot(basis[0, 0], basis[1, 1])
    k21, k22 = dot(basis[0, 1], basis[1, 0]), dot(basis[0, 1], basis[1, 1])
    # Rotate the columns until they are orthogonal, the larger one first.
    angle = 0.5 * math.atan2(2.0 * (k11 * k12 + k21 * k22), k11**2 + k21**2 - k12**2 - k22**2)
    c, s = math.cos(angle), math.sin(angle)
    x1, x2, z1, z2 = c * k11 + s * k12, c * k21 + s * k22, c * k12 - s * k11, c * k22 - s * k21
    largest = math.hypot(x1, x2)
    p1, p2 = (x1 / largest, x2 / largest) if largest > 0.0 else (1.0, 0.0)
    r[0], r[1] = min(largest, 1.0), min(1.0, max(-1.0, p1 * z2 - p2 * z1))
    for i in range(2):
        a[i, 0], a[i, 1] = lower[0, i, 0] * p1 + lower[0, i, 1] * p2, lower[0, i, 1] * p1 - lower[0, i, 0] * p2
        b[i, 0], b[i, 1] = lower[1, i, 0] * c + lower[1, i, 1] * s, lower[1, i, 1] * c - lower[1, i, 0] * s


@njit(cache=True, nogil=True)
def spread_rows(a: Array, b: Array, r: Array, s: float, rows: Array) -> None:
    """Write the four variables as linear forms in four independent normals, for canonical correlations s r."""
    for c in range(2):
        t = s * r[c]
        q = math.sqrt((1.0 - t) * (1.0 + t))
        for i in range(2):
            rows[i, c], rows[i, 2 + c] = a[i, c], 0.0
            rows[2 + i, c], rows[2 + i, 2 + c] = t * b[i, c], q * b[i, c]


@njit(cache=True, nogil=True)
def orthant(mean: Array, rows: Array, least: Array, inside: int, x: Array, w: Array) -> float:
    """Return the probability that the variables in a set are positive; 0 and 1 are of view 1, 2 and 3 of view 2."""
    first, second = np.zeros(2, np.int64), np.zeros(2, np.int64)
    n1 = n2 = 0
    for i in range(2):
        if inside >> i & 1:
            first[n1] = i
            n1 += 1
        if inside >> (2 + i) & 1:
            second[n2] = 2 + i
            n2 += 1
    if n1 == 1 and n2 == 1:
        first[1] = second[0]
        return _inside(mean, rows, least, first, 2)
    total = _inside(mean, rows, least, first, n1) * _inside(mean, rows, least, second, n2)
    if n1 == 0 or n2 == 0:
        return total
    a, b, r = np.empty((2, 2)), np.empty((2, 2)), np.empty(2)
    _canonical(rows, least, first, n1, second, n2, a, b, r)
    # From here on the variables of view 1 are 0 and 1, those of view 2 are 2 and 3.
    centre, smallest = np.zeros(4), np.full(4, TINY)
    for i in range(n1):
        centre[i], smallest[i] = mean[first[i]], least[first[i]]
    for i in range(n2):
        centre[2 + i], smallest[2 + i] = mean[second[i]], least[second[i]]
    gap, left = max(1.0 - r[0], 1e-15), 0.0
    scratch = np.empty((4, 4))
    for depth in range(_DEEPEST + 1):
        width = 0.5**depth
        last = width <= gap or depth == _DEEPEST
        if not last:
            width *= 0.5
        for node in range(len(x)):
            s = left + width * x[node]
            spread_rows(a, b, r, s, scratch)
            for i in range(n1):
                for j in range(n2):
                    slope = a[i, 0] * b[j, 0] * r[0] + a[i, 1] * b[j, 1] * r[1]
                    if slope != 0.0:
                        total += width * w[node] * slope * _at_zero(centre, scratch, smallest, i, n1, j, n2)
        if last:
            break
        left += width
    return total


@njit(cache=True, nogil=True)
def _at_zero(mean: Array, rows: Array, least: Array, i: int, n1: int, j: int, n2: int) -> float:
    """Return p(h_i = h_j = 0) times the probability that the others are positive there; i of view 1, j of view 2."""
    j += 2
    u, v, rest = np.empty(4), np.empty(4), np.empty((2, 4))
    size = max(math.sqrt(dot(rows[i], rows[i])), least[i])
    for c in range(4):
        u[c] = rows[i, c] / size
    along = dot(rows[j], u)
    for c in range(4):
        v[c] = rows[j, c] - along * u[c]
    left = max(math.sqrt(dot(v, v)), least[j])
    for c in range(4):
        v[c] /= left
    t = mean[i] / size
    z = (mean[j] - along * t) / left
    exponent = -0.5 * (t * t + z * z)
    if exponent < -700.0:
        return 0.0
    weight = math.exp(exponent) / (2.0 * math.pi * size * left)
    others = np.empty(2, np.int64)
    n = 0
    if n1 == 2:
        others[n] = 1 - i
        n += 1
    if n2 == 2:
        others[n] = 5 - j
        n += 1
    moved = np.empty(2)
    for a in range(n):
        k = others[a]
        by_u, by_v = dot(rows[k], u), dot(rows[k], v)
        moved[a] = mean[k] - by_u * t - by_v * z
        for c in range(4):
            rest[a, c] = rows[k, c] - by_u * u[c] - by_v * v[c]
    if n == 1:
        return weight * _one(moved[0], rest[0], least[others[0]])
    return weight * _two(moved[0], moved[1], rest[0], rest[1], least[others[0]], least[others[1]])
