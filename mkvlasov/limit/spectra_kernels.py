"""Compiled transforms of functions of one pre-activation, and expectations of pairs of them by Mehler's formula.

The formulas, the choice of nodes and the error estimates are those of `mehler` and `pairs`, without their tables: the
Hermite functions are run through by their recurrence, once for all points of the hidden law, so that the spacing of
the nodes and the number of terms may take any value. Only three functions are transformed, sigma'', sigma' sigma and
sigma'^2; as functions of h = mean + s x,

    E[f(h) He_n(x)] / sqrt(n!) = s / sqrt(n) E[f'(h) He_{n-1}(x)] / sqrt((n-1)!)

gives the coefficients of sigma', sigma and sigma^2 from them and from three means, stably as s -> 0.

Numba's cache of a function does not notice changes of functions in other modules: after a change here, delete
the caches of the modules that use it (``__pycache__/*.nb?``).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mkvlasov._typing import Array

IDENTITY, TANH, ERF, SOFTPLUS, SIGMOID, POLYNOMIAL = range(6)

# Functions of a pre-activation; the first three are transformed, the others follow from their derivatives.
S, DY, DD, D, Y, YY = range(6)
FUNCTIONS, TRANSFORMED = 6, 3

PAIRS = (
    ("y", "y"), ("d", "y"), ("y", "d"), ("s", "y"), ("y", "s"), ("d", "d"), ("dd", "yy"), ("yy", "dd"), ("dy", "dy"),
)  # fmt: skip
"""Pairs (function of view 1, function of view 2), named as in `pairs`, in the order of all arrays of pairs."""
N_PAIRS = len(PAIRS)
FIRST = np.array([Y, D, Y, S, Y, D, DD, YY, DY])
SECOND = np.array([Y, Y, D, Y, S, D, YY, DD, DY])

_SAFETY = 4.0
_POLE = math.pi / 2.0
_MOST_NODES, _MOST_PRODUCTS = 1 << 17, 1e8
"""Limits of half the nodes, and of that times the number of terms; the error says where they are too low."""
_FAST = {"reassoc", "contract"}  # sums may be vectorized; NaN and infinity keep their meaning


@njit(cache=True, nogil=True, error_model="numpy")
def _exponentials(mean: float, step: float, half: int, rate: float, e: Array) -> None:
    """Set e[half + i] = exp(-rate |mean + step i|) for |i| <= half, outwards from the node nearest to zero."""
    n = 2 * half + 1
    if rate * (abs(mean) + step * half) > 600.0 or step < 1e-200:  # the recurrence could leave the range of numbers
        for i in range(n):
            e[i] = math.exp(-rate * abs(mean + step * (i - half)))
        return
    factor = math.exp(-rate * step)
    start = int(min(max(math.ceil(-mean / step) + half, 0.0), float(n)))  # the first node with h >= 0
    if start < n:
        e[start] = math.exp(-rate * (mean + step * (start - half)))
    for i in range(start + 1, n):
        e[i] = e[i - 1] * factor
    if start > 0:
        e[start - 1] = math.exp(rate * (mean + step * (start - 1 - half)))
    for i in range(start - 2, -1, -1):
        e[i] = e[i + 1] * factor


@njit(cache=True, nogil=True, error_model="numpy")
def activate(kind: int, polynomial: Array, mean: float, step: float, half: int, y: Array, d: Array, s: Array) -> None:
    """Set y, d, s to sigma, sigma', sigma'' at h = mean + step i for |i| <= half."""
    n = 2 * half + 1
    if kind == IDENTITY:
        for i in range(n):
            y[i], d[i], s[i] = mean + step * (i - half), 1.0, 0.0
    elif kind == ERF:
        for i in range(n):
            h = mean + step * (i - half)
            y[i] = math.erf(h * math.sqrt(0.5))
            d[i] = math.sqrt(2.0 / math.pi) * math.exp(-0.5 * h * h)
            s[i] = -h * d[i]
    elif kind == POLYNOMIAL:
        for i in range(n):
            h = mean + step * (i - half)
            a = b = c = 0.0
            for k in range(polynomial.shape[1] - 1, -1, -1):
                a, b, c = a * h + polynomial[0, k], b * h + polynomial[1, k], c * h + polynomial[2, k]
            y[i], d[i], s[i] = a, b, c
    elif kind == TANH:
        _exponentials(mean, step, half, 2.0, s)
        for i in range(n):
            h, e = mean + step * (i - half), s[i]
            w = 1.0 / (1.0 + e)
            y[i] = math.tanh(h) if abs(h) < 0.25 else math.copysign((1.0 - e) * w, h)  # 1 - e cancels at small h
            d[i] = 4.0 * e * w * w
            s[i] = -2.0 * y[i] * d[i]
    else:  # sigmoid and softplus
        _exponentials(mean, step, half, 1.0, s)
        for i in range(n):
            h, e = mean + step * (i - half), s[i]
            w = 1.0 / (1.0 + e)
            logistic, slope = (w if h > 0.0 else e * w), e * w * w
            if kind == SIGMOID:
                y[i], d[i], s[i] = logistic, slope, -slope * math.tanh(0.5 * h)
            else:
                y[i], d[i], s[i] = max(h, 0.0) + math.log1p(e), logistic, slope


