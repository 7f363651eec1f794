"""Compiled moments of four normal variables restricted to orthants: expectations for piecewise linear activations.

With F_C(k) = p(h_C = 0) E[prod_i h_i^k_i prod_{i in D} 1(h_i > 0) | h_C = 0], D a set of variables that excludes C,
integration by parts of the Gaussian weight (means mu and covariances V given h_C = 0) gives the recursion

    F_C(k + e_i) = mu_i F_C(k) + sum_j V_ij [ k_j F_C(k - e_j) + 1(j in D, k_j = 0) F_{C + j}(k) ],

from F_C(0), the probabilities of orthants. Those of two variables are Genz's bivariate normal probability. Three and
four variables are two blocks, the views; their cross-covariance is turned on by a factor s from 0 to 1, along which
(Plackett) dP/ds = sum_ij V_ij p(h_i = h_j = 0) P(the others > 0 | h_i = h_j = 0), i and j of different blocks. The
integrand is analytic but for 1/s being a canonical correlation or minus one: Gauss-Legendre panels that halve towards
s = 1, down to the distance of the nearest such point, converge like 6^(-2 order) for nearly equal views as well.

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

_FLOOR = 1e-15
"""Conditional variances are not below this times the variance: what rounding leaves of them."""

_TINY = 1e-280
_DEEPEST = 50


@njit(cache=True, nogil=True)
def _cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@njit(cache=True, nogil=True)
def bivariate(h: float, k: float, r: float) -> float:
    """Return P(X > h, Y > k) for standard normals with correlation r, to rounding (Genz 2004)."""
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
    if abs(r) < 1.0:
        square = (1.0 - r) * (1.0 + r)
        a = math.sqrt(square)
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
def _pair(m1: float, m2: float, v1: float, v2: float, v12: float) -> float:
    """Return P(h_1 > 0, h_2 > 0)."""
    s1, s2 = math.sqrt(max(v1, _TINY)), math.sqrt(max(v2, _TINY))
    return bivariate(-m1 / s1, -m2 / s2, min(1.0, max(-1.0, v12 / (s1 * s2))))


@njit(cache=True, nogil=True)
def _block(mean: Array, cov: Array, which: Integers, n: int) -> float:
    """Return the probability that n (at most 2) variables are positive."""
    if n == 0:
        return 1.0
    i = which[0]
    if n == 1:
        return _cdf(mean[i] / math.sqrt(max(cov[i, i], _TINY)))
    j = which[1]
    return _pair(mean[i], mean[j], cov[i, i], cov[j, j], cov[i, j])


@njit(cache=True, nogil=True)
def _gap(cov: Array, first: Integers, n1: int, second: Integers, n2: int) -> float:
    """Return 1 - the largest canonical correlation of two blocks, not below rounding."""
    # Trace and determinant of A^-1 C B^-1 C^T; a block of one variable is filled up by an independent one.
    a11, a22, a12 = cov[first[0], first[0]], 1.0, 0.0
    b11, b22, b12 = cov[second[0], second[0]], 1.0, 0.0
    c11, c12, c21, c22 = cov[first[0], second[0]], 0.0, 0.0, 0.0
    if n1 == 2:
        a22, a12, c21 = cov[first[1], first[1]], cov[first[0], first[1]], cov[first[1], second[0]]
    if n2 == 2:
        b22, b12, c12 = cov[second[1], second[1]], cov[second[0], second[1]], cov[first[0], second[1]]
        if n1 == 2:
            c22 = cov[first[1], second[1]]
    da = max(a11 * a22 - a12 * a12, _FLOOR * a11 * a22 + _TINY)
    db = max(b11 * b22 - b12 * b12, _FLOOR * b11 * b22 + _TINY)
    p11, p12 = (a22 * c11 - a12 * c21) / da, (a22 * c12 - a12 * c22) / da
    p21, p22 = (a11 * c21 - a12 * c11) / da, (a11 * c22 - a12 * c12) / da
    q11, q12 = (b22 * c11 - b12 * c12) / db, (b22 * c21 - b12 * c22) / db
    q21, q22 = (b11 * c12 - b12 * c11) / db, (b11 * c22 - b12 * c21) / db
    trace = p11 * q11 + p12 * q21 + p21 * q12 + p22 * q22
    det = (p11 * p22 - p12 * p21) * (q11 * q22 - q12 * q21)
    largest = 0.5 * (trace + math.sqrt(max(trace * trace - 4.0 * det, 0.0)))
    return max(1.0 - math.sqrt(max(largest, 0.0)), 1e-15)


@njit(cache=True, nogil=True)
def _orthant(mean: Array, cov: Array, inside: int, x: Array, w: Array) -> float:
    """Return the probability that the variables in a set are positive; 0 and 1 are of view 1, 2 and 3 of view 2."""
    first, second = np.empty(2, np.int64), np.empty(2, np.int64)
    n1 = n2 = 0
    for i in range(2):
        if inside >> i & 1:
            first[n1] = i
            n1 += 1
        if inside >> (2 + i) & 1:
            second[n2] = 2 + i
            n2 += 1
    if n1 == 0:
        return _block(mean, cov, second, n2)
    if n2 == 0:
        return _block(mean, cov, first, n1)
    if n1 + n2 == 2:
        i, j = first[0], second[0]
        return _pair(mean[i], mean[j], cov[i, i], cov[j, j], cov[i, j])
    total = _block(mean, cov, first, n1) * _block(mean, cov, second, n2)
    gap = _gap(cov, first, n1, second, n2)
    left, length = 0.0, 1.0
    for depth in range(_DEEPEST + 1):
        length = 0.5**depth
        last = length <= gap or depth == _DEEPEST
        width = length if last else 0.5 * length
        for node in range(len(x)):
            s = left + width * x[node]
            total += width * w[node] * _rate(mean, cov, first, n1, second, n2, s)
        if last:
            break
        left += width
    return total


@njit(cache=True, nogil=True)
def _rate(mean: Array, cov: Array, first: Integers, n1: int, second: Integers, n2: int, s: float) -> float:
    """Return dP/ds for a cross-covariance that is multiplied by s."""
    total = 0.0
    for a in range(n1):
        i = first[a]
        for b in range(n2):
            j = second[b]
            vi, vj, vij = cov[i, i], cov[j, j], s * cov[i, j]
            if cov[i, j] == 0.0:
                continue
            det = max(vi * vj - vij * vij, _FLOOR * vi * vj)
            # Regression on (h_i, h_j) = 0: residual means and covariances of the other variables.
            ti, tj = (vj * mean[i] - vij * mean[j]) / det, (vi * mean[j] - vij * mean[i]) / det
            exponent = -0.5 * (mean[i] * ti + mean[j] * tj)
            if exponent < -700.0:
                continue
            rest = 1.0
            k = first[1 - a] if n1 == 2 else -1
            other = second[1 - b] if n2 == 2 else -1
            if k >= 0:
                ki, kj = cov[k, i], s * cov[k, j]
                mk = mean[k] - ki * ti - kj * tj
                wi, wj = (vj * ki - vij * kj) / det, (vi * kj - vij * ki) / det
                vk = max(cov[k, k] - ki * wi - kj * wj, _FLOOR * cov[k, k])
            if other >= 0:
                oi, oj = s * cov[other, i], cov[other, j]
                mo = mean[other] - oi * ti - oj * tj
                zi, zj = (vj * oi - vij * oj) / det, (vi * oj - vij * oi) / det
                vo = max(cov[other, other] - oi * zi - oj * zj, _FLOOR * cov[other, other])
            if k >= 0 and other >= 0:
                rest = _pair(mk, mo, vk, vo, s * cov[k, other] - oi * wi - oj * wj)
            elif k >= 0:
                rest = _cdf(mk / math.sqrt(max(vk, _TINY)))
            elif other >= 0:
                rest = _cdf(mo / math.sqrt(max(vo, _TINY)))
            total += cov[i, j] * math.exp(exponent) / (2.0 * math.pi * math.sqrt(max(det, _TINY))) * rest
    return total


@njit(cache=True, nogil=True)
def _condition(mean: Array, cov: Array, means: Array, covs: Array, densities: Array) -> None:
    """Fill the laws given h_C = 0, and the densities there, for every set C (16 of them)."""
    densities[0] = 1.0
    for a in range(4):
        means[0, a] = mean[a]
        for b in range(4):
            covs[0, a, b] = cov[a, b]
    for given in range(1, 16):
        j = 0
        while not given >> j & 1:
            j += 1
        before = given & ~(1 << j)
        v = max(covs[before, j, j], _FLOOR * cov[j, j], _TINY)
        m = means[before, j]
        densities[given] = densities[before] * math.exp(-0.5 * m * m / v) / math.sqrt(2.0 * math.pi * v)
        for a in range(4):
            slope = covs[before, a, j] / v
            means[given, a] = means[before, a] - slope * m
            for b in range(4):
                covs[given, a, b] = covs[before, a, b] - slope * covs[before, j, b]
        for a in range(4):
            covs[given, a, a] = max(covs[given, a, a], _FLOOR * cov[a, a])


@njit(cache=True, nogil=True)
def _moments(
    inside: int, most: Integers, total: int, means: Array, covs: Array, densities: Array, x: Array, w: Array, f: Array
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
                    f[given, 0] *= _orthant(mean, cov, inside & ~given, x, w)
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
def _merge(mean: Array, cov: Array, shift: Array, outputs: Integers, exponents: Integers) -> None:
    """Write the exponents of view 2 to the variable of view 1 that it equals, where there is one."""
    for i in range(2):
        for j in range(2, 4):
            if outputs[i] != outputs[j] or mean[i] != mean[j] or shift[i] != shift[j]:
                continue
            v = cov[i, i]
            if abs(cov[j, j] - v) <= 1e-14 * v and abs(cov[i, j] - v) <= 1e-14 * v:
                for p in range(len(exponents)):
                    for letter in range(2):
                        exponents[p, i, letter] += exponents[p, j, letter]
                        exponents[p, j, letter] = 0


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
    mean: Array, cov: Array, shift: Array, outputs: Integers, exponents: Integers, kink: Array, x: Array, w: Array
) -> Array:
    """Return expectations of products of powers of sigma' and sigma - shift of four pre-activations.

    Parameters
    ----------
    mean : ndarray, shape (rows, 4)
        Of h - position of the kink.
    cov : ndarray, shape (rows, 4, 4)
    shift : ndarray, shape (rows, 4)
    outputs : ndarray, shape (4,)
        Which output each variable belongs to; 0 and 1 are of view 1, 2 and 3 of view 2.
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
    means, covs, densities = np.empty((16, 4)), np.empty((16, 4, 4)), np.empty(16)
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
        _merge(mean[row], cov[row], shift[row], outputs, powers)
        for i in range(4):
            most[i] = 0
            for p in range(n):
                most[i] = max(most[i], powers[p, i, 1])
        for p in range(n):
            _split(kink, shift[row], powers[p], pieces[p], needed[p])
        _condition(mean[row], cov[row], means, covs, densities)
        for inside in range(16):
            wanted = False
            for p in range(n):
                wanted = wanted or needed[p, inside]
            if not wanted:
                continue
            _moments(inside, most, largest, means, covs, densities, x, w, f)
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
