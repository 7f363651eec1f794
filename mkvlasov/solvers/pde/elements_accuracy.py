"""What a run of the spectral elements says about its error: it is compared with a run to a looser tolerance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.solvers.pde.accuracy import Errors
from mkvlasov.solvers.pde.elements_basis import Basis
from mkvlasov.solvers.pde.elements_kernels import distances
from mkvlasov.solvers.pde.elements_march import DIFFUSION, ERROR, LINEAR, TILT
from mkvlasov.solvers.pde.elements_run import Trace

LOOSER = 6.0
"""Factor between the tolerances of the two runs."""

# Where the error is proportional to the tolerance, the difference is LOOSER - 1 times the error of the better run; it
# may be less proportional than that.
SHARE = 1.0
_COMPARED = 8
_FLOOR = 0.1


def compared(times: Array) -> npt.NDArray[np.intp]:
    """Return the indices of the output times at which runs are compared: a few, the last among them."""
    count = min(_COMPARED, len(times))
    return np.unique(np.linspace(0, len(times) - 1, count + 1).round().astype(int)[1:]) if count else np.arange(0)


def moments_at(trace: Trace, features: int) -> Array:
    """Return (Q, R) at the output times reached, shape (T, 1 + K)."""
    rows = np.searchsorted(trace.log[:, 0], trace.times * (1.0 - 1e-12))
    return trace.log[np.minimum(rows, len(trace.log) - 1), 1 : 2 + features]


def moments_agree(one: Trace, other: Trace, features: int, rtol: float) -> bool:
    """Return whether Q and R of two runs agree to `rtol` at all output times that both reached."""
    n = min(len(one.times), len(other.times))
    y, z = moments_at(one, features)[:n], moments_at(other, features)[:n]
    largest = np.maximum(np.abs(y[:, 0]), 1e-2 * np.abs(y[:, 0]).max(initial=0.0))
    scale = np.column_stack([largest] + features * [np.sqrt(largest)])
    return bool((np.abs(y - z) <= rtol * scale).all())


def differences(basis: Basis, fine: Trace, coarse: Trace, weights: Array, features: int, *, densities: bool) -> Errors:
    """Return the differences of two runs at the output times of the first, each the largest up to the next comparison.

    Without a comparison near a time the nearest one counts, so that a difference which passes through zero is not
    taken for an error of zero.
    """
    count = len(fine.times)
    at = np.flatnonzero(np.isin(fine.times, coarse.times))
    if not len(at):
        nothing = np.full(count, np.nan)
        return Errors(nothing, np.full((count, features), np.nan), nothing)
    rows = np.searchsorted(coarse.times, fine.times[at])
    gap = np.abs(moments_at(fine, features)[at] - moments_at(coarse, features)[rows])
    l1 = np.zeros(len(at))
    if densities:
        for k, (i, j) in enumerate(zip(at, rows, strict=True)):
            a, b = fine.snapshots[i], coarse.snapshots[j]
            l1[k] = weights @ distances(basis, a.mesh, a.frame, a.p, b.mesh, b.frame, b.p)
    table = np.column_stack([gap, l1])
    # Each time looks at the comparisons before and after it, and at their neighbours.
    left = np.maximum(np.searchsorted(at, np.arange(count), side="right") - 2, 0)
    right = np.minimum(np.searchsorted(at, np.arange(count)) + 2, len(at))
    worst = np.array([table[i:j].max(axis=0) for i, j in zip(left, right, strict=True)])
    return Errors(worst[:, 0], worst[:, 1:-1], worst[:, -1])


def estimate(
    basis: Basis, fine: Trace, coarse: Trace, others: Trace | None, weights: Array, features: int, rtol: float
) -> Errors:
    """Return the estimated errors of `fine`.

    The difference to the coarse run; all of the difference that other loading nodes make; what the errors of the
    coefficients do, added up over time at worst; and a tenth of the tolerance.
    """
    y = moments_at(fine, features)
    scale = np.abs(y[:, 0])
    ones = np.ones(features)
    gap = differences(basis, fine, coarse, weights, features, densities=True)
    q, r = _coefficients(fine, features)
    # An error of the moments cannot be much smaller than that of the densities they belong to, but by chance.
    parts = [
        Errors(
            SHARE * gap.Q + _FLOOR * rtol * scale + q,
            SHARE * gap.R + (_FLOOR * rtol * np.sqrt(scale) + r)[:, None] * ones,
            SHARE * gap.density + _FLOOR * rtol + r / np.sqrt(np.maximum(scale, 1e-300)),
        )
    ]
    if others is not None:
        missed = differences(basis, coarse, others, weights, features, densities=False)
        at = np.minimum(np.searchsorted(coarse.times, fine.times * (1.0 - 1e-12)), len(coarse.times) - 1)
        Q, R = missed.Q[at], missed.R[at]
        relative = np.linalg.norm(R, axis=1) / np.sqrt(np.maximum(scale, 1e-300))
        parts.append(Errors(Q, R, relative))
    return sum(parts[1:], parts[0])


def _coefficients(trace: Trace, features: int) -> tuple[Array, Array]:
    """Return what relative errors of the limit coefficients do to Q and R at the output times."""
    log = trace.log
    t, y, rates = log[:, 0], log[:, 1 : 2 + features], log[:, 3 + features :]
    size_q, size_r = np.abs(y[:, 0]), np.linalg.norm(y[:, 1:], axis=1)
    linear, tilt = np.abs(rates[:, LINEAR]), np.linalg.norm(rates[:, TILT:], axis=1)
    per_q = 2.0 * rates[:, ERROR] * (linear * size_q + tilt * size_r + rates[:, DIFFUSION])
    per_r = rates[:, ERROR] * (linear * size_r + tilt)
    grown = [
        np.interp(trace.times, t, np.append(0.0, np.cumsum(0.5 * (each[1:] + each[:-1]) * np.diff(t))))
        for each in (per_q, per_r)
    ]
    return grown[0], grown[1]
