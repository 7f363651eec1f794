"""Where starts of one output end: the compiled loop over starts, each with steps of its own, stopped when decided."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.analysis.neighbourhoods import ATTRACTING, IGNORED, PASSING
from mkvlasov.solvers.ode_kernels import (
    accept,
    advance,
    begin,
    interpolate,
    largest,
    next_step,
    prepare_interpolant,
    shortest_step,
    workspace,
)

UNDECIDED, DIVERGED, UNDERFLOW = -1, -2, -3


@njit(cache=True, nogil=True, error_model="numpy")
def _arrived(x: Array, j: int, kind: int, centres: Array, matrix: Array, weights: Array) -> bool:
    """Return whether x lies in the neighbourhood of end j (`Neighbourhoods`)."""
    if kind == PASSING:
        for i in range(len(x)):
            if not abs(x[i] - centres[j, i]) * weights[j, i] <= 1.0:
                return False
    total = 0.0
    for i in range(len(x)):
        row = 0.0
        for k in range(len(x)):
            row += matrix[i, k] * (x[k] - centres[j, k])
        total += row * row
    return total <= 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _end_of(x: Array, kinds: Array, centres: Array, matrices: Array, weights: Array) -> tuple[int, bool]:
    """Return the end whose neighbourhood x lies in, -1 if there is none, and whether it attracts."""
    for j in range(len(kinds)):
        if kinds[j] != IGNORED and _arrived(x, j, kinds[j], centres, matrices[j], weights):
            return j, kinds[j] == ATTRACTING
    return -1, False


@njit(cache=True, nogil=True, error_model="numpy")
def _project(projector: Array, x: Array, trial: Array) -> None:
    """Remove from x what rounding has left outside its subspace."""
    for i in range(len(x)):
        trial[i] = 0.0
        for k in range(len(x)):
            trial[i] += projector[i, k] * x[k]
    for i in range(len(x)):
        x[i] = trial[i]


@njit(cache=True, nogil=True, error_model="numpy")
def follow(
    starts: Array,
    classes: Array,
    t_max: float,
    rtol: float,
    atol: float,
    bound: float,
    fraction: float,
    tableau: tuple[Array, ...],
    tau: float,
    kappa: float,
    sphere: bool,
    data: tuple[Array, ...],
    projectors: Array,
    kinds: Array,
    centres: Array,
    matrices: Array,
    weights: Array,
    labels: Array,
    times: Array,
    ends: Array,
) -> int:
    """Integrate the closed ODEs from each start until it is decided where it ends, or to t_max.

    Parameters
    ----------
    starts : ndarray, shape (S, d)
        (R, Q), d = K + 1.
    classes : ndarray of int, shape (S,)
        The subspace in which each start stays.
    t_max, rtol, atol : float
    bound : float
        An entry that reaches it has diverged.
    fraction : float
        Part of the step that the error control allows which is taken.
    tableau, tau, kappa, sphere, data
        As in `ode_kernels.integrate`.
    projectors : ndarray, shape (c, d, d)
        Onto the subspaces; the first is the identity.
    kinds, centres, matrices, weights : ndarrays
        See `Neighbourhoods`.
    labels : ndarray of int, shape (S,)
        Set to the end, or to UNDECIDED, DIVERGED, UNDERFLOW (of the step).
    times : ndarray, shape (S,)
        Set to the time at which that was decided.
    ends : ndarray, shape (S, d)
        Set to the state at that time.

    Returns
    -------
    int
        Number of evaluations of the rates.
    """
    evaluations = 0
    work = workspace(starts.shape[1])
    _, powers, new, trial = work
    for s in range(len(starts)):
        y, c = starts[s].copy(), classes[s]
        now, rejected, label = 0.0, False, UNDECIDED
        found, attracts = _end_of(y, kinds[c], centres, matrices[c], weights)
        if found < 0:
            step = begin(y, t_max, rtol, atol, work, tau, kappa, sphere, data)
            evaluations += 2
        while found < 0 and now < t_max:
            if not fraction * step >= shortest_step(now):
                label = UNDERFLOW
                break
            following = min(now + fraction * step, t_max)
            h = following - now
            error = advance(y, h, rtol, atol, tableau, work, tau, kappa, sphere, data)
            evaluations += 12
            step = next_step(h, error, rejected)
            rejected = not error < 1.0
            if rejected:
                continue
            if c > 0:
                _project(projectors[c], new, trial)
            if largest(new) >= bound:
                label, now = DIVERGED, following
                accept(y, work)
                break
            found, attracts = _end_of(new, kinds[c], centres, matrices[c], weights)
            if found >= 0 and attracts:
                prepare_interpolant(y, h, tableau, work, tau, kappa, sphere, data)
                evaluations += 3
                low, high = 0.0, 1.0
                for _ in range(30):
                    middle = 0.5 * (low + high)
                    interpolate(middle, y, powers, trial)
                    if _arrived(trial, found, ATTRACTING, centres, matrices[c, found], weights):
                        high = middle
                    else:
                        low = middle
                interpolate(high, y, powers, new)
                following = now + high * h
            now = following
            accept(y, work)
        if found >= 0 and attracts:
            label = found
        labels[s], times[s] = label, now
        for i in range(len(y)):
            ends[s, i] = y[i]
    return evaluations
