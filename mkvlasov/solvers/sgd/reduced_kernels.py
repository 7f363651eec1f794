"""Compiled steps of the reduced simulation (`solvers.sgd.reduced`)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.solvers.sgd.alpha_kernels import activate, factorize, loss_gradient
from mkvlasov.solvers.sgd.normal_kernels import TILE, Words, fill_normals, fill_tile, room
from mkvlasov.solvers.sgd.penalty_kernels import (
    DOUBLE_WELL_PROXIMAL,
    ENTRIES,
    ENTRIES_PROXIMAL,
    ROWS,
    ROWS_PROXIMAL,
    penalize_entries,
    penalize_rows,
    settle_in_wells,
    shrink_entries,
    shrink_rows,
)

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
_length = njit(cache=True, nogil=True)(room)


class Model(NamedTuple):
    """What the steps need to know of the problem, as numbers.

    Attributes
    ----------
    noise : ndarray, shape (2, p)
        Factor of S.
    views : ndarray, shape (2, q)
        Factor of T = eta + S.
    sphere : bool
    linear : float
        kappa of the regularizer's gradient kappa w, where that is all there is; else 0.
    penalty : int
        One of the codes of `penalty_kernels`.
    strengths : ndarray, shape (4,)
        In the precision of the weights. ENTRIES: of w, of w^3, of clip(w x the last, -1, 1). ROWS, ROWS_PROXIMAL and
        DOUBLE_WELL_PROXIMAL: the strength first. ENTRIES_PROXIMAL: l1, l2, delta.
    rounding : float
        Relative error of overlaps.
    """

    noise: Array
    views: Array
    sphere: bool
    linear: float
    penalty: int
    strengths: Array
    rounding: float


class Gradient(NamedTuple):
    """The built-in loss and activation as numbers."""

    activation: int
    parameters: Array
    decorrelation: float
    centered: bool
    stop_gradient: bool


class Block(NamedTuple):
    """Runs side by side.

    Attributes
    ----------
    weights : ndarray, shape (runs, m, N)
    features : ndarray, shape (runs, K, N)
    keys : ndarray of uint32, shape (runs, 2)
        Of the normals.
    """

    weights: Array
    features: Array
    keys: Words


class Step(NamedTuple):
    """One step of one run: what is drawn, what is seen of it, what is done.

    Attributes
    ----------
    normals : ndarray, shape (m, room(N))
        g, one Gaussian vector per output, in the precision of the weights.
    g_features, g_weights : ndarray, shapes (m, K) and (m, m)
        g U and g W^T / sqrt(N).
    Q, R, root : ndarray, shapes (m, m), (m, K) and (m, m)
        Overlaps and the factor L of Q - R R^T.
    inner : ndarray, shape (room(B (K p + m q)),)
        Normals for the components along U and W.
    along, across : ndarray, shapes (2, B, K) and (2, B, m)
        Components of the views along the features, and along the rest of the weights.
    h, alpha : ndarray, shape (2, B, m)
    own, signal, noise : ndarray, shapes (m, m), (m, K) and (m, m)
        W <- own W + signal U + noise g, in the precision of the weights.
    """

    normals: Array
    g_features: Array
    g_weights: Array
    Q: Array
    R: Array
    root: Array
    inner: Array
    along: Array
    across: Array
    h: Array
    alpha: Array
    own: Array
    signal: Array
    noise: Array


@_jit
def new_step(block: Block, model: Model, batch: int) -> Step:
    """Return the room that a step takes up."""
    _, m, n = block.weights.shape
    k, dtype = block.features.shape[1], block.weights.dtype
    inner = batch * (k * model.noise.shape[1] + m * model.views.shape[1])
    return Step(
        np.zeros((m, _length(n)), dtype),
        np.zeros((m, k)),
        np.zeros((m, m)),
        np.zeros((m, m)),
        np.zeros((m, k)),
        np.zeros((m, m)),
        np.zeros(_length(inner)),
        np.zeros((2, batch, k)),
        np.zeros((2, batch, m)),
        np.zeros((2, batch, m)),
        np.zeros((2, batch, m)),
        np.zeros((m, m), dtype),
        np.zeros((m, k), dtype),
        np.zeros((m, m), dtype),
    )


@_jit
def _dot(a: Array, b: Array) -> float:
    total = a.dtype.type(0.0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@_jit
def _add(out: Array, factor: float, a: Array) -> None:
    for i in range(len(out)):
        out[i] += factor * a[i]


@_jit
def _move(w: Array, u: Array, model: Model, step: Step, gain: float, first: int, last: int, new: Array) -> None:
    """Replace the weights of some coordinates by own W + signal U + noise g, and regularize."""
    own, signal, noise, normals = step.own, step.signal, step.noise, step.normals
    m, k, count = len(w), len(u), last - first
    for j in range(m):
        row, old = new[j, :count], w[j, first:last]
        factor = own[j, j]
        for i in range(count):
            row[i] = factor * old[i]
        for c in range(m):
            if c != j:
                _add(row, own[j, c], w[c, first:last])
            if c <= j:
                _add(row, noise[j, c], normals[c, first:last])
        for c in range(k):
            _add(row, signal[j, c], u[c, first:last])
        if model.penalty == ENTRIES:
            penalize_entries(model.strengths, gain, old, row)
        elif model.penalty == ENTRIES_PROXIMAL:
            shrink_entries(model.strengths, gain, row)
        elif model.penalty == DOUBLE_WELL_PROXIMAL:
            settle_in_wells(model.strengths[0], gain, row)
    if model.penalty == ROWS:
        penalize_rows(model.strengths[0], gain, w, new, first, last)
    elif model.penalty == ROWS_PROXIMAL:
        shrink_rows(model.strengths[0], gain, new, count)
    for j in range(m):
        row, old = new[j], w[j, first:last]
        for i in range(count):
            old[i] = row[i]


@_jit
def _draw(key: Words, w: Array, u: Array, step: Step, number: int, first: int, last: int, words: Words) -> None:
    """Draw g for some coordinates, and add up what they contribute to the sums over coordinates."""
    g_features, g_weights, Q, R = step.g_features, step.g_weights, step.Q, step.R
    m, k, g = len(w), len(u), step.normals
    for j in range(m):
        fill_tile(key, j, number, first // TILE, last - first, words, g[j, first:])
    for j in range(m):
        for c in range(k):
            g_features[j, c] += _dot(g[j, first:last], u[c, first:last])
            R[j, c] += _dot(w[j, first:last], u[c, first:last])
        for c in range(m):
            g_weights[j, c] += _dot(g[j, first:last], w[c, first:last])
            if c <= j:
                Q[j, c] += _dot(w[j, first:last], w[c, first:last])


@_jit
def sweep(block: Block, run: int, model: Model, step: Step, gain: float, number: int, move: bool, draw: bool) -> None:
    """Pass once over the coordinates: finish a step (`move`), and begin the next one (`draw`).

    Finishing is W <- own W + signal U + noise g and the regularizer with step `gain`; beginning draws g for the step
    with this `number` and takes the sums over coordinates that the rest of the step needs.
    """
    w, u = block.weights[run], block.features[run]
    m, n = w.shape
    words, new = np.empty((4, TILE), np.uint32), np.empty((m, TILE), w.dtype)
    step.g_features[:] = 0.0
    step.g_weights[:] = 0.0
    step.Q[:] = 0.0
    step.R[:] = 0.0
    for first in range(0, n, TILE):
        last = min(n, first + TILE)
        if move:
            _move(w, u, model, step, gain, first, last, new)
        if draw:
            _draw(block.keys[run], w, u, step, number, first, last, words)
    root = math.sqrt(n)
    for j in range(m):
        for c in range(len(u)):
            step.R[j, c] /= root
        for c in range(m):
            step.g_weights[j, c] /= root
        for c in range(j + 1):
            step.Q[j, c] /= n
            step.Q[c, j] = step.Q[j, c]


@_jit
def rescale(w: Array) -> None:
    """Rescale every output's weights (m, N) to norm sqrt(N)."""
    m, n = w.shape
    for j in range(m):
        square = 0.0
        for first in range(0, n, TILE):
            part = w[j, first : min(n, first + TILE)]
            square += _dot(part, part)
        scale = w.dtype.type(1.0 / math.sqrt(square / n))
        for i in range(n):
            w[j, i] *= scale


