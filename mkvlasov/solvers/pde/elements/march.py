"""Compiled time steps of the spectral elements: what to try next, and what came of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.solvers.pde.elements.basis import Basis
from mkvlasov.solvers.pde.elements.kernels import (
    IntArray,
    Mesh,
    advance,
    apply,
    l1_norms,
    moments,
    nodal_weights,
    order_parameters,
    wall_mass,
)
from mkvlasov.solvers.pde.elements.regrid import wants_regrid

GO_ON, STOP, REGRID, SHRUNK, UNBOUNDED = range(5)
LINEAR, TAU, DIFFUSION, LOSS, ERROR, TILT = range(6)
"""Columns of a row of rates; TILT is the first of K."""

_SMALLEST_SCALE = 1e-4
_COARSEN_EVERY = 5
_HELD_BACK = 50.0


class Settings(NamedTuple):
    """What does not change during a run.

    Attributes
    ----------
    c, a, error : ndarray
        The tableau.
    order : int
    tolerance : float
        Largest error of a step.
    limits : ndarray, shape (L,)
        Largest error indicator of an element.
    loadings, weights : ndarray, shapes (L, K), (L,)
    moving : bool
        Whether coordinates move and stretch with the densities (for an affine drift).
    largest : float
        Q beyond which weights count as blown up.
    """

    c: Array
    a: Array
    error: Array
    order: int
    tolerance: float
    limits: Array
    loadings: Array
    weights: Array
    moving: bool
    largest: float


class Progress(NamedTuple):
    """What steps change in place.

    Attributes
    ----------
    clock : ndarray
        Time, next time step, largest Q so far.
    counts : ndarray of int
        Rows of history, rows of the log, rejected steps, steps since the last regrid.
    history : ndarray, shape (2, 1 + 2 M)
        Time, M = K + 2 moments (Q, R, E[w phi']) and their derivatives, for the last two steps.
    now : ndarray, shape (1, 5 + K)
        Rates at the present time.
    frame : ndarray, shape (L, 2)
        Shift and scale of the coordinates: w = shift + scale x.
    log : ndarray, shape (rows, 1 + M + 5 + K)
        Time, moments and rates after every step.
    """

    clock: Array
    counts: IntArray
    history: Array
    now: Array
    frame: Array
    log: Array


@njit(cache=True, nogil=True, error_model="numpy")
def finite(table: Array) -> bool:
    """Return whether all entries of a table are."""
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            if not np.isfinite(table[i, j]):
                return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _predict(history: Array, rows: int, times: Array) -> Array:
    """Extrapolate the moments: by the cubic through two values and slopes, or along the tangent."""
    size = (history.shape[1] - 1) // 2
    result = np.empty((len(times), size))
    t1 = history[1, 0]
    for s in range(len(times)):
        if rows < 2:
            for k in range(size):
                result[s, k] = history[1, 1 + k] + (times[s] - t1) * history[1, 1 + size + k]
            continue
        t0 = history[0, 0]
        h = t1 - t0
        x = (times[s] - t0) / h
        for k in range(size):
            y0, y1 = history[0, 1 + k], history[1, 1 + k]
            d0, d1 = h * history[0, 1 + size + k], h * history[1, 1 + size + k]
            rise = y1 - y0
            result[s, k] = y0 + x * (d0 + x * ((3.0 * rise - 2.0 * d0 - d1) + x * (d0 + d1 - 2.0 * rise)))
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _velocities(settings: Settings, rates: Array, frame: Array, per_loading: Array) -> Array:
    """Return how fast shift and (logarithmically) scale follow mean and standard deviation, (L, 2)."""
    result = np.zeros(frame.shape)
    if settings.moving:
        for loading in range(len(frame)):
            tilt = 0.0
            for k in range(settings.loadings.shape[1]):
                tilt += settings.loadings[loading, k] * rates[TILT + k]
            mean = per_loading[loading, 1]
            variance = per_loading[loading, 2] - mean * mean
            result[loading, 0] = -(rates[LINEAR] * mean + tilt)
            result[loading, 1] = -rates[LINEAR] + rates[DIFFUSION] / variance
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _drifts(settings: Settings, rates: Array, frame: Array, velocities: Array, after: Array) -> Array:
    """Return c0, c1, c2, D in the moving coordinates, for rates (S, 5 + K) at times `after` the frame: (S, L, 4)."""
    stages = len(after)
    result = np.empty((stages, len(frame), 4))
    for s in range(stages):
        for loading in range(len(frame)):
            tilt = 0.0
            for k in range(settings.loadings.shape[1]):
                tilt += settings.loadings[loading, k] * rates[s, TILT + k]
            shift = frame[loading, 0] + velocities[loading, 0] * after[s]
            scale = frame[loading, 1] * np.exp(velocities[loading, 1] * after[s])
            linear = rates[s, LINEAR]
            result[s, loading, 0] = (linear * shift + tilt + velocities[loading, 0]) / scale
            result[s, loading, 1] = linear + velocities[loading, 1]
            result[s, loading, 2] = rates[s, TAU] / scale
            result[s, loading, 3] = rates[s, DIFFUSION] / (scale * scale)
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _moved(frame: Array, velocities: Array, dt: float) -> Array:
    result = np.empty(frame.shape)
    for loading in range(len(frame)):
        result[loading, 0] = frame[loading, 0] + velocities[loading, 0] * dt
        result[loading, 1] = frame[loading, 1] * np.exp(velocities[loading, 1] * dt)
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _remember(
    settings: Settings, progress: Progress, mesh: Mesh, basis: Basis, per_loading: Array, change: Array
) -> None:
    """Append moments and their derivatives to the history; `change` is dp/dt at the nodes."""
    history, now = progress.history, progress.now[0]
    loadings, weights = settings.loadings, settings.weights
    features = loadings.shape[1]
    size = features + 2
    y = order_parameters(per_loading, loadings, weights)
    slope = np.zeros(size)
    slope[0] = 2.0 * now[DIFFUSION] - 2.0 * (now[LINEAR] * y[0] + now[TAU] * y[features + 1])
    for k in range(features):
        slope[0] -= 2.0 * now[TILT + k] * y[1 + k]
        slope[1 + k] = -now[LINEAR] * y[1 + k]
    for loading in range(len(weights)):
        tilt = 0.0
        for k in range(features):
            tilt += loadings[loading, k] * now[TILT + k]
        for k in range(features):
            slope[1 + k] -= weights[loading] * loadings[loading, k] * (tilt + now[TAU] * per_loading[loading, 3])
    if not settings.moving:
        changes = moments(basis, mesh, progress.frame, change)
        for loading in range(len(weights)):
            slope[size - 1] += weights[loading] * changes[loading, 4]
    if history[1, 0] != progress.clock[0] or progress.counts[0] == 0:
        for k in range(history.shape[1]):
            history[0, k] = history[1, k]
        progress.counts[0] = min(2, progress.counts[0] + 1)
    history[1, 0] = progress.clock[0]
    for k in range(size):
        history[1, 1 + k] = y[k]
        history[1, 1 + size + k] = slope[k]


@njit(cache=True, nogil=True, error_model="numpy")
def _error(
    settings: Settings,
    basis: Basis,
    mesh: Mesh,
    size: Array,
    frame: Array,
    estimate: Array,
    y: Array,
    predicted: Array,
    rates: Array,
    dt: float,
    largest: float,
) -> float:
    """Return the largest of the errors of densities and moments, and of what the extrapolation missed."""
    weights, loadings = settings.weights, settings.loadings
    norms = l1_norms(mesh, size, estimate)
    mean = 0.0
    worst = 0.0
    for loading in range(len(weights)):
        mean += weights[loading] * norms[loading]
        worst = max(worst, 0.1 * norms[loading])
    worst = max(worst, mean)
    features = loadings.shape[1]
    # Weights may all but vanish (at a kink): then errors count relative to what they were.
    scale = max(y[0], _SMALLEST_SCALE * largest)
    shift = order_parameters(moments(basis, mesh, frame, estimate), loadings, weights)
    speed = abs(rates[LINEAR])
    missed = 0.0
    for k in range(features + 1):
        unit = scale if k == 0 else np.sqrt(scale)
        worst = max(worst, 5.0 * abs(shift[k]) / unit)
        missed = max(missed, abs(y[k] - predicted[k]) / unit)
        if k:
            speed += abs(rates[TILT + k - 1])
    return max(worst, missed * min(1.0, 2.0 * speed * dt))


class Plan(NamedTuple):
    """A step to be tried: its length, whether it ends at the target, and what its stages start from.

    Attributes
    ----------
    dt : float
    lands : bool
    velocities : ndarray, shape (L, 2)
        Of the coordinates.
    start : ndarray
        M dp/dt at its beginning.
    times : ndarray, shape (s - 1,)
        Of the stages after the first.
    predicted : ndarray, shape (s - 1, M)
        Moments at these times, extrapolated.
    """

    dt: float
    lands: bool
    velocities: Array
    start: Array
    times: Array
    predicted: Array


@njit(cache=True, nogil=True, error_model="numpy")
def propose(settings: Settings, basis: Basis, mesh: Mesh, progress: Progress, p: Array, target: float) -> Plan:
    """Return the next step to try."""
    t, frame = progress.clock[0], progress.frame
    per_loading = moments(basis, mesh, frame, p)
    velocities = _velocities(settings, progress.now[0], frame, per_loading)
    start = apply(basis, mesh, _drifts(settings, progress.now, frame, velocities, np.zeros(1))[0], p)
    change = nodal_weights(basis, mesh)
    for i in range(len(change)):
        change[i] = start[i] / change[i]
    _remember(settings, progress, mesh, basis, per_loading, change)
    remaining = target - t
    # Equal steps up to the target instead of one tiny last step.
    parts = np.ceil(remaining / progress.clock[1] * (1.0 - 1e-9))
    dt = remaining / parts
    times = np.empty(len(settings.c) - 1)
    for k in range(len(times)):
        times[k] = t + settings.c[k + 1] * dt
    return Plan(dt, parts <= 1.0, velocities, start, times, _predict(progress.history, progress.counts[0], times))


@njit(cache=True, nogil=True, error_model="numpy")
def attempt(
    settings: Settings,
    basis: Basis,
    mesh: Mesh,
    progress: Progress,
    p: Array,
    target: float,
    plan: Plan,
    rates: Array,
) -> tuple[int, Array]:
    """Try the step; return whether to go on or why not, and the densities, which are new if the step was taken."""
    clock, counts, frame = progress.clock, progress.counts, progress.frame
    dt = plan.dt
    q = p
    error = 1e6
    y = plan.predicted[-1]
    moved = frame
    if finite(rates):
        size = nodal_weights(basis, mesh)
        after = np.empty(len(plan.times))
        for k in range(len(after)):
            after[k] = settings.c[k + 1] * dt
        drifts = _drifts(settings, rates, frame, plan.velocities, after)
        q, estimate = advance(basis, mesh, size, settings.a, settings.error, dt, drifts, plan.start, p)
        moved = _moved(frame, plan.velocities, dt)
        y = order_parameters(moments(basis, mesh, moved, q), settings.loadings, settings.weights)
        error = _error(settings, basis, mesh, size, moved, estimate, y, plan.predicted[-1], rates[-1], dt, clock[2])
        # What a wall has held back is an error; elements are added before it matters, if steps are not too long.
        error = max(error, _HELD_BACK * wall_mass(basis, mesh, q)) / settings.tolerance
    if not np.isfinite(error):
        error = 1e6
    growth = 0.85 * max(error, 1e-8) ** (-1.0 / settings.order)
    proposed = dt * min(max(growth, 0.2), 3.0)
    if error > 1.0:
        counts[2] += 1
        clock[1] = proposed
        return (SHRUNK if proposed < 1e-13 * max(clock[0], 1e-6 * target) else GO_ON), p
    clock[0] = target if plan.lands else clock[0] + dt
    clock[1] = max(clock[1], proposed) if plan.lands and growth > 1.0 else proposed
    clock[2] = max(clock[2], y[0])
    log, row, last = progress.log, counts[1], len(rates) - 1
    log[row, 0] = clock[0]
    for k in range(len(y)):
        log[row, 1 + k] = y[k]
    for k in range(rates.shape[1]):
        log[row, 1 + len(y) + k] = progress.now[0, k] = rates[last, k]
    for loading in range(len(frame)):
        frame[loading, 0], frame[loading, 1] = moved[loading, 0], moved[loading, 1]
    counts[1] += 1
    counts[3] += 1
    if y[0] > settings.largest:
        return UNBOUNDED, q
    if wants_regrid(basis, mesh, q, settings.limits, counts[3] % _COARSEN_EVERY == 0):
        return REGRID, q
    # At the target, or the log is full.
    return (STOP if clock[0] >= target or counts[1] == len(progress.log) else GO_ON), q
