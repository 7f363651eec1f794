"""What a run says about its own error: it is compared with coarser ones, in mesh, time step and loading nodes.

One difference for each of the three, added up: in a single coarse run errors of opposite sign would hide each other.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from mkvlasov._typing import Array
from mkvlasov.solvers.pde.errors import Errors
from mkvlasov.solvers.pde.volumes.fluxes import volumes
from mkvlasov.solvers.pde.volumes.march import Path

_WINDOW = 0.1


def doubled_steps(times: list[float]) -> Array:
    """Return every second time, and the last: steps twice as long, for an error four times as large."""
    kept = times[::-2][::-1]
    return np.array([time for time in kept if time > 0.0])


def differences(fine: Path, coarse: Path, t: Array, weights: Array | None) -> Errors:
    """Return the differences of two runs around the times t; of densities too, given the `weights` of the loadings.

    With half the cells, or twice the steps, the difference is three times the error of the fine run where the method
    is of second order, and the error itself where it is of first. The window (a tenth of the whole time on either
    side) keeps a difference that passes through zero from being taken for an error of zero.
    """
    times, i, j = np.intersect1d(fine.times, coarse.times, return_indices=True)
    difference = np.abs(np.array(fine.moments)[i, :-1] - np.array(coarse.moments)[j, :-1])
    worst = windowed(times, difference, t)
    density = np.zeros(len(t)) if weights is None else _density_errors(fine, coarse, t, weights)
    return Errors(worst[:, 0], worst[:, 1:], density)


def windowed(times: Array, values: Array, t: Array) -> Array:
    """Return the largest values (T, ...) at `times` within a window around each t; nearest neighbours included."""
    width = _WINDOW * float(times[-1])
    result = np.empty((len(t), *values.shape[1:]))
    for i, time in enumerate(t):
        start = min(int(np.searchsorted(times, time - width)), max(int(np.searchsorted(times, time)) - 1, 0))
        stop = max(int(np.searchsorted(times, time + width, side="right")), int(np.searchsorted(times, time)) + 1)
        result[i] = values[start:stop].max(axis=0)
    return result


def _density_errors(fine: Path, coarse: Path, t: Array, weights: Array) -> Array:
    """Return the L1 distances of the densities of two runs, mean over the loadings, at the times t.

    Times that were not kept by both runs take the larger of the neighbours that were.
    """
    common = [time for time in fine.snapshot_times if time in coarse.snapshot_times]
    if not common:
        return np.full(len(t), np.nan)
    distances = np.empty(len(common))
    for k, time in enumerate(common):
        i, j = fine.snapshot_times.index(time), coarse.snapshot_times.index(time)
        each = _distance(
            fine.snapshot_nodes[i], fine.snapshot_mass[i], coarse.snapshot_nodes[j], coarse.snapshot_mass[j]
        )
        distances[k] = weights @ each
    right = np.minimum(np.searchsorted(common, t), len(common) - 1)
    left = np.maximum(np.searchsorted(common, t, side="right") - 1, 0)
    return np.maximum(distances[left], distances[right])


def _distance(nodes: Array, mass: Array, coarse_nodes: Array, coarse_mass: Array) -> Array:
    """Return the integral of |p - p'| for every loading, with p' interpolated."""
    size = volumes(np.diff(nodes, axis=1))
    coarse = coarse_mass / volumes(np.diff(coarse_nodes, axis=1))
    result = np.empty(len(nodes))
    for i, (w, p) in enumerate(zip(nodes, mass / size, strict=True)):
        covered = (w >= coarse_nodes[i, 0]) & (w <= coarse_nodes[i, -1])
        interpolated = np.where(covered, Akima1DInterpolator(coarse_nodes[i], coarse[i])(w), 0.0)
        result[i] = size[i] @ np.abs(p - interpolated)
    return result