@njit(cache=True, nogil=True, error_model="numpy")
def discretize(spread: float, r: float, rtol: float, effort: int) -> tuple[float, int, int]:
    """Return spacing, half the number of nodes, number of terms: see `mehler.level`; no terms if r = 1 or -1."""
    digits = -math.log(rtol)
    spread = max(spread, 1e-3)
    spacing = min(0.38, 4.0 * _POLE**2 / (spread * (digits + 22.0))) * 1.2 ** (-2.0 * effort)
    reach = math.sqrt(2.0 * (10.0 + digits)) + 1.5 * effort
    half = 4 * int(min(math.ceil(0.25 * reach / spacing), 0.25 * _MOST_NODES))
    if abs(r) >= 1.0 - 1e-13:
        return spacing, half, 0
    wanted = digits + 12.0
    rate, slope = -math.log(max(abs(r), 1e-10)), 2.0 * _POLE / spread
    root = 2.0 * wanted / (slope + math.sqrt(slope * slope + 4.0 * rate * wanted))
    terms = min(max(root * root, 16.0) * 1.5625**effort, _MOST_PRODUCTS / half)
    return spacing, half, 8 * math.ceil(0.125 * terms)


@njit(cache=True, nogil=True, error_model="numpy")
def trapezoidal_weights(spacing: float, half: int) -> Array:
    """Return the weights of the trapezoidal rule for nodes 0 to half, and of those with every 2nd, 4th node."""
    weights = np.zeros((3, half + 1))
    for i in range(half + 1):
        x = spacing * i
        w = spacing * math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
        weights[0, i] = w
        if i % 2 == 0:
            weights[1, i] = 2.0 * w
        if i % 4 == 0:
            weights[2, i] = 4.0 * w
    return weights


@njit(cache=True, nogil=True, error_model="numpy")
def _add_squares(squares: Array, weight: float, y: float, d: float, s: float) -> None:
    squares[S] += weight * s * s
    squares[D] += weight * d * d
    squares[Y] += weight * y * y
    squares[DY] += weight * (d * y) * (d * y)
    squares[DD] += weight * (d * d) * (d * d)
    squares[YY] += weight * (y * y) * (y * y)


@njit(cache=True, nogil=True, error_model="numpy")
def fold(y: Array, d: Array, s: Array, half: int, offset: float, even: Array, odd: Array, edges: Array) -> None:
    """Set f(x) + f(-x) of all functions, f(x) - f(-x) of those transformed, at nodes x >= 0, and end values squared."""
    for i in range(half + 1):
        a, b = half + i, half - i
        y1, d1, s1 = y[a] - offset, d[a], s[a]
        y2, d2, s2 = y[b] - offset, d[b], s[b]
        even[S, i], odd[S, i] = s1 + s2, s1 - s2
        even[DY, i], odd[DY, i] = d1 * y1 + d2 * y2, d1 * y1 - d2 * y2
        even[DD, i], odd[DD, i] = d1 * d1 + d2 * d2, (d1 - d2) * (d1 + d2)
        even[D, i] = d1 + d2
        even[Y, i] = y1 + y2
        even[YY, i] = y1 * y1 + y2 * y2
    for f in range(FUNCTIONS):
        even[f, 0] *= 0.5  # the node at zero is its own mirror image
    y1, d1, s1, y2, d2, s2 = y[2 * half] - offset, d[2 * half], s[2 * half], y[0] - offset, d[0], s[0]
    for f in range(FUNCTIONS):
        edges[f] = 0.0
    _add_squares(edges, 1.0, y1, d1, s1)
    _add_squares(edges, 1.0, y2, d2, s2)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def mean_values(even: Array, weights: Array, means: Array) -> None:
    """Set the means (3, functions) by the three rules."""
    for rule in range(3):
        for f in range(FUNCTIONS):
            total = 0.0
            for i in range(weights.shape[1]):
                total += weights[rule, i] * even[f, i]
            means[rule, f] = total


