"""The closed ODEs of one output as one compiled loop: the Runge-Kutta method of order 8 of Dormand and Prince.

Step control, error norm and dense output are those of Hairer, Norsett and Wanner's DOP853 (Solving Ordinary
Differential Equations I, section II.10) as scipy has them, so that a solution does not depend on who integrates.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.limit.line_kernels import rates

REACHED, DIVERGED, UNDERFLOW = range(3)

_STAGES, _ALL_STAGES, _POWERS = 12, 16, 7
_SAFETY, _LEAST, _MOST = 0.9, 0.2, 10.0
_EXPONENT = -1.0 / 8.0


@njit(cache=True, nogil=True, error_model="numpy")
def _slope(y: Array, tau: float, kappa: float, sphere: bool, data: tuple[Array, ...], out: Array) -> None:
    """Set the rates of change of y = (R, Q) or (R, Q, A, C, P) (docs/theory.md, sections 4, 5 and 9)."""
    features = len(data[1])
    R, Q = y[:features], y[features]
    G, _, H, Lambda, _, _ = rates(Q, R, data)
    M, noise, inner = tau * (G + kappa), tau * tau * Lambda, 0.0
    for k in range(features):
        inner += tau * H[k] * R[k]
    if sphere:
        M += 0.5 * (noise - 2.0 * M * Q - 2.0 * inner) / Q
    for k in range(features):
        out[k] = -M * R[k] - tau * H[k]
    out[features] = noise - 2.0 * M * Q - 2.0 * inner
    if len(y) == features + 1:
        return
    for k in range(features):
        out[features + 2 + k] = -M * y[features + 2 + k] - tau * H[k]
    out[features + 1] = -M * y[features + 1]
    out[-1] = noise - 2.0 * M * y[-1]


@njit(cache=True, nogil=True, error_model="numpy")
def _combine(y: Array, h: float, weights: Array, count: int, stages: Array, out: Array) -> None:
    """Set out = y + h * sum of weights * stages."""
    for i in range(len(y)):
        total = 0.0
        for j in range(count):
            total += weights[j] * stages[j, i]
        out[i] = y[i] + h * total


@njit(cache=True, nogil=True, error_model="numpy")
def _error_norm(h: float, y: Array, new: Array, stages: Array, E3: Array, E5: Array, rtol: float, atol: float) -> float:
    third = fifth = 0.0
    for i in range(len(y)):
        scale = atol + max(abs(y[i]), abs(new[i])) * rtol
        a = b = 0.0
        for j in range(_STAGES + 1):
            a += E5[j] * stages[j, i]
            b += E3[j] * stages[j, i]
        fifth += (a / scale) ** 2
        third += (b / scale) ** 2
    if fifth == 0.0 and third == 0.0:
        return 0.0
    return h * fifth / math.sqrt((fifth + 0.01 * third) * len(y))


@njit(cache=True, nogil=True, error_model="numpy")
def _scaled_norm(x: Array, y: Array, rtol: float, atol: float) -> float:
    total = 0.0
    for i in range(len(x)):
        total += (x[i] / (atol + abs(y[i]) * rtol)) ** 2
    return math.sqrt(total / len(x))


@njit(cache=True, nogil=True, error_model="numpy")
def _trial_step(y: Array, f: Array, end: float, rtol: float, atol: float) -> float:
    """Return a small step to see how fast the rates of change f vary (Hairer, Norsett and Wanner, section II.4)."""
    d0, d1 = _scaled_norm(y, y, rtol, atol), _scaled_norm(f, y, rtol, atol)
    return min(1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1, end)


@njit(cache=True, nogil=True, error_model="numpy")
def _first_step(h0: float, y: Array, f: Array, change: Array, end: float, rtol: float, atol: float) -> float:
    """Return the first step, given the change of f over the trial step h0."""
    d1, d2 = _scaled_norm(f, y, rtol, atol), _scaled_norm(change, y, rtol, atol) / h0
    h1 = max(1e-6, h0 * 1e-3) if d1 <= 1e-15 and d2 <= 1e-15 else (0.01 / max(d1, d2)) ** (1.0 / 8.0)
    return min(100.0 * h0, h1, end)


@njit(cache=True, nogil=True, error_model="numpy")
def workspace(d: int) -> tuple[Array, Array, Array, Array]:
    """Return uninitialized memory for one trajectory: stages, powers of the dense output, new and trial state."""
    return np.empty((_ALL_STAGES, d)), np.empty((_POWERS, d)), np.empty(d), np.empty(d)


@njit(cache=True, nogil=True, error_model="numpy")
def begin(
    y: Array,
    end: float,
    rtol: float,
    atol: float,
    work: tuple[Array, ...],
    tau: float,
    kappa: float,
    sphere: bool,
    data: tuple[Array, ...],
) -> float:
    """Set the first stage at y and return the step to try first; it takes two evaluations."""
    stages, _, new, trial = work
    _slope(y, tau, kappa, sphere, data, stages[0])
    h = _trial_step(y, stages[0], end, rtol, atol)
    for i in range(len(y)):
        trial[i] = y[i] + h * stages[0, i]
    _slope(trial, tau, kappa, sphere, data, new)
    for i in range(len(y)):
        new[i] -= stages[0, i]
    return _first_step(h, y, stages[0], new, end, rtol, atol)


@njit(cache=True, nogil=True, error_model="numpy")
def advance(
    y: Array,
    h: float,
    rtol: float,
    atol: float,
    tableau: tuple[Array, ...],
    work: tuple[Array, ...],
    tau: float,
    kappa: float,
    sphere: bool,
    data: tuple[Array, ...],
) -> float:
    """Set the new state a step h after y, given the first stage, and return its error: below 1 it is accepted."""
    A, B, E3, E5, _, _ = tableau
    stages, _, new, trial = work
    for s in range(1, _STAGES):
        _combine(y, h, A[s], s, stages, trial)
        _slope(trial, tau, kappa, sphere, data, stages[s])
    _combine(y, h, B, _STAGES, stages, new)
    _slope(new, tau, kappa, sphere, data, stages[_STAGES])
    return _error_norm(h, y, new, stages, E3, E5, rtol, atol)


@njit(cache=True, nogil=True, error_model="numpy")
def next_step(h: float, error: float, rejected: bool) -> float:
    """Return the step after one of length h with this error; `rejected` is whether the one before was."""
    if not error < 1.0:
        return h * max(_LEAST, _SAFETY * error**_EXPONENT if error < np.inf else _LEAST)
    factor = min(_MOST, _SAFETY * error**_EXPONENT) if error > 0.0 else _MOST
    return h * (min(1.0, factor) if rejected else factor)


@njit(cache=True, nogil=True, error_model="numpy")
def prepare_interpolant(
    y: Array,
    h: float,
    tableau: tuple[Array, ...],
    work: tuple[Array, ...],
    tau: float,
    kappa: float,
    sphere: bool,
    data: tuple[Array, ...],
) -> None:
    """Set the powers of the dense output of an accepted step; it takes three evaluations."""
    D, extra = tableau[4], tableau[5]
    stages, powers, new, trial = work
    for s in range(3):
        _combine(y, h, extra[s], _STAGES + 1 + s, stages, trial)
        _slope(trial, tau, kappa, sphere, data, stages[_STAGES + 1 + s])
    for i in range(len(y)):
        change = new[i] - y[i]
        powers[0, i] = change
        powers[1, i] = h * stages[0, i] - change
        powers[2, i] = 2.0 * change - h * (stages[_STAGES, i] + stages[0, i])
        for j in range(4):
            total = 0.0
            for s in range(_ALL_STAGES):
                total += D[j, s] * stages[s, i]
            powers[3 + j, i] = h * total


@njit(cache=True, nogil=True, error_model="numpy")
def accept(y: Array, work: tuple[Array, ...]) -> None:
    """Move y to the new state; its rates are the first stage of the next step."""
    stages, _, new, _ = work
    for i in range(len(y)):
        y[i], stages[0, i] = new[i], stages[_STAGES, i]


@njit(cache=True, nogil=True, error_model="numpy")
def shortest_step(now: float) -> float:
    """Return the step below which time hardly advances in floating point."""
    return 10.0 * (np.nextafter(now, np.inf) - now)


@njit(cache=True, nogil=True, error_model="numpy")
def interpolate(x: float, y: Array, powers: Array, out: Array) -> None:
    """Set out to the dense output at the fraction x of a step from y."""
    for i in range(len(y)):
        total = 0.0
        for j in range(_POWERS):
            total += powers[_POWERS - 1 - j, i]
            total *= x if j % 2 == 0 else 1.0 - x
        out[i] = y[i] + total


@njit(cache=True, nogil=True, error_model="numpy")
def largest(y: Array) -> float:
    """Return the largest absolute entry, NaN if there is one."""
    found = 0.0
    for value in y:
        if not abs(value) <= found:  # so that NaN is kept
            found = abs(value)
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def integrate(
    start: Array,
    t: Array,
    rtol: float,
    atol: float,
    bound: float,
    tableau: tuple[Array, ...],
    tau: float,
    kappa: float,
    sphere: bool,
    data: tuple[Array, ...],
) -> tuple[Array, int, int, int, float, float]:
    """Integrate the closed ODEs from time 0 through the times t.

    Parameters
    ----------
    start : ndarray, shape (d,)
        (R, Q, A, C, P), d = 2 K + 3.
    t : ndarray, shape (T,)
        Increasing, the last one positive.
    rtol, atol : float
    bound : float
        Stop where an entry reaches it.
    tableau : tuple of arrays
        A (12, 12), B (12,), E3, E5 (13,), D (4, 16), A of the extra stages (3, 16) of DOP853 (`tableau`).
    tau, kappa : float
        Learning rate and strength of the L2 regularizer.
    sphere : bool
    data : tuple of arrays
        See `mkvlasov.limit.line.LineKernel`.

    Returns
    -------
    states : ndarray, shape (T, d)
        Only the first `found` rows are set.
    found : int
    evaluations : int
    ended : int
        REACHED, DIVERGED or UNDERFLOW (of the step).
    now : float
        Time at the end.
    largest : float
        Largest entry at the end.
    """
    d, end = len(start), t[-1]
    states, found, evaluations = np.empty((len(t), d)), 0, 2
    y, work = start.copy(), workspace(d)
    _, powers, new, trial = work
    while found < len(t) and t[found] <= 0.0:
        for i in range(d):
            states[found, i] = start[i]
        found += 1
    now = 0.0
    step = begin(y, end, rtol, atol, work, tau, kappa, sphere, data)
    rejected = False
    while now < end:
        if not step >= shortest_step(now):
            if rejected or not math.isfinite(step):
                return states, found, evaluations, UNDERFLOW, now, largest(y)
            step = shortest_step(now)
        following = min(now + step, end)
        h = following - now
        error = advance(y, h, rtol, atol, tableau, work, tau, kappa, sphere, data)
        evaluations += _STAGES
        step = next_step(h, error, rejected)
        rejected = not error < 1.0
        if rejected:
            continue
        diverged = largest(new) >= bound
        if diverged or (found < len(t) and t[found] <= following):
            prepare_interpolant(y, h, tableau, work, tau, kappa, sphere, data)
            evaluations += 3
        last = following
        if diverged:
            low, high = 0.0, 1.0
            for _ in range(52):
                middle = 0.5 * (low + high)
                interpolate(middle, y, powers, trial)
                if largest(trial) < bound:
                    low = middle
                else:
                    high = middle
            last = now + high * h
        while found < len(t) and t[found] <= last:
            interpolate((t[found] - now) / h, y, powers, states[found])
            found += 1
        if diverged:
            return states, found, evaluations, DIVERGED, last, bound
        now = following
        accept(y, work)
    return states, found, evaluations, REACHED, now, largest(y)
