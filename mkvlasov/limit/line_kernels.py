"""Compiled limit coefficients for one output, a smooth built-in activation and the covariance loss.

Formulas and error estimates are those of `covariance` (m = 1) and `coefficients`. Each entry of the result has a value,
the sum of the absolute values of its terms, an error and a natural size, see `bounded`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.limit.spectra_kernels import (
    DD,
    FIRST,
    FUNCTIONS,
    IDENTITY,
    N_PAIRS,
    POLYNOMIAL,
    SECOND,
    TANH,
    TRANSFORMED,
    YY,
    activate,
    discretize,
    fold,
    integrate,
    mean_values,
    nodal_error,
    sum_nodes,
    sum_series,
    transform,
    trapezoidal_weights,
)

_VALUE, _MAGNITUDE, _ERROR, _SIZE = range(4)  # columns
_G, _GBAR, _LOSS, _LAMBDA, _H = range(5)  # rows; from the last on there is one per feature

# Pairs whose means over the hidden law multiply each other in Lambda if the loss is centred: (y, y) and (d, d).
_YY_PAIR, _DD_PAIR = 0, 5

# Places in `numbers`.
_RTOL, _KIND, _CENTERED, _ETA, _S11, _S22, _S12, _REST = range(8)

_ROUNDING = 4e-16
_EFFORTS = 5


@njit(cache=True, nogil=True, error_model="numpy")
def _add(
    entries: Array, weight: float, point: Array, combination: Array, values: Array, errors: Array, sizes: Array
) -> None:
    """Add a point of the hidden law to the entries G, Gbar, loss, Lambda, H."""
    for row in range(5):
        value = magnitude = error = size = 0.0
        for j in range(N_PAIRS):
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


@njit(cache=True, nogil=True, error_model="numpy")
def _activate_both_sides(kind: int, polynomial: Array, mean: float, step: float, raw: Array) -> None:
    """Set sigma, sigma', sigma'' (3, 2, nodes) at mean + step i and at mean - step i."""
    if kind == TANH and mean == 0.0:
        # Odd and even to the last digit, so that weights without overlaps stay without.
        activate(kind, polynomial, mean, step, raw[0, 0], raw[1, 0], raw[2, 0])
        for i in range(raw.shape[2]):
            raw[0, 1, i], raw[1, 1, i], raw[2, 1, i] = -raw[0, 0, i], raw[1, 0, i], -raw[2, 0, i]
        return
    for side in range(2):
        activate(kind, polynomial, mean, step if side == 0 else -step, raw[0, side], raw[1, side], raw[2, side])


@njit(cache=True, nogil=True, error_model="numpy")
def _mean_outputs(
    kind: int, polynomial: Array, nodes: Array, R: Array, sigma: float, spacing: float, weights: Array
) -> float:
    """Return the mean output of a view over all points."""
    raw = np.empty((3, 2, weights.shape[1]))
    result = 0.0
    for p in range(len(nodes)):
        _activate_both_sides(kind, polynomial, _dot(nodes[p, 1:], R), sigma * spacing, raw)
        total = -weights[0, 0] * raw[0, 0, 0]  # which is in both sides
        for i in range(weights.shape[1]):
            total += weights[0, i] * (raw[0, 0, i] + raw[0, 1, i])
        result += nodes[p, 0] * total
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for k in range(len(b)):
        total += a[k] * b[k]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _bound(values: Array, errors: Array, sizes: Array, norms: Array, nodal: tuple[float, float]) -> None:
    """Add to the errors of pairs what the nodes and rounding leave, and set the sizes."""
    for j in range(N_PAIRS):
        sizes[j] = norms[0, FIRST[j]] * norms[1, SECOND[j]]
        errors[j] += sizes[j] * (nodal[0] + nodal[1] + _ROUNDING)


@njit(cache=True, nogil=True, error_model="numpy")
def _accumulate(row: Array, weight: float, value: float, error: float, size: float) -> None:
    row[_VALUE] += weight * value
    row[_MAGNITUDE] += weight * abs(value)
    row[_ERROR] += weight * error
    row[_SIZE] += weight * size


@njit(cache=True, nogil=True, error_model="numpy")
def _add_factors(
    factors: Array,
    weight: float,
    values: Array,
    errors: Array,
    sizes: Array,
    means: Array,
    norms: Array,
    nodal: tuple[float, float],
) -> None:
    """Add a point to E[y y'], E[d d'] and to E d^2, E y^2 of each view, the factors of the rest of a centred batch."""
    for i, j in ((0, _YY_PAIR), (1, _DD_PAIR)):
        _accumulate(factors[i], weight, values[j], errors[j], sizes[j])
    for v in range(2):
        for i, f in ((2, DD), (3, YY)):
            _accumulate(factors[2 * v + i], weight, means[v, f], norms[v, f] * nodal[v], norms[v, f])


@njit(cache=True, nogil=True, error_model="numpy")
def _add_rest_of_batch(row: Array, factors: Array, scale: float, t11: float, t22: float, t12: float) -> None:
    """Add to Lambda the fluctuations of the means over a batch about which a centred covariance is taken."""
    for t, i, j in ((t11, 2, 5), (t22, 4, 3), (2.0 * t12, 1, 0)):
        a, b, c = factors[i], factors[j], scale * t
        row[_VALUE] += c * a[_VALUE] * b[_VALUE]
        row[_MAGNITUDE] += abs(c) * a[_MAGNITUDE] * b[_MAGNITUDE]
        row[_ERROR] += abs(c) * (
            (a[_MAGNITUDE] + a[_ERROR]) * (b[_MAGNITUDE] + b[_ERROR]) - a[_MAGNITUDE] * b[_MAGNITUDE]
        )
        row[_SIZE] += abs(c) * a[_SIZE] * b[_SIZE]


