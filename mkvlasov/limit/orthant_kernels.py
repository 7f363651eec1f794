"""Compiled moments of four normal variables restricted to orthants: expectations for piecewise linear activations.

With F_C(k) = p(h_C = 0) E[prod_i h_i^k_i prod_{i in D} 1(h_i > 0) | h_C = 0], D a set of variables that excludes C,
integration by parts of the Gaussian weight (means mu and covariances V given h_C = 0) gives the recursion

    F_C(k + e_i) = mu_i F_C(k) + sum_j V_ij [ k_j F_C(k - e_j) + 1(j in D, k_j = 0) F_{C + j}(k) ],

from F_C(0), the probabilities of orthants. Those of two variables are Genz's bivariate normal probability. Three and
four variables are two blocks, the views; their cross-covariance is turned on by a factor s from 0 to 1, along which
(Plackett) dP/ds = sum_ij V_ij p(h_i = h_j = 0) P(the others > 0 | h_i = h_j = 0), i and j of different blocks. The
integrand is analytic but for 1/s being a canonical correlation or minus one: Gauss-Legendre panels that halve towards
s = 1, down to the distance of the nearest such point, converge like 6^(-2 order) for nearly equal views as well.
Covariances are kept as linear forms in independent normals, which loses half as many digits near singularity.

A. Genz, Stat. Comput. 14 (2004) 251; R. L. Plackett, Biometrika 41 (1954) 351; R. Kan and C. Robotti, J. Comput.
Graph. Stat. 26 (2017) 930.
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

_FLOOR = 1e-14
"""Conditional deviations are not below this times the deviation: what rounding leaves of them."""

_TINY = 1e-140
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
def _dot(a: Array, b: Array) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]


@njit(cache=True, nogil=True)
def _one(mean: float, row: Array, least: float) -> float:
    """Return P(h > 0) for h = mean + row . x."""
    return _cdf(mean / max(math.sqrt(_dot(row, row)), least))


@njit(cache=True, nogil=True)
def _two(m1: float, m2: float, row1: Array, row2: Array, least1: float, least2: float) -> float:
    """Return P(h_1 > 0, h_2 > 0) for h = mean + row . x."""
    n1, n2 = max(math.sqrt(_dot(row1, row1)), least1), max(math.sqrt(_dot(row2, row2)), least2)
    slope, square = _dot(row1, row2) / (n1 * n1), 0.0
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
            lower[a, b] = _dot(rows[i], basis[b])
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
    k11, k12 = _dot(basis[0, 0], basis[1, 0]), _dot(basis[0, 0], basis[1, 1])
    k21, k22 = _dot(basis[0, 1], basis[1, 0]), _dot(basis[0, 1], basis[1, 1])
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
def _orthant(mean: Array, rows: Array, least: Array, inside: int, x: Array, w: Array) -> float:
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
    centre, smallest = np.zeros(4), np.full(4, _TINY)
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
    size = max(math.sqrt(_dot(rows[i], rows[i])), least[i])
    for c in range(4):
        u[c] = rows[i, c] / size
    along = _dot(rows[j], u)
    for c in range(4):
        v[c] = rows[j, c] - along * u[c]
    left = max(math.sqrt(_dot(v, v)), least[j])
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
        by_u, by_v = _dot(rows[k], u), _dot(rows[k], v)
        moved[a] = mean[k] - by_u * t - by_v * z
        for c in range(4):
            rest[a, c] = rows[k, c] - by_u * u[c] - by_v * v[c]
    if n == 1:
        return weight * _one(moved[0], rest[0], least[others[0]])
    return weight * _two(moved[0], moved[1], rest[0], rest[1], least[others[0]], least[others[1]])


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
            size = math.sqrt(_dot(vectors[before, j], vectors[before, j]))
            v, m = max(size, least[j]), means[before, j]
            densities[given] = densities[before] * math.exp(-0.5 * (m / v) ** 2) / (math.sqrt(2.0 * math.pi) * v)
        for a in range(4):
            slope = 0.0
            if given and size > least[j]:
                slope = _dot(vectors[before, a], vectors[before, j]) / size**2
            means[given, a] = means[before, a] - slope * means[before, j] if given else mean[a]
            for c in range(4):
                vectors[given, a, c] = vectors[before, a, c] - slope * vectors[before, j, c] if given else rows[a, c]
        for a in range(4):
            for b in range(4):
                covs[given, a, b] = _dot(vectors[given, a], vectors[given, b])


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
                    f[given, 0] *= _orthant(mean, vectors[given], least, inside & ~given, x, w)
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
            least[i] = max(_FLOOR * math.sqrt(_dot(spread[i], spread[i])), _TINY)
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
