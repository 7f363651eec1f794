"""What a run in the plane says about its error: it is compared with one on half the cells with twice the steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.plane_table import cell_centres
from mkvlasov.solvers.pde.plane.grid import State
from mkvlasov.solvers.pde.plane.march import Path

_FLOOR = 0.5
"""Of the tolerance, added to the estimates: differences may vanish by chance."""
_SECOND_ORDER = 1.0 / 3.0
"""Of the difference to the coarse run: the error of the fine one where both are of second order."""


@dataclass(frozen=True, slots=True)
class PlaneErrors:
    """Errors at the output times: Q (T, 2, 2), R (T, 2, K), densities in L1, mean over the loadings (T,)."""

    Q: Array
    R: Array
    density: Array

    def __add__(self, other: PlaneErrors) -> PlaneErrors:
        return PlaneErrors(self.Q + other.Q, self.R + other.R, self.density + other.density)


@dataclass(frozen=True, slots=True)
class Result:
    """What two runs say together.

    Attributes
    ----------
    Q, R : ndarray, shapes (T, 2, 2) and (T, 2, K)
    mass : ndarray, shape (T, L, n, n)
    errors : PlaneErrors
    """

    Q: Array
    R: Array
    mass: Array
    errors: PlaneErrors


def combined(fine: list[State], coarse: list[State], weights: Array, *, extrapolate: bool, features: int) -> Result:
    """Return the fine run, extrapolated with the coarse one if asked to, and its errors.

    Behaviour: errors are the differences of the two, at every time the largest of it and its neighbours, since a
    difference may pass through zero. Where extrapolated overlaps would not be those of any law, the fine ones are kept.
    """
    n = fine[0].mass.shape[1] if fine else 0
    Q, R = _stacked([s.averages.Q for s in fine], (2, 2)), _stacked([s.averages.R for s in fine], (2, features))
    dQ = Q - _stacked([s.averages.Q for s in coarse], (2, 2))
    dR = R - _stacked([s.averages.R for s in coarse], (2, features))
    mass = _stacked([s.mass for s in fine], (len(weights), n, n))
    dM = mass - _stacked([prolonged(s.mass, n) for s in coarse], mass.shape[1:])
    l1 = np.abs(dM).sum(axis=(2, 3)) @ weights
    errors = PlaneErrors(_widened(np.abs(dQ)), _widened(np.abs(dR)), _widened(l1))
    if extrapolate:
        better_q, better_r = Q + _SECOND_ORDER * dQ, R + _SECOND_ORDER * dR
        rest = better_q - better_r @ np.swapaxes(better_r, 1, 2)
        possible = (np.linalg.eigvalsh(rest)[:, 0] >= 0.0)[:, None, None]
        Q, R, mass = np.where(possible, better_q, Q), np.where(possible, better_r, R), mass + _SECOND_ORDER * dM
        mass = mass / mass.sum(axis=(2, 3), keepdims=True) if len(mass) else mass
    return Result(Q, R, mass, errors)


def prolonged(mass: Array, n: int) -> Array:
    """Return masses (L, n, n) interpolated by quintic splines from cells of twice the size."""
    from scipy.interpolate import RectBivariateSpline

    x, y = cell_centres(mass.shape[1]), cell_centres(n)
    return np.array([RectBivariateSpline(x, x, each, kx=5, ky=5)(y, y) for each in mass]) * (mass.shape[1] / n) ** 2


def tolerance_errors(rtol: float, Q: Array, R: Array) -> PlaneErrors:
    """Return a share of what the tolerance allows at overlaps Q (T, 2, 2), R (T, 2, K)."""
    return _relative(_FLOOR * rtol, Q, R)


def wall_errors(mass: float, Q: Array, R: Array) -> PlaneErrors:
    """Return what the largest mass in the cells along the walls, held back there, may have done at (Q, R)."""
    return _relative(mass, Q, R)


def _relative(part: float, Q: Array, R: Array) -> PlaneErrors:
    size = np.sqrt(np.diagonal(Q, axis1=1, axis2=2).clip(0.0))
    return PlaneErrors(
        part * size[:, :, None] * size[:, None, :], part * size[:, :, None] * np.ones(R.shape[2]), np.full(len(Q), part)
    )


def coefficient_errors(path: Path, t: Array, features: int) -> PlaneErrors:
    """Return what relative errors of the limit coefficients do to the moments, added up over time at worst."""
    times = np.array(path.rate_times)
    per_q, per_r = np.zeros(len(times)), np.zeros(len(times))
    for i, (rates, averages) in enumerate(zip(path.rates, path.averages, strict=True)):
        q, r = float(np.linalg.norm(averages.Q)), float(np.linalg.norm(averages.R))
        linear, tilt = float(np.linalg.norm(rates.linear)), float(np.linalg.norm(rates.tilt))
        per_q[i] = rates.error * (2.0 * linear * q + 2.0 * tilt * r + float(np.linalg.norm(rates.noise)))
        per_r[i] = rates.error * (linear * r + tilt)
    gaps = np.diff(times)
    grown_q, grown_r = (
        np.interp(t, times, np.concatenate([[0.0], np.cumsum(0.5 * (each[1:] + each[:-1]) * gaps)]))
        for each in (per_q, per_r)
    )
    return PlaneErrors(
        grown_q[:, None, None] * np.ones((2, 2)), grown_r[:, None, None] * np.ones((2, features)), np.zeros(len(t))
    )


def loading_errors(few: Path, more: Path, t: Array, features: int) -> PlaneErrors:
    """Return the differences that other loading nodes make at times t, the largest up to then."""
    count = min(len(few.snapshots), len(more.snapshots))
    pairs = list(zip(few.snapshots[:count], more.snapshots[:count], strict=True))
    Q = _stacked([np.abs(one.averages.Q - other.averages.Q) for one, other in pairs], (2, 2))
    R = _stacked([np.abs(one.averages.R - other.averages.R) for one, other in pairs], (2, features))
    at = np.minimum(np.searchsorted([one.t for one, _ in pairs], t * (1.0 - 1e-12)), count - 1)
    size = np.sqrt(np.array([np.trace(one.averages.Q) for one, _ in pairs]).clip(1e-300))
    Q, R = (np.maximum.accumulate(each) for each in (Q, R))
    density = np.linalg.norm(R, axis=(1, 2)) / size
    return PlaneErrors(Q[at], R[at], density[at])


def _stacked(parts: list[Array], shape: tuple[int, ...]) -> Array:
    return np.array(parts) if parts else np.zeros((0, *shape))


def _widened(values: Array) -> Array:
    """Return at every time the largest of the value and those beside it; of entries, at least half the largest."""
    result = values.copy()
    result[1:] = np.maximum(result[1:], values[:-1])
    result[:-1] = np.maximum(result[:-1], values[1:])
    if values.ndim > 1:
        result = np.maximum(result, 0.5 * result.max(axis=(1, 2), keepdims=True))
    return result
