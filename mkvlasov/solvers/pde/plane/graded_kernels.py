"""Compiled parts of a step on graded tensor meshes: what moves along an axis, and the mixed derivative."""

from __future__ import annotations

import numpy as np
from numba import njit

from mkvlasov._typing import Array
from mkvlasov.solvers.pde.plane.sweep_kernels import FAINT, fitted


@njit(cache=True, nogil=True, error_model="numpy")
def axis_rates(
    mass: Array, along: Array, widths: Array, across: Array, diffusion: float, speed: Array, faces: Array
) -> tuple[Array, Array]:
    """Return the rates at which mass crosses the faces along the first axis, from cell k to k + 1, and back.

    They are those of dp/dt = - d(u p)/dw + D d^2 p / dw^2 with central fluxes, or with exponentially fitted ones beside
    cells that are nearly empty or negative.

    Parameters
    ----------
    mass : ndarray, shape (L, n, n)
    along : ndarray, shape (L, n)
        Nodes on the axis.
    widths, across : ndarray, shape (L, n)
        Widths of the cells along the axis, and across.
    diffusion : float
        D.
    speed, faces : ndarray, shapes (L, n - 1) and (L, n - 1, n)
        u between nodes k and k + 1 of line j is speed_k + faces_kj.

    Returns
    -------
    ahead, back : ndarray, shape (L, n - 1, n)
    """
    loadings, n = mass.shape[0], mass.shape[1]
    ahead, back = np.empty(faces.shape), np.empty(faces.shape)
    for l in range(loadings):
        densest = 0.0
        for k in range(n):
            for j in range(n):
                densest = max(densest, mass[l, k, j] / (widths[l, k] * across[l, j]))
        for k in range(n - 1):
            spread = diffusion / (along[l, k + 1] - along[l, k])
            for j in range(n):
                floor = FAINT * densest * across[l, j]
                u = speed[l, k] + faces[l, k, j]
                if mass[l, k, j] < floor * widths[l, k] or mass[l, k + 1, j] < floor * widths[l, k + 1]:
                    size = abs(u)
                    low = fitted(size, spread)
                    ahead[l, k, j] = ((low + size) if u > 0.0 else low) / widths[l, k]
                    back[l, k, j] = (low if u > 0.0 else (low + size)) / widths[l, k + 1]
                else:
                    ahead[l, k, j] = (spread + 0.5 * u) / widths[l, k]
                    back[l, k, j] = (spread - 0.5 * u) / widths[l, k + 1]
    return ahead, back


@njit(cache=True, nogil=True, error_model="numpy")
def flow(mass: Array, ahead: Array, back: Array) -> Array:
    """Return d mass / dt along the first axis, shape (L, n, n)."""
    result = np.zeros(mass.shape)
    for l in range(mass.shape[0]):
        for k in range(mass.shape[1] - 1):
            for j in range(mass.shape[2]):
                flux = ahead[l, k, j] * mass[l, k, j] - back[l, k, j] * mass[l, k + 1, j]
                result[l, k, j] -= flux
                result[l, k + 1, j] += flux
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def implicit(mass: Array, ahead: Array, back: Array, theta: float) -> Array:
    """Return the solution of (1 - theta d/dt) x = mass along the first axis, shape (L, n, n)."""
    loadings, n = mass.shape[0], mass.shape[1]
    result, pivots = mass.copy(), np.empty((n, mass.shape[2]))
    for l in range(loadings):
        for j in range(mass.shape[2]):
            pivots[0, j] = 1.0 / (1.0 + theta * ahead[l, 0, j])
            result[l, 0, j] *= pivots[0, j]
        for k in range(1, n):
            for j in range(mass.shape[2]):
                low = theta * ahead[l, k - 1, j]
                out = ahead[l, k, j] if k < n - 1 else 0.0
                pivot = 1.0 + theta * (out + back[l, k - 1, j]) - low * theta * back[l, k - 1, j] * pivots[k - 1, j]
                pivots[k, j] = 1.0 / pivot
                result[l, k, j] = (result[l, k, j] + low * result[l, k - 1, j]) * pivots[k, j]
        for k in range(n - 2, -1, -1):
            for j in range(mass.shape[2]):
                result[l, k, j] += theta * back[l, k, j] * pivots[k, j] * result[l, k + 1, j]
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def mixed(mass: Array, first: Array, second: Array, strength: float) -> Array:
    """Return strength d^2 p / dw_1 dw_2, integrated over the cells, shape (L, n, n).

    Parameters
    ----------
    mass : ndarray, shape (L, n, n)
    first, second : ndarray, shape (L, n)
        Widths of the cells along the two axes.
    strength : float
    """
    loadings, n = mass.shape[0], mass.shape[1]
    result = np.zeros(mass.shape)
    for l in range(loadings):
        for i in range(n - 1):
            for j in range(n - 1):
                corner = (mass[l, i, j] / first[l, i] + mass[l, i + 1, j] / first[l, i + 1]) / second[l, j]
                corner += (mass[l, i, j + 1] / first[l, i] + mass[l, i + 1, j + 1] / first[l, i + 1]) / second[l, j + 1]
                corner *= 0.25 * strength
                result[l, i, j] += corner
                result[l, i + 1, j + 1] += corner
                result[l, i + 1, j] -= corner
                result[l, i, j + 1] -= corner
    return result