@_jit
def see(block: Block, run: int, model: Model, step: Step, hidden: Array, number: int) -> None:
    """Draw the components of the views along U and W, for hidden variables (B, K), and from them h."""
    Q, R, root, z = step.Q, step.R, step.root, step.inner
    along, across, h, noise, views = step.along, step.across, step.h, model.noise, model.views
    m, k = R.shape
    batch = len(hidden)
    fill_normals(block.keys[run], m, number, np.empty((4, TILE), np.uint32), z)
    position = 0
    gram = Q.copy()
    for j in range(m):
        for c in range(m):
            for i in range(k):
                gram[j, c] -= R[j, i] * R[c, i]
    for j in range(m):
        # What is left of the weights off the features is rounding: as if they lay among the features.
        if gram[j, j] <= model.rounding * Q[j, j]:
            gram[j, :] = 0.0
            gram[:, j] = 0.0
    factorize(gram, root)
    for b in range(batch):
        for v in range(2):
            along[v, b, :] = hidden[b]
            across[v, b, :] = 0.0
        for c in range(k):
            for i in range(noise.shape[1]):
                for v in range(2):
                    along[v, b, c] += noise[v, i] * z[position]
                position += 1
        for c in range(m):
            for i in range(views.shape[1]):
                for v in range(2):
                    across[v, b, c] += views[v, i] * z[position]
                position += 1
        for v in range(2):
            for j in range(m):
                total = 0.0
                for c in range(k):
                    total += R[j, c] * along[v, b, c]
                for c in range(j + 1):
                    total += root[j, c] * across[v, b, c]
                h[v, b, j] = total