@njit(cache=True, nogil=True, error_model="numpy")
def _copy(source: Array, target: Array) -> None:
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _clear(entries: Array) -> None:
    for i in range(entries.shape[0]):
        for j in range(entries.shape[1]):
            entries[i, j] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _evaluate(
    numbers: Array,
    combination: Array,
    polynomial: Array,
    nodes: Array,
    R: Array,
    sigmas: tuple[float, float],
    r: float,
    effort: int,
    entries: Array,
) -> None:
    """Set entries (4 + K, 4), without the part of H that is linear in Gbar: averages over the hidden law."""
    rtol, kind, centered = numbers[_RTOL], int(numbers[_KIND]), numbers[_CENTERED] != 0.0
    # A polynomial needs no more nodes for a larger argument.
    spread = 0.0 if kind in (IDENTITY, POLYNOMIAL) else max(sigmas[0], sigmas[1])
    spacing, half, terms = discretize(spread, r, rtol, effort)
    weights = trapezoidal_weights(spacing, half)
    opposite = terms == 0 and r < 0.0
    last = 0 if sigmas[0] == sigmas[1] and not opposite else 1  # views that are alike are transformed once
    views = last + 1
    block = min(max(1, 2048 // half), len(nodes))
    raw = np.empty((views, 3, 2, half + 1))
    folded = np.empty((block, views, FUNCTIONS + TRANSFORMED, half + 1))
    means, edges = np.empty((block, 2, 3, FUNCTIONS)), np.empty((block, views, FUNCTIONS))
    spectra, norms = np.empty((block, views, FUNCTIONS, terms)), np.empty((block, 2, FUNCTIONS))
    values, errors, sizes = np.empty((block, N_PAIRS)), np.zeros(N_PAIRS), np.empty(N_PAIRS)
    offsets, factors = (0.0, 0.0), np.zeros((6, 4) if centered else (0, 4))
    powers = np.ones(terms)
    for k in range(1, terms):
        powers[k] = r * powers[k - 1]
    if centered:
        offsets = (
            _mean_outputs(kind, polynomial, nodes, R, sigmas[0], spacing, weights),
            _mean_outputs(kind, polynomial, nodes, R, sigmas[1], spacing, weights),
        )
    _clear(entries)
    for start in range(0, len(nodes), block):
        count = min(block, len(nodes) - start)
        for p in range(count):
            mean = _dot(nodes[start + p, 1:], R)
            for v in range(views):
                _activate_both_sides(kind, polynomial, mean, sigmas[v] * spacing, raw[v])
                fold(raw[v], offsets[v], folded[p, v], edges[p, v])
                mean_values(folded[p, v], weights, means[p, v])
            if terms == 0:
                sum_nodes(raw[0], raw[last], offsets, opposite, weights, values[p], norms[p])
        transform(folded[:count], weights, spacing, spectra)
        for p in range(count):
            if terms:
                for v in range(views):
                    integrate(spectra[p, v], means[p, v], sigmas[v], norms[p, v])
                sum_series(spectra[p, 0], spectra[p, last], last == 0, powers, values[p], errors)
            else:
                for j in range(N_PAIRS):
                    errors[j] = 0.0
            first = nodal_error(means[p, 0], norms[p, 0], edges[p, 0], weights[0, half])
            if last:
                nodal = (first, nodal_error(means[p, 1], norms[p, 1], edges[p, 1], weights[0, half]))
            else:
                nodal = (first, first)
                for f in range(FUNCTIONS):
                    norms[p, 1, f], means[p, 1, 0, f] = norms[p, 0, f], means[p, 0, 0, f]
            _bound(values[p], errors, sizes, norms[p], nodal)
            weight = nodes[start + p, 0]
            _add(entries, weight, nodes[start + p, 1:], combination, values[p], errors, sizes)
            if centered:
                _add_factors(factors, weight, values[p], errors, sizes, means[p, :, 0], norms[p], nodal)
    if centered:
        t11, t22, t12 = numbers[_ETA] + numbers[_S11], numbers[_ETA] + numbers[_S22], numbers[_ETA] + numbers[_S12]
        _add_rest_of_batch(entries[_LAMBDA], factors, numbers[_REST], t11, t22, t12)


@njit(cache=True, nogil=True, error_model="numpy")
def _worst(errors: Array, entries: Array) -> float:
    """Return the worst of the errors relative to the entries (`bounded.relative_error`)."""
    worst = 0.0
    for i in range(len(entries)):
        error = errors[i] / max(entries[i, _MAGNITUDE], 1e-3 * entries[i, _SIZE], 1e-300)
        if not error <= worst:  # so that NaN is kept
            worst = error
    return worst


@njit(cache=True, nogil=True, error_model="numpy")
def _law(
    Q: float, R: Array, numbers: Array, covariance: Array, inner: Array
) -> tuple[tuple[float, float], float, float]:
    """Set inner = (Cov - eta) R; return deviations and correlation of the pre-activations, and the violation.

    See `views.view_law`.
    """
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


@njit(cache=True, nogil=True, error_model="numpy")
def rates(Q: float, R: Array, data: tuple[Array, ...]) -> tuple[float, float, Array, float, float, float]:
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


@njit(cache=True, nogil=True, error_model="numpy")
def rates_of_states(Q: Array, R: Array, data: tuple[Array, ...], scalars: Array, H: Array) -> None:
    """Set G, Gbar, Lambda, loss and error, the rows of `scalars` (5, S), and H (S, K) at states Q (S,), R (S, K)."""
    for i in range(len(Q)):
        scalars[0, i], scalars[1, i], drive, scalars[2, i], scalars[3, i], scalars[4, i] = rates(Q[i], R[i], data)
        for k in range(len(drive)):
            H[i, k] = drive[k]
