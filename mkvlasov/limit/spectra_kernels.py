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
SAME = np.array([0, 1, 1, 3, 3, 5, 6, 6, 8])
"""The pair that is the same, or has its functions exchanged."""

_SAFETY = 4.0
_SAFETY_TERMS = 2.0
"""Terms fall like exp(-c sqrt(n)), for the poles of the activation, so that ratios of quarters grow: while the terms
are above rounding (c sqrt(n) < 27) the rest is 1.4 to 2 times that of a geometric series."""
_POLE = math.pi / 2.0
_EXTREME = 600.0
"""Largest absolute exponent: exp(600) is a number, and 1 is nothing beside it."""
_ROOTS = np.sqrt(np.arange(1024.0))
"""Square roots and divisions would take most of the time of the recurrences."""
_INVERSE_ROOTS = 1.0 / np.sqrt(np.maximum(np.arange(1024.0), 1.0))
_MOST_NODES, _MOST_PRODUCTS = 1 << 17, 1e8
"""Limits of half the nodes, and of that times the number of terms; the error says where they are too low."""
_FAST = {"reassoc", "contract"}  # sums may be vectorized; NaN and infinity keep their meaning


@njit(cache=True, nogil=True, error_model="numpy")
def _exponentials(mean: float, step: float, rate: float, e: Array) -> None:
    """Set e[i] = exp(-rate (mean + step i)), no smaller or larger than any use of it can tell."""
    n = len(e)
    if rate * (abs(mean) + abs(step) * n) > _EXTREME:  # the recurrence could leave the range of numbers
        for i in range(n):
            e[i] = math.exp(min(max(-rate * (mean + step * i), -_EXTREME), _EXTREME))
        return
    factor = math.exp(-rate * step)
    for start in range(0, n, 32):  # in blocks, so that rounding does not build up
        e[start] = math.exp(-rate * (mean + step * start))
        for i in range(start + 1, min(start + 32, n)):
            e[i] = e[i - 1] * factor


@njit(cache=True, nogil=True, error_model="numpy")
def _tanh(h: float, e: float, w: float) -> float:
    """Return tanh(h) given e = exp(-2 h) and w = 1 / (1 + e), without a branch so that loops are vectorized."""
    # 1 - e cancels at small h; there the continued fraction of tanh, cut off, errs by h^12 / 2e9.
    q = h * h
    small = h * (10395.0 + q * (1260.0 + 21.0 * q)) / (10395.0 + q * (4725.0 + q * (210.0 + q)))
    large = (1.0 - e) * w
    return small if abs(h) < 0.25 else large


@njit(cache=True, nogil=True, error_model="numpy")
def activate(kind: int, polynomial: Array, mean: float, step: float, y: Array, d: Array, s: Array) -> None:
    """Set y, d, s to sigma, sigma', sigma'' at h = mean + step i, i = 0, 1, ..."""
    n = len(y)
    if kind == IDENTITY:
        for i in range(n):
            y[i], d[i], s[i] = mean + step * i, 1.0, 0.0
    elif kind == ERF:
        for i in range(n):
            h = mean + step * i
            y[i] = math.erf(h * math.sqrt(0.5))
            d[i] = math.sqrt(2.0 / math.pi) * math.exp(-0.5 * h * h)
            s[i] = -h * d[i]
    elif kind == POLYNOMIAL:
        for i in range(n):
            h = mean + step * i
            a = b = c = 0.0
            for k in range(polynomial.shape[1] - 1, -1, -1):
                a, b, c = a * h + polynomial[0, k], b * h + polynomial[1, k], c * h + polynomial[2, k]
            y[i], d[i], s[i] = a, b, c
    elif kind == TANH:
        _exponentials(mean, step, 2.0, s)
        for i in range(n):
            e = s[i]
            w = 1.0 / (1.0 + e)
            output, slope = _tanh(mean + step * i, e, w), 4.0 * e * w * w
            y[i], d[i], s[i] = output, slope, -2.0 * output * slope
    elif kind == SIGMOID:
        _exponentials(mean, step, 1.0, s)
        for i in range(n):
            e = s[i]
            w = 1.0 / (1.0 + e)
            slope = e * w * w
            y[i], d[i], s[i] = w, slope, -slope * _tanh(0.5 * (mean + step * i), e, w)
    else:  # softplus
        _exponentials(mean, step, 1.0, s)
        for i in range(n):
            h, e = mean + step * i, s[i]
            w = 1.0 / (1.0 + e)
            y[i], d[i], s[i] = max(h, 0.0) + math.log1p(e if h > 0.0 else 1.0 / e), w, e * w * w