@_jit
def decide(model: Model, step: Step, dimension: int, rate: float) -> None:
    """Turn alpha into the map of the weights: own, signal and noise."""
    R, root, alpha, along, across, views = step.R, step.root, step.alpha, step.along, step.across, model.views
    g_features, g_weights = step.g_features, step.g_weights
    m, k = R.shape
    batch = alpha.shape[1]
    gram, factor, mixed = np.zeros((m, m)), np.zeros((m, m)), np.zeros((m, views.shape[1]))
    signal, own, off = np.zeros((m, k)), np.zeros((m, m)), np.zeros((m, m))
    for b in range(batch):
        for j in range(m):
            for v in range(2):
                for c in range(k):
                    signal[j, c] += alpha[v, b, j] * along[v, b, c]
                for c in range(m):
                    own[j, c] += alpha[v, b, j] * across[v, b, c]
            # alpha^T T alpha by the factor of T: sums of squares.
            for i in range(views.shape[1]):
                mixed[j, i] = views[0, i] * alpha[0, b, j] + views[1, i] * alpha[1, b, j]
        for j in range(m):
            for c in range(m):
                for i in range(views.shape[1]):
                    gram[j, c] += mixed[j, i] * mixed[c, i]
    factorize(gram, factor)
    # Components of g along the frame of W, by forward substitution; directions that W lacks are left alone.
    for j in range(m):
        for c in range(m):
            if root[c, c] > 0.0:
                value = g_weights[j, c]
                for i in range(k):
                    value -= g_features[j, i] * R[c, i]
                for i in range(c):
                    value -= off[j, i] * root[c, i]
                off[j, c] = value / root[c, c]
    for j in range(m):
        for i in range(j + 1):
            for c in range(k):
                signal[j, c] -= factor[j, i] * g_features[i, c]
            for c in range(m):
                own[j, c] -= factor[j, i] * off[i, c]
    # From components along the frame to multiples of W and U: X L = own, then W / sqrt(N) - R U = L (frame).
    for j in range(m):
        for c in range(m - 1, -1, -1):
            value = own[j, c]
            for i in range(c + 1, m):
                value -= own[j, i] * root[i, c]
            own[j, c] = value / root[c, c] if root[c, c] > 0.0 else 0.0
        for c in range(k):
            for i in range(m):
                signal[j, c] -= own[j, i] * R[i, c]
    per_row, per_vector = rate / dimension, rate / math.sqrt(dimension)
    for j in range(m):
        for c in range(m):
            step.own[j, c] = -per_row * own[j, c]
            step.noise[j, c] = -per_vector * factor[j, c]
        step.own[j, j] = (1.0 - per_row * model.linear) - per_row * own[j, j]
        for c in range(k):
            step.signal[j, c] = -per_vector * signal[j, c]


@_jit
def _differentiate(gradient: Gradient, step: Step, y: Array, slope: Array, covariance: Array) -> None:
    """Write alpha at h."""
    h, alpha, code, parameters = step.h, step.alpha, gradient.activation, gradient.parameters
    _, batch, m = y.shape
    for v in range(2):
        for b in range(batch):
            for j in range(m):
                y[v, b, j], slope[v, b, j] = activate(code, parameters, h[v, b, j])
    loss_gradient(y, gradient.decorrelation, gradient.centered, covariance, alpha)
    for v in range(2):
        for b in range(batch):
            for j in range(m):
                alpha[v, b, j] *= slope[v, b, j] if v == 0 or not gradient.stop_gradient else 0.0


@_jit
def advance(block: Block, model: Model, gradient: Gradient, hidden: Array, rates: Array, first: int) -> None:
    """Advance every run by some steps.

    Parameters
    ----------
    block : Block
        Changed in place.
    model : Model
    gradient : Gradient
    hidden : ndarray, shape (runs, steps, B, K)
    rates : ndarray, shape (steps,)
    first : int
        Number of the first of the steps.
    """
    runs, m, n = block.weights.shape
    steps, batch = hidden.shape[1:3]
    step = new_step(block, model, batch)
    y, slope, covariance = np.zeros((2, batch, m)), np.zeros((2, batch, m)), np.zeros((m, m))
    for run in range(runs):
        # One pass over the coordinates per step: it ends a step and begins the next; two where a norm lies between.
        for s in range(steps + 1):
            gain = rates[s - 1] / n if s else 0.0
            if model.sphere and s:
                sweep(block, run, model, step, gain, first + s, True, False)
                rescale(block.weights[run])
            sweep(block, run, model, step, gain, first + s, s > 0 and not model.sphere, s < steps)
            if s < steps:
                see(block, run, model, step, hidden[run, s], first + s)
                _differentiate(gradient, step, y, slope, covariance)
                decide(model, step, n, rates[s])
