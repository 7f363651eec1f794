"""Compiled coefficients for one output, a smooth built-in activation and the covariance loss.

The formulas, the choice of nodes and the error estimate are those of `mehler`, `pairs`, `covariance` and
`coefficients`, without their tables: the Hermite functions are run through by their recurrence, once for all points of
the hidden law, so that the spacing of the nodes and the number of terms may take any value. Only three functions are
transformed, sigma'', sigma' sigma and sigma'^2; as sigma and sigma' vary with h = mean + s x,

    E[f He_n / sqrt(n!)] = s E[f' He_{n-1} / sqrt((n-1)!)] / sqrt(n)

gives the coefficients of sigma', sigma and sigma^2 from them and from three means, stably as s -> 0.

Everything is in one module because Numba's cache of a function does not notice changes in other files.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

IDENTITY, TANH, ERF, SOFTPLUS, SIGMOID, POLYNOMIAL = range(6)

# Functions of a pre-activation; the first three are transformed, their integrals follow.
_S, _DY, _DD, _D, _Y, _YY = range(6)
_FUNCTIONS, _TRANSFORMED, _PAIRS = 6, 3, 9

# Columns of an entry, see `mkvlasov.limit.bounded`.
_VALUE, _MAGNITUDE, _ERROR, _SIZE = range(4)
_G, _GBAR, _LOSS, _LAMBDA, _H = range(5)

# Pairs (function of view 1, function of view 2) in the order of the columns of `combination`.
PAIRS = (
    ("y", "y"), ("d", "y"), ("y", "d"), ("s", "y"), ("y", "s"), ("d", "d"), ("dd", "yy"), ("yy", "dd"), ("dy", "dy"),
)  # fmt: skip
_FIRST = np.array([_Y, _D, _Y, _S, _Y, _D, _DD, _YY, _DY])
_SECOND = np.array([_Y, _Y, _D, _Y, _S, _D, _YY, _DD, _DY])
# Pairs whose means over the hidden law multiply each other in Lambda if the loss is centred.
_YY_PAIR, _DD_PAIR = 0, 5

# Places in `numbers`.
_RTOL, _KIND, _CENTERED, _ETA, _S11, _S22, _S12, _REST = range(8)

_ROUNDING, _SAFETY = 4e-16, 4.0
_POLE = math.pi / 2.0
_MOST_NODES, _MOST_PRODUCTS = 1 << 17, 1e8
"""Limits of half the nodes, and of that times the number of terms; the error says where they are too low."""
_EFFORTS = 5
_FAST = {"reassoc", "contract"}  # sums may be vectorized; NaN and infinity keep their meaning


@njit(cache=True, nogil=True, fastmath=_FAST)
def _exponentials(mean, step, half, rate, e):
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


@njit(cache=True, nogil=True, fastmath=_FAST)
def _activate(kind, polynomial, mean, step, half, y, d, s):
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


@njit(cache=True, nogil=True)
def _discretize(spread, r, rtol, effort):
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
    return spacing, half, 8 * int(math.ceil(0.125 * terms))


@njit(cache=True, nogil=True, fastmath=_FAST)
def _weights(spacing, half):
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


@njit(cache=True, nogil=True)
def _add_squares(squares, weight, y, d, s):
    squares[_S] += weight * s * s
    squares[_D] += weight * d * d
    squares[_Y] += weight * y * y
    squares[_DY] += weight * (d * y) * (d * y)
    squares[_DD] += weight * (d * d) * (d * d)
    squares[_YY] += weight * (y * y) * (y * y)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _fold(y, d, s, half, offset, even, odd, edges):
    """Set f(x) + f(-x) of all functions and f(x) - f(-x) of those transformed at nodes x >= 0, and end values squared."""
    for i in range(half + 1):
        a, b = half + i, half - i
        y1, d1, s1 = y[a] - offset, d[a], s[a]
        y2, d2, s2 = y[b] - offset, d[b], s[b]
        even[_S, i], odd[_S, i] = s1 + s2, s1 - s2
        even[_DY, i], odd[_DY, i] = d1 * y1 + d2 * y2, d1 * y1 - d2 * y2
        even[_DD, i], odd[_DD, i] = d1 * d1 + d2 * d2, (d1 - d2) * (d1 + d2)
        even[_D, i] = d1 + d2
        even[_Y, i] = y1 + y2
        even[_YY, i] = y1 * y1 + y2 * y2
    for f in range(_FUNCTIONS):
        even[f, 0] *= 0.5  # the node at zero is its own mirror image
    y1, d1, s1, y2, d2, s2 = y[2 * half] - offset, d[2 * half], s[2 * half], y[0] - offset, d[0], s[0]
    for f in range(_FUNCTIONS):
        edges[f] = 0.0
    _add_squares(edges, 1.0, y1, d1, s1)
    _add_squares(edges, 1.0, y2, d2, s2)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _means(even, weights, means):
    """Set the means (3, functions) by the three rules."""
    for rule in range(3):
        for f in range(_FUNCTIONS):
            total = 0.0
            for i in range(weights.shape[1]):
                total += weights[rule, i] * even[f, i]
            means[rule, f] = total


@njit(cache=True, nogil=True, fastmath=_FAST)
def _nodal_error(means, norms, edges, outermost):
    """Estimate the error of expectations relative to the norms: see `mehler.nodal_error`, and `pairs.transform`."""
    last = before = outside = 0.0
    for f in range(_FUNCTIONS):
        size = max(norms[f], 1e-300)
        last = max(last, abs(means[0, f] - means[1, f]) / size)
        before = max(before, abs(means[1, f] - means[2, f]) / size)
        outside = max(outside, edges[f] / max(norms[f], 1e-150) ** 2)
    ratio = min(max(last / max(before, 1e-300), 1e-300), 1.0)
    exponential = min(max(-0.5 * (math.log10(ratio) + 1.0), 0.0), 1.0)
    # A product of two functions is harder than each of them: hence the factor, measured over random states.
    return _SAFETY * last * ratio ** (1.0 + 0.75 * exponential) + 4.0 * outermost * outside


@njit(cache=True, nogil=True, fastmath=_FAST)
def _transform(even, odd, weights, spacing, spectra):
    """Set the Hermite coefficients of the transformed functions, of all points and views at once."""
    n = weights.shape[1]
    # psi_k = weight * He_k / sqrt(k!)
    now, before = weights[0].copy(), np.zeros(n)
    for k in range(spectra.shape[3]):
        for p in range(even.shape[0]):
            for v in range(even.shape[1]):
                for f in range(_TRANSFORMED):
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


@njit(cache=True, nogil=True, fastmath=_FAST)
def _integrate(spectrum, means, sigma, norms):
    """Set the spectra of sigma', sigma and sigma^2 from those of sigma'' and sigma' sigma and the means; all norms."""
    spectrum[_D, 0], spectrum[_Y, 0], spectrum[_YY, 0] = means[0, _D], means[0, _Y], means[0, _YY]
    for k in range(1, spectrum.shape[1]):
        factor = sigma / math.sqrt(k)
        spectrum[_D, k] = factor * spectrum[_S, k - 1]
        spectrum[_YY, k] = 2.0 * factor * spectrum[_DY, k - 1]
        spectrum[_Y, k] = factor * spectrum[_D, k - 1]
    for f in range(_FUNCTIONS):
        total = 0.0
        for k in range(spectrum.shape[1]):
            total += spectrum[f, k] ** 2
        norms[f] = math.sqrt(total)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _sum_series(first, second, powers, values, rests):
    """Set the expectations of all pairs, and estimates of the rests of their series (`mehler.tail`)."""
    terms = len(powers)
    quarter = terms // 4
    for j in range(_PAIRS):
        f, g = first[_FIRST[j]], second[_SECOND[j]]
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


@njit(cache=True, nogil=True)
def _sum_nodes(first, second, offsets, opposite, weights, values, norms):
    """Set the expectations of all pairs where the variables of the two views are equal or opposite, and the norms."""
    half = weights.shape[1] - 1
    for j in range(_PAIRS):
        values[j] = 0.0
    for f in range(_FUNCTIONS):
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
        for f in range(_FUNCTIONS):
            norms[v, f] = math.sqrt(norms[v, f])


@njit(cache=True, nogil=True, fastmath=_FAST)
def _add(entries, weight, point, combination, values, errors, sizes):
    """Add a point of the hidden law to the entries G, Gbar, loss, Lambda, H."""
    for row in range(5):
        value = magnitude = error = size = 0.0
        for j in range(_PAIRS):
            c = combination[row, j]
            value += c * values[j]
            magnitude += abs(c * values[j])
            error += abs(c) * errors[j]
            size += abs(c) * sizes[j]
        if row < _H:
            entries[row, _VALUE] += weight * value
            entries[row, _MAGNITUDE] += weight * magnitude
            entries[row, _ERROR] += weight * error
            entries[row, _SIZE] += weight * size
        else:
            for k in range(len(point)):
                c = weight * point[k]
                entries[_H + k, _VALUE] += c * value
                entries[_H + k, _MAGNITUDE] += abs(c) * magnitude
                entries[_H + k, _ERROR] += abs(c) * error
                entries[_H + k, _SIZE] += abs(c) * size


@njit(cache=True, nogil=True, fastmath=_FAST)
def _mean_outputs(kind, polynomial, nodes, R, sigma, spacing, weights):
    """Return the mean output of a view over all points."""
    half = weights.shape[1] - 1
    raw = np.empty((3, 2 * half + 1))
    result = 0.0
    for p in range(len(nodes)):
        _activate(kind, polynomial, _dot(nodes[p, 1:], R), sigma * spacing, half, raw[0], raw[1], raw[2])
        total = 0.0
        for i in range(2 * half + 1):
            total += weights[0, abs(i - half)] * raw[0, i]
        result += nodes[p, 0] * total
    return result


@njit(cache=True, nogil=True)
def _dot(a, b):
    total = 0.0
    for k in range(len(b)):
        total += a[k] * b[k]
    return total


@njit(cache=True, nogil=True)
def _bound(values, errors, sizes, norms, nodal):
    """Add to the errors of pairs what the nodes and rounding leave, and set the sizes."""
    for j in range(_PAIRS):
        sizes[j] = norms[0, _FIRST[j]] * norms[1, _SECOND[j]]
        errors[j] += sizes[j] * (nodal[0] + nodal[1] + _ROUNDING)


@njit(cache=True, nogil=True)
def _accumulate(row, weight, value, error, size):
    row[_VALUE] += weight * value
    row[_MAGNITUDE] += weight * abs(value)
    row[_ERROR] += weight * error
    row[_SIZE] += weight * size


@njit(cache=True, nogil=True)
def _add_factors(factors, weight, values, errors, sizes, means, norms, nodal):
    """Add a point to E[y y'], E[d d'] and to E d^2, E y^2 of each view, the factors of the rest of a centred batch."""
    for i, j in ((0, _YY_PAIR), (1, _DD_PAIR)):
        _accumulate(factors[i], weight, values[j], errors[j], sizes[j])
    for v in range(2):
        for i, f in ((2, _DD), (3, _YY)):
            _accumulate(factors[2 * v + i], weight, means[v, f], norms[v, f] * nodal[v], norms[v, f])


@njit(cache=True, nogil=True)
def _add_rest_of_batch(row, factors, scale, t11, t22, t12):
    """Add to Lambda the fluctuations of the means over a batch about which a centred covariance is taken."""
    for t, i, j in ((t11, 2, 5), (t22, 4, 3), (2.0 * t12, 1, 0)):
        a, b, c = factors[i], factors[j], scale * t
        row[_VALUE] += c * a[_VALUE] * b[_VALUE]
        row[_MAGNITUDE] += abs(c) * a[_MAGNITUDE] * b[_MAGNITUDE]
        row[_ERROR] += abs(c) * (
            (a[_MAGNITUDE] + a[_ERROR]) * (b[_MAGNITUDE] + b[_ERROR]) - a[_MAGNITUDE] * b[_MAGNITUDE]
        )
        row[_SIZE] += abs(c) * a[_SIZE] * b[_SIZE]


@njit(cache=True, nogil=True)
def _copy(source, target):
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@njit(cache=True, nogil=True)
def _clear(entries):
    for i in range(entries.shape[0]):
        for j in range(entries.shape[1]):
            entries[i, j] = 0.0


@njit(cache=True, nogil=True)
def _evaluate(numbers, combination, polynomial, nodes, R, sigmas, r, effort, entries):
    """Set entries (4 + K, 4), without the part of H that is linear in Gbar: averages over the hidden law."""
    rtol, kind, centered = numbers[_RTOL], int(numbers[_KIND]), numbers[_CENTERED] != 0.0
    # A polynomial needs no more nodes for a larger argument.
    spread = 0.0 if kind in (IDENTITY, POLYNOMIAL) else max(sigmas[0], sigmas[1])
    spacing, half, terms = _discretize(spread, r, rtol, effort)
    weights = _weights(spacing, half)
    opposite = terms == 0 and r < 0.0
    last = 0 if sigmas[0] == sigmas[1] and not opposite else 1  # views that are alike are transformed once
    views = last + 1
    block = min(max(1, 2048 // half), len(nodes))
    raw = np.empty((views, 3, 2 * half + 1))
    even = np.empty((block, views, _FUNCTIONS, half + 1))
    odd = np.empty((block, views, _TRANSFORMED, half + 1))
    means, edges = np.empty((block, 2, 3, _FUNCTIONS)), np.empty((block, views, _FUNCTIONS))
    spectra, norms = np.empty((block, views, _FUNCTIONS, terms)), np.empty((block, 2, _FUNCTIONS))
    values, errors, sizes = np.empty((block, _PAIRS)), np.zeros(_PAIRS), np.empty(_PAIRS)
    nodal, offsets, factors = np.empty(2), np.zeros(2), np.zeros((6, 4))
    powers = np.ones(terms)
    for k in range(1, terms):
        powers[k] = r * powers[k - 1]
    if centered:
        for v in range(2):
            offsets[v] = _mean_outputs(kind, polynomial, nodes, R, sigmas[v], spacing, weights)
    _clear(entries)
    for start in range(0, len(nodes), block):
        count = min(block, len(nodes) - start)
        for p in range(count):
            mean = _dot(nodes[start + p, 1:], R)
            for v in range(views):
                _activate(kind, polynomial, mean, sigmas[v] * spacing, half, raw[v, 0], raw[v, 1], raw[v, 2])
                _fold(raw[v, 0], raw[v, 1], raw[v, 2], half, offsets[v], even[p, v], odd[p, v], edges[p, v])
                _means(even[p, v], weights, means[p, v])
            if terms == 0:
                _sum_nodes(raw[0], raw[last], offsets, opposite, weights, values[p], norms[p])
        _transform(even[:count], odd, weights, spacing, spectra)
        for p in range(count):
            if terms:
                for v in range(views):
                    _integrate(spectra[p, v], means[p, v], sigmas[v], norms[p, v])
                _sum_series(spectra[p, 0], spectra[p, last], powers, values[p], errors)
            else:
                for j in range(_PAIRS):
                    errors[j] = 0.0
            for v in range(views):
                nodal[v] = _nodal_error(means[p, v], norms[p, v], edges[p, v], weights[0, half])
            if not last:
                nodal[1] = nodal[0]
                for f in range(_FUNCTIONS):
                    norms[p, 1, f], means[p, 1, 0, f] = norms[p, 0, f], means[p, 0, 0, f]
            _bound(values[p], errors, sizes, norms[p], nodal)
            weight = nodes[start + p, 0]
            _add(entries, weight, nodes[start + p, 1:], combination, values[p], errors, sizes)
            if centered:
                _add_factors(factors, weight, values[p], errors, sizes, means[p, :, 0], norms[p], nodal)
    if centered:
        t11, t22, t12 = numbers[_ETA] + numbers[_S11], numbers[_ETA] + numbers[_S22], numbers[_ETA] + numbers[_S12]
        _add_rest_of_batch(entries[_LAMBDA], factors, numbers[_REST], t11, t22, t12)


@njit(cache=True, nogil=True)
def _worst(errors, entries):
    """Return the worst of the errors relative to the entries (`bounded.relative_error`)."""
    worst = 0.0
    for i in range(len(entries)):
        error = errors[i] / max(entries[i, _MAGNITUDE], 1e-3 * entries[i, _SIZE], 1e-300)
        if not error <= worst:  # so that NaN is kept
            worst = error
    return worst


@njit(cache=True, nogil=True)
def _law(Q, R, numbers, covariance, inner):
    """Return deviations and correlation of the pre-activations and the violation (`views.view_law`); set (Cov - eta) R."""
    learnt, variance = _dot(R, R), 0.0
    for k in range(len(R)):
        inner[k] = _dot(covariance[k], R)
        variance += R[k] * inner[k]
        inner[k] -= numbers[_ETA] * R[k]
    rest, removed = max(Q - learnt, 0.0), max(learnt - Q, 0.0)
    shared, overlap = numbers[_ETA] * rest + variance, rest + learnt
    first = math.sqrt(max(shared + numbers[_S11] * overlap, 0.0))
    second = math.sqrt(max(shared + numbers[_S22] * overlap, 0.0))
    product = first * second
    r = min(max((shared + numbers[_S12] * overlap) / product, -1.0), 1.0) if product > 0.0 else 0.0
    violation = removed / max(abs(Q), learnt) if removed > 0.0 else 0.0
    return (first, second), r, violation if violation >= 1e-14 else 0.0


@njit(cache=True, nogil=True)
def rates(Q, R, data):
    """Return the limit coefficients at one state of one output: `LimitCoefficients` as a compiled function.

    Parameters
    ----------
    Q : float
    R : ndarray of float64, shape (K,), contiguous
    data : tuple of arrays
        ``LimitCoefficients(problem, rtol).line_kernel().data``.

    Returns
    -------
    G, Gbar : float
    H : ndarray, shape (K,)
    Lambda : float
        For a learning rate of one: multiply by tau(t)^2.
    loss : float
    error : float
        As `Coefficients.error`; NaN or infinite where the coefficients are not finite.
    """
    numbers, covariance, combination, polynomial, nodes, starts = data
    inner = np.empty(len(R))
    sigmas, r, violation = _law(Q, R, numbers, covariance, inner)
    shape = (_H + len(R), 4)
    entries, best, trial = np.empty(shape), np.empty(shape), np.empty(shape)
    error, before = np.inf, np.inf
    for step in range(len(starts) - 1):  # more nodes of a continuous hidden law until the coefficients change no more
        chosen = nodes[starts[step] : starts[step + 1]]
        quadrature = np.inf
        for effort in range(_EFFORTS):
            _evaluate(numbers, combination, polynomial, chosen, R, sigmas, r, effort, trial)
            for k in range(len(R)):
                trial[_H + k, _VALUE] += inner[k] * trial[_GBAR, _VALUE]
                for column in (_MAGNITUDE, _ERROR, _SIZE):
                    trial[_H + k, column] += abs(inner[k]) * trial[_GBAR, column]
            found = _worst(trial[:, _ERROR], trial)
            if effort == 0 or found < quadrature:
                quadrature = found
                _copy(trial, best)
            if not quadrature > numbers[_RTOL]:
                break
        quadrature = max(quadrature, violation)
        change = 0.0
        if step > 0:
            for i in range(len(entries)):
                entries[i, _ERROR] = abs(best[i, _VALUE] - entries[i, _VALUE])
            change = _worst(entries[:, _ERROR], best)
        # The next change would shrink by the same factor at least.
        left = change * min(1.0, change / max(before, 1e-300)) if step > 1 else change
        _copy(best, entries)
        error, before = quadrature + left, change
        if step > 0 and not left > numbers[_RTOL]:
            break
    H = np.empty(len(R))
    for k in range(len(R)):
        H[k] = entries[_H + k, _VALUE]
    return (
        entries[_G, _VALUE], entries[_GBAR, _VALUE], H, entries[_LAMBDA, _VALUE], entries[_LOSS, _VALUE], error,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def rates_of_states(Q, R, data, G, Gbar, H, Lambda, loss, error):
    """Fill arrays with the rates of all states: Q (S,), R (S, K)."""
    for i in range(len(Q)):
        G[i], Gbar[i], H[i], Lambda[i], loss[i], error[i] = rates(Q[i], R[i], data)
