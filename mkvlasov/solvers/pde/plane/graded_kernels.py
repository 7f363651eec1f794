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
    for a in range(loadings):
        densest = 0.0
        for k in range(n):
            for j in range(n):
                densest = max(densest, mass[a, k, j] / (widths[a, k] * across[a, j]))
        for k in range(n - 1):
            spread = diffusion / (along[a, k + 1] - along[a, k])
            for j in range(n):
                floor = FAINT * densest * across[a, j]
                u = speed[a, k] + faces[a, k, j]
                if mass[a, k, j] < floor * widths[a, k] or mass[a, k + 1, j] < floor * widths[a, k + 1]:
                    size = abs(u)
                    low = fitted(size, spread)
                    ahead[a, k, j] = ((low + size) if u > 0.0 else low) / widths[a, k]
                    back[a, k, j] = (low if u > 0.0 else (low + size)) / widths[a, k + 1]
                else:
                    ahead[a, k, j] = (spread + 0.5 * u) / widths[a, k]
                    back[a, k, j] = (spread - 0.5 * u) / widths[a, k + 1]
    return ahead, back


@njit(cache=True, nogil=True, error_model="numpy")
def flow(mass: Array, ahead: Array, back: Array) -> Array:
    """Return d mass / dt along the first axis, shape (L, n, n)."""
    result = np.zeros(mass.shape)
    for a in range(mass.shape[0]):
        for k in range(mass.shape[1] - 1):
            for j in range(mass.shape[2]):
                flux = ahead[a, k, j] * mass[a, k, j] - back[a, k, j] * mass[a, k + 1, j]
                result[a, k, j] -= flux
                result[a, k + 1, j] += flux
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def implicit(mass: Array, ahead: Array, back: Array, theta: float) -> Array:
    """Return the solution of (1 - theta d/dt) x = mass along the first axis, shape (L, n, n)."""
    loadings, n = mass.shape[0], mass.shape[1]
    result, pivots = mass.copy(), np.empty((n, mass.shape[2]))
    for a in range(loadings):
        for j in range(mass.shape[2]):
            pivots[0, j] = 1.0 / (1.0 + theta * ahead[a, 0, j])
            result[a, 0, j] *= pivots[0, j]
        for k in range(1, n):
            for j in range(mass.shape[2]):
                low = theta * ahead[a, k - 1, j]
                out = ahead[a, k, j] if k < n - 1 else 0.0
                pivot = 1.0 + theta * (out + back[a, k - 1, j]) - low * theta * back[a, k - 1, j] * pivots[k - 1, j]
                pivots[k, j] = 1.0 / pivot
                result[a, k, j] = (result[a, k, j] + low * result[a, k - 1, j]) * pivots[k, j]
        for k in range(n - 2, -1, -1):
            for j in range(mass.shape[2]):
                result[a, k, j] += theta * back[a, k, j] * pivots[k, j] * result[a, k + 1, j]
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
    for a in range(loadings):
        for i in range(n - 1):
            for j in range(n - 1):
                corner = (mass[a, i, j] / first[a, i] + mass[a, i + 1, j] / first[a, i + 1]) / second[a, j]
                corner += (mass[a, i, j + 1] / first[a, i] + mass[a, i + 1, j + 1] / first[a, i + 1]) / second[a, j + 1]
                corner *= 0.25 * strength
                result[a, i, j] += corner
                result[a, i + 1, j + 1] += corner
                result[a, i + 1, j] -= corner
                result[a, i, j + 1] -= corner
    return result