@njit(cache=True, nogil=True, error_model="numpy")
def discretize(spread: float, r: float, rtol: float, effort: int) -> tuple[float, int, int]:
    """Return spacing, half the number of nodes, number of terms: see `mehler.level`; no terms if r = 1 or -1."""
    digits = -math.log(rtol)
    spread = max(spread, 1e-3)
    spacing = min(0.38, 4.0 * _POLE**2 / (spread * (digits + 22.0))) * 1.2 ** (-2.0 * effort)
    reach = math.sqrt(2.0 * (10.0 + digits)) + 1.5 * effort
    # Loops over eight nodes at a time, the one at zero included, have nothing left over.
    half = 8 * int(min(math.ceil(0.125 * (reach / spacing + 1.0)), 0.125 * _MOST_NODES)) - 1
    if abs(r) >= 1.0 - 1e-13:
        return spacing, half, 0
    wanted = digits + 12.0
    rate, slope = -math.log(max(abs(r), 1e-10)), 2.0 * _POLE / spread
    root = 2.0 * wanted / (slope + math.sqrt(slope * slope + 4.0 * rate * wanted))
    terms = min(max(root * root, 16.0) * 1.5625**effort, _MOST_PRODUCTS / half)
    return spacing, half, 8 * math.ceil(0.125 * terms)


@njit(cache=True, nogil=True, error_model="numpy")
def inverse_root(k: int) -> float:
    """Return 1 / sqrt(k) for k >= 1."""
    return _INVERSE_ROOTS[k] if k < len(_INVERSE_ROOTS) else 1.0 / math.sqrt(k)


