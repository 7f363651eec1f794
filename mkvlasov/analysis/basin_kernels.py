"""Where starts of one output end: the compiled loop over starts, each with steps of its own, stopped when decided."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.analysis.neighbourhoods import ATTRACTING, PASSING
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
def _is_inside(x: Array, centre: Array, matrix: Array) -> bool:
    """Return whether x lies in an attracting neighbourhood."""
    total = 0.0
    for i in range(len(x)):
        row = 0.0
        for k in range(len(x)):
            row += matrix[i, k] * (x[k] - centre[k])
        total += row * row
    return total <= 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _is_near(x: Array, centre: Array, weight: Array) -> bool:
    """Return whether x is near a saddle."""
    farthest = 0.0
    for i in range(len(x)):
        farthest = max(farthest, abs(x[i] - centre[i]) * weight[i])
    return farthest <= 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _end_of(x: Array, kinds: Array, centres: Array, matrices: Array) -> int:
    """Return the end in whose neighbourhood x has converged, -1 if there is none."""
    for j in range(len(kinds)):
        if kinds[j] == ATTRACTING and _is_inside(x, centres[j], matrices[j]):
            return j
    return -1


@njit(cache=True, nogil=True, error_model="numpy")
def _saddle_near(x: Array, kinds: Array, centres: Array, weights: Array) -> int:
    """Return the saddle that x is near, -1 if there is none."""
    for j in range(len(kinds)):
        if kinds[j] == PASSING and _is_near(x, centres[j], weights[j]):
            return j
    return -1


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
    classes: npt.NDArray[np.int64],
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
    kinds: npt.NDArray[np.int64],
    centres: Array,
    matrices: Array,
    weights: Array,
    patience: Array,
    labels: npt.NDArray[np.int64],
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
    kinds, centres, matrices, weights, patience : ndarrays
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
        passed, since = -1, 0.0
        found = _end_of(y, kinds[c], centres, matrices[c])
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
            found = _end_of(new, kinds[c], centres, matrices[c])
            if found >= 0:
                prepare_interpolant(y, h, tableau, work, tau, kappa, sphere, data)
                evaluations += 3
                low, high = 0.0, 1.0
                for _ in range(30):
                    middle = 0.5 * (low + high)
                    interpolate(middle, y, powers, trial)
                    if _is_inside(trial, centres[found], matrices[c, found]):
                        high = middle
                    else:
                        low = middle
                interpolate(high, y, powers, new)
                following = now + high * h
            near = _saddle_near(new, kinds[c], centres, weights)
            if near != passed:
                passed, since = near, now
            now = following
            accept(y, work)
            if passed >= 0 and now - since > patience[c, passed]:
                break
        if found >= 0:
            label = found
        labels[s], times[s] = label, now
        for i in range(len(y)):
            ends[s, i] = y[i]
    return evaluations