@njit(cache=True, nogil=True, error_model="numpy")
def nodal_error(means: Array, norms: Array, edges: Array, outermost: float) -> float:
    """Estimate the error of expectations relative to the norms: see `mehler.nodal_error`, and `pairs.transform`."""
    last = before = outside = 0.0
    for f in range(FUNCTIONS):
        size = max(norms[f], 1e-300)
        last = max(last, abs(means[0, f] - means[1, f]) / size)
        before = max(before, abs(means[1, f] - means[2, f]) / size)
        outside = max(outside, edges[f] / max(norms[f], 1e-150) ** 2)
    ratio = min(max(last / max(before, 1e-300), 1e-300), 1.0)
    exponential = min(max(-0.5 * (math.log10(ratio) + 1.0), 0.0), 1.0)
    # A product of two functions is harder than each of them: hence the factor, measured over random states.
    return _SAFETY * last * ratio ** (1.0 + 0.75 * exponential) + 4.0 * outermost * outside


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def transform(even: Array, odd: Array, weights: Array, spacing: float, spectra: Array) -> None:
    """Set the Hermite coefficients of the transformed functions, of all points and views at once."""
    n = weights.shape[1]
    # psi_k = weight * He_k / sqrt(k!)
    now, before = weights[0].copy(), np.zeros(n)
    for k in range(spectra.shape[3]):
        for p in range(even.shape[0]):
            for v in range(even.shape[1]):
                for f in range(TRANSFORMED):
                    folded = odd[p, v, f] if k % 2 else even[p, v, f]
                    total = 0.0
                    for i in range(n):
                        total += now[i] * folded[i]
                    spectra[p, v, f, k] = total
        a, b = spacing / math.sqrt(k + 1.0), math.sqrt(k / (k + 1.0))
        for i in range(n):
            following = a * i * now[i] - b * before[i]
            before[i] = now[i]
            now[i] = following


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def integrate(spectrum: Array, means: Array, sigma: float, norms: Array) -> None:
    """Set the spectra of sigma', sigma and sigma^2 from those of sigma'' and sigma' sigma and the means; all norms."""
    spectrum[D, 0], spectrum[Y, 0], spectrum[YY, 0] = means[0, D], means[0, Y], means[0, YY]
    for k in range(1, spectrum.shape[1]):
        factor = sigma / math.sqrt(k)
        spectrum[D, k] = factor * spectrum[S, k - 1]
        spectrum[YY, k] = 2.0 * factor * spectrum[DY, k - 1]
        spectrum[Y, k] = factor * spectrum[D, k - 1]
    for f in range(FUNCTIONS):
        total = 0.0
        for k in range(spectrum.shape[1]):
            total += spectrum[f, k] ** 2
        norms[f] = math.sqrt(total)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def sum_series(first: Array, second: Array, powers: Array, values: Array, rests: Array) -> None:
    """Set the expectations of all pairs, and estimates of the rests of their series (`mehler.tail`)."""
    terms = len(powers)
    quarter = terms // 4
    for j in range(N_PAIRS):
        f, g = first[FIRST[j]], second[SECOND[j]]
        total = third = fourth = 0.0
        for k in range(terms - 2 * quarter):
            total += powers[k] * f[k] * g[k]
        for k in range(terms - 2 * quarter, terms - quarter):
            term = powers[k] * f[k] * g[k]
            total += term
            third += abs(term)
        for k in range(terms - quarter, terms):
            term = powers[k] * f[k] * g[k]
            total += term
            fourth += abs(term)
        ratio = min(fourth / max(third, 1e-300), 0.9)
        values[j], rests[j] = total, fourth * ratio / (1.0 - ratio)


@njit(cache=True, nogil=True, error_model="numpy")
def sum_nodes(
    first: Array, second: Array, offsets: Array, opposite: bool, weights: Array, values: Array, norms: Array
) -> None:
    """Set the expectations of all pairs where the variables of the two views are equal or opposite, and the norms."""
    half = weights.shape[1] - 1
    for j in range(N_PAIRS):
        values[j] = 0.0
    for f in range(FUNCTIONS):
        norms[0, f] = norms[1, f] = 0.0
    for i in range(2 * half + 1):
        w = weights[0, abs(i - half)]
        k = 2 * half - i if opposite else i
        y1, d1, s1 = first[0, i] - offsets[0], first[1, i], first[2, i]
        y2, d2, s2 = second[0, k] - offsets[1], second[1, k], second[2, k]
        values[0] += w * y1 * y2
        values[1] += w * d1 * y2
        values[2] += w * y1 * d2
        values[3] += w * s1 * y2
        values[4] += w * y1 * s2
        values[5] += w * d1 * d2
        values[6] += w * d1 * d1 * y2 * y2
        values[7] += w * y1 * y1 * d2 * d2
        values[8] += w * d1 * y1 * d2 * y2
        _add_squares(norms[0], w, y1, d1, s1)
        _add_squares(norms[1], w, y2, d2, s2)
    for v in range(2):
        for f in range(FUNCTIONS):
            norms[v, f] = math.sqrt(norms[v, f])