@njit(cache=True, nogil=True, error_model="numpy")
def trapezoidal_weights(spacing: float, half: int) -> Array:
    """Return the weights of the trapezoidal rule for nodes 0 to half, and of those with every 2nd, 4th node."""
    weights = np.zeros((3, half + 1))
    height, shrink = spacing / math.sqrt(2.0 * math.pi), math.exp(-spacing * spacing)
    for start in range(0, half + 1, 16):  # within 16 nodes each weight from the one before, without an exponential
        x = spacing * start
        w, factor = height * math.exp(-0.5 * x * x), math.exp(-spacing * (x + 0.5 * spacing))
        for i in range(start, min(start + 16, half + 1)):
            weights[0, i] = w
            w *= factor
            factor *= shrink
    for i in range(0, half + 1, 2):
        weights[1, i] = 2.0 * weights[0, i]
    for i in range(0, half + 1, 4):
        weights[2, i] = 4.0 * weights[0, i]
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
def fold(raw: Array, offset: float, folded: Array, edges: Array) -> None:
    """Set sums and differences over pairs of opposite nodes, and end values squared.

    Parameters
    ----------
    raw : ndarray, shape (3, 2, nodes)
        sigma, sigma', sigma'' on both sides of the mean.
    offset : float
        Subtracted from sigma.
    folded : ndarray, shape (FUNCTIONS + TRANSFORMED, nodes)
        Set to f(x) + f(-x) of all functions, then f(x) - f(-x) of those transformed, at nodes x >= 0.
    edges : ndarray, shape (FUNCTIONS,)
    """
    n = raw.shape[2]
    # Loops that touch few arrays are vectorized.
    for i in range(n):
        s1, s2 = raw[2, 0, i], raw[2, 1, i]
        folded[S, i], folded[FUNCTIONS + S, i] = s1 + s2, s1 - s2
    for i in range(n):
        y1, y2 = raw[0, 0, i] - offset, raw[0, 1, i] - offset
        folded[Y, i], folded[YY, i] = y1 + y2, y1 * y1 + y2 * y2
    for i in range(n):
        d1, d2 = raw[1, 0, i], raw[1, 1, i]
        folded[D, i], folded[DD, i] = d1 + d2, d1 * d1 + d2 * d2
    for i in range(n):
        d1, d2 = raw[1, 0, i], raw[1, 1, i]
        folded[FUNCTIONS + DD, i] = (d1 - d2) * (d1 + d2)
    for i in range(n):
        folded[DY, i] = raw[1, 0, i] * (raw[0, 0, i] - offset) + raw[1, 1, i] * (raw[0, 1, i] - offset)
    for i in range(n):
        folded[FUNCTIONS + DY, i] = raw[1, 0, i] * (raw[0, 0, i] - offset) - raw[1, 1, i] * (raw[0, 1, i] - offset)
    for f in range(FUNCTIONS):
        folded[f, 0] *= 0.5  # the node at zero is its own mirror image
        edges[f] = 0.0
    for side in range(2):
        _add_squares(edges, 1.0, raw[0, side, n - 1] - offset, raw[1, side, n - 1], raw[2, side, n - 1])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def mean_values(folded: Array, weights: Array, means: Array) -> None:
    """Set the means (3, functions) by the three rules."""
    for f in range(FUNCTIONS):
        every = second = fourth = 0.0
        for i in range(weights.shape[1]):
            every += weights[0, i] * folded[f, i]
            second += weights[1, i] * folded[f, i]
            fourth += weights[2, i] * folded[f, i]
        means[0, f], means[1, f], means[2, f] = every, second, fourth


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
def transform(folded: Array, weights: Array, spacing: float, spectra: Array) -> None:
    """Set the Hermite coefficients of the transformed functions, of all points and views at once."""
    n = weights.shape[1]
    # psi_k = weight * He_k / sqrt(k!), and the one before
    psi = np.zeros((2, n))
    for i in range(n):
        psi[0, i] = weights[0, i]
    for k in range(spectra.shape[3]):
        now, first = k % 2, FUNCTIONS * (k % 2)
        for p in range(folded.shape[0]):
            for v in range(folded.shape[1]):
                a = b = c = 0.0
                for i in range(n):
                    a += psi[now, i] * folded[p, v, first, i]
                    b += psi[now, i] * folded[p, v, first + 1, i]
                    c += psi[now, i] * folded[p, v, first + 2, i]
                spectra[p, v, 0, k], spectra[p, v, 1, k], spectra[p, v, 2, k] = a, b, c
        inverse = inverse_root(k + 1)
        a, b = spacing * inverse, inverse * (_ROOTS[k] if k < len(_ROOTS) else math.sqrt(k))
        for i in range(n):
            psi[1 - now, i] = a * i * psi[now, i] - b * psi[1 - now, i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def integrate(spectrum: Array, means: Array, sigma: float, norms: Array) -> None:
    """Set the spectra of sigma', sigma and sigma^2 from those of sigma'' and sigma' sigma and the means; all norms."""
    spectrum[D, 0], spectrum[Y, 0], spectrum[YY, 0] = means[0, D], means[0, Y], means[0, YY]
    for k in range(1, spectrum.shape[1]):
        factor = sigma * inverse_root(k)
        spectrum[D, k] = factor * spectrum[S, k - 1]
        spectrum[YY, k] = 2.0 * factor * spectrum[DY, k - 1]
        spectrum[Y, k] = factor * spectrum[D, k - 1]
    for f in range(FUNCTIONS):
        total = 0.0
        for k in range(spectrum.shape[1]):
            total += spectrum[f, k] ** 2
        norms[f] = math.sqrt(total)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def sum_series(first: Array, second: Array, alike: bool, powers: Array, values: Array, rests: Array) -> None:
    """Set the expectations of all pairs, and estimates of the rests of their series (`mehler.tail`).

    If the views are alike, a pair and the one with its functions exchanged are the same.
    """
    terms = len(powers)
    quarter = terms // 4
    for j in range(N_PAIRS):
        if alike and SAME[j] < j:
            values[j], rests[j] = values[SAME[j]], rests[SAME[j]]
            continue
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
        values[j], rests[j] = total, _SAFETY_TERMS * fourth * ratio / (1.0 - ratio)


@njit(cache=True, nogil=True, error_model="numpy")
def sum_nodes(
    first: Array,
    second: Array,
    offsets: tuple[float, float],
    opposite: bool,
    weights: Array,
    values: Array,
    norms: Array,
) -> None:
    """Set the expectations of all pairs where the variables of the two views are equal or opposite, and the norms."""
    for j in range(N_PAIRS):
        values[j] = 0.0
    for f in range(FUNCTIONS):
        norms[0, f] = norms[1, f] = 0.0
    for side in range(2):
        other = 1 - side if opposite else side
        for i in range(side, weights.shape[1]):  # the node at zero once
            w = weights[0, i]
            y1, d1, s1 = first[0, side, i] - offsets[0], first[1, side, i], first[2, side, i]
            y2, d2, s2 = second[0, other, i] - offsets[1], second[1, other, i], second[2, other, i]
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
