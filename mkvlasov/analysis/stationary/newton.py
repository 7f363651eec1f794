"""Zeros of the self-consistency from many starts at once, and beside zeros that are known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.analysis.stationary.self_consistency import SelfConsistency

_ITERATIONS, _POLISHES = 60, 15
_LONGEST = 0.5
"""Longest step: of log Q and of the cosines."""
_FRACTIONS = 8
_SEARCHED, _POLISHED = 1e-6, 1e-12
_ACCEPTED = 1e-8
"""A polished step that rounding holds up is accepted below this."""
_INSIDE = 1.0 - 1e-9
"""Largest |R|^2 / Q of a search."""
_NULL = 1e-9

CONVERGED, DIVERGED, VANISHED, UNCONFINED, STALLED = "converged", "diverged", "vanished", "unconfined", "stalled"


class Found(NamedTuple):
    """Unknowns (S, K + 1), and how each search ended (S,)."""

    y: Array
    ended: np.ndarray


def search(
    equations: SelfConsistency, starts: Array, bounds: tuple[float, float], *, level: int, known: Array | None = None
) -> Found:
    """Follow Newton's method from many starts, with shortened steps.

    Parameters
    ----------
    equations : SelfConsistency
        Of low accuracy; `polish` does the rest.
    starts : ndarray, shape (S, K + 1)
    bounds : pair of floats
        A search ends where Q is below the first (VANISHED) or above the second (DIVERGED).
    level : int
        Of the quadrature over the loadings.
    known : ndarray, shape (n, K + 1), optional
        Zeros to stay away from: the residual is multiplied by the product of 1 + 1 / distance^2 (Farrell, Birkisson
        and Funke, SIAM Journal on Scientific Computing 37, 2015).
    """
    known = np.empty((0, starts.shape[1])) if known is None else known
    y = starts.copy()
    ended = np.full(len(y), STALLED, dtype=object)
    f, J = equations.residual(y, level)
    lost = ~np.isfinite(f).all(axis=1)
    ended[lost] = UNCONFINED
    left = np.flatnonzero(~lost)
    for _ in range(_ITERATIONS):
        if not len(left):
            break
        newton = _newton_step(J[left], f[left])
        done = np.abs(newton).max(axis=1) <= _SEARCHED
        slope = _deflation(y[left], known)[1]
        turned = 1.0 - (slope * newton).sum(axis=1)
        turned = np.where(np.abs(turned) < 1e-3, 1e-3, turned)
        step = newton / turned[:, None]
        step *= np.minimum(1.0, _LONGEST / np.maximum(np.abs(step).max(axis=1), 1e-300))[:, None]
        moved = _shortened(equations, y, f, J, left[~done], step[~done], known, level)
        ended[left[done]] = CONVERGED
        left = left[~done][moved]
        if not equations.on_sphere:
            Q = np.exp(y[left, -1])
            for reason, where in ((DIVERGED, bounds[1] < Q), (VANISHED, bounds[0] > Q)):
                ended[left[where]] = reason
            left = left[(bounds[0] <= Q) & (bounds[1] >= Q)]
    return Found(y, ended)


def polish(equations: SelfConsistency, y: Array, level: int) -> tuple[Array, bool]:
    """Refine one approximate zero (K + 1,); return it and whether it has converged."""
    best, smallest, before = y, np.inf, np.inf
    for _ in range(_POLISHES):
        f, J = equations.residual(y[None], level)
        if not np.isfinite(f).all():
            break
        step = _newton_step(J, f)[0]
        length = float(np.abs(step).max())
        if length < smallest:
            best, smallest = y, length
        if length <= _POLISHED or (length > 0.5 * before and length <= _ACCEPTED):
            break
        y, before = y + step, length
        if not _admissible(equations, y[None])[0]:
            break
    return best, smallest <= _ACCEPTED


def _shortened(
    equations: SelfConsistency, y: Array, f: Array, J: Array, at: np.ndarray, step: Array, known: Array, level: int
) -> np.ndarray:
    """Move the states `at` by the first of the halved steps that lowers the residual; return which have moved."""
    moved = np.zeros(len(at), dtype=bool)
    before = _merit(y[at], f[at], known)
    for halvings in range(_FRACTIONS):
        open_ = np.flatnonzero(~moved)
        trial = y[at[open_]] + 0.5**halvings * step[open_]
        inside = _admissible(equations, trial)
        open_, trial = open_[inside], trial[inside]
        if not len(open_):
            continue
        f_new, J_new = equations.residual(trial, level)
        finite = np.asarray(np.isfinite(f_new).all(axis=1))
        lower = finite.copy()
        enough = (1.0 - 1e-3 * 0.5**halvings) * before[open_][finite]
        lower[finite] = _merit(trial[finite], f_new[finite], known) <= enough
        chosen = at[open_[lower]]
        y[chosen], f[chosen], J[chosen] = trial[lower], f_new[lower], J_new[lower]
        moved[open_[lower]] = True
        if moved.all():
            break
    return moved


def _admissible(equations: SelfConsistency, y: Array) -> np.ndarray:
    """Return whether unknowns (S, K + 1) have |R|^2 < Q, and a size that numbers can hold."""
    aligned = (y[:, :-1] ** 2).sum(axis=1) < _INSIDE
    return aligned if equations.on_sphere else aligned & (np.abs(y[:, -1]) < 100.0)


def _newton_step(J: Array, f: Array) -> Array:
    return -np.einsum("sij,sj->si", np.linalg.pinv(J, rcond=_NULL), f)


def _merit(y: Array, f: Array, known: Array) -> Array:
    return np.linalg.norm(f, axis=1) * _deflation(y, known)[0]


def _deflation(y: Array, known: Array) -> tuple[Array, Array]:
    """Return the factor (S,) that grows near known zeros, and the gradient (S, K + 1) of its logarithm."""
    gap = y[:, None] - known
    squared = np.maximum((gap * gap).sum(axis=2), 1e-300)
    factor = (1.0 + 1.0 / squared).prod(axis=1)
    return factor, (-2.0 * gap / (squared * (1.0 + squared))[..., None]).sum(axis=1)
