"""What a run of the spectral elements says about its error: it is compared with a run to a looser tolerance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.solution_pde import CoefficientHistory
from mkvlasov.solvers.pde.elements.basis import Basis
from mkvlasov.solvers.pde.elements.kernels import distances
from mkvlasov.solvers.pde.elements.march import ERROR
from mkvlasov.solvers.pde.elements.run import Trace
from mkvlasov.solvers.pde.errors import Errors, coefficient_errors, tolerance_errors

LOOSER = 6.0
"""Factor between the tolerances of the two runs: where the error is proportional to the tolerance, their difference is
five times the error of the better one; it may be less proportional than that."""

_COMPARED = 8

# Of the tolerance, added to the estimate: differences may vanish by chance.
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
    basis: Basis,
    fine: Trace,
    coarse: Trace,
    others: Trace | None,
    weights: Array,
    history: CoefficientHistory,
    rtol: float,
) -> Errors:
    """Return the estimated errors of `fine`.

    The difference to the coarse run; what the errors of the coefficients do, added up over time at worst; a tenth of
    the tolerance; and all of the difference that other loading nodes make.
    """
    features = history.tilt.shape[1]
    y = moments_at(fine, features)
    scale = np.abs(y[:, 0])
    errors = differences(basis, fine, coarse, weights, features, densities=True)
    errors += tolerance_errors(_FLOOR * rtol, y[:, 0], y[:, 1:])
    log = fine.log
    inexact = coefficient_errors(history, log[:, 3 + features + ERROR], log[:, 1], log[:, 2 : 2 + features], fine.times)
    # An error of the moments is no larger than that of the densities they belong to.
    errors += Errors(inexact.Q, inexact.R, _relative(inexact.R, scale))
    if others is not None:
        missed = differences(basis, coarse, others, weights, features, densities=False)
        at = np.minimum(np.searchsorted(coarse.times, fine.times * (1.0 - 1e-12)), len(coarse.times) - 1)
        errors += Errors(missed.Q[at], missed.R[at], _relative(missed.R[at], scale))
    return errors


def _relative(R: Array, scale: Array) -> Array:
    return np.linalg.norm(R, axis=1) / np.sqrt(np.maximum(scale, 1e-300))
