"""Compiled implicit solves along the lines of a grid, and the decomposition of a diffusion matrix over directions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from mkvlasov._typing import Array

IntArray = npt.NDArray[np.int64]

_GAMMA = 2.0 - np.sqrt(2.0)
_LONGEST = 8
"""Directions have integer components up to this."""
FAINT = 1e-6
"""Of the largest density: beside fainter cells fluxes are exponentially fitted, and no ripples grow there."""


@njit(cache=True, nogil=True, error_model="numpy")
def selling(matrices: Array) -> tuple[IntArray, Array]:
    """Write symmetric matrices as sums of three integer directions, D = sum_k weight_k v_k v_k^T, weight_k >= 0.

    Selling's algorithm: the directions are those perpendicular to a superbase (e_0 + e_1 + e_2 = 0) that is obtuse for
    D, <e_i, D e_j> <= 0, and the weights are minus these products. Exact up to directions of eight cells; a matrix so
    anisotropic that it would need longer ones gets the weight 0 for the one that would be negative, which adds
    diffusion.

    Parameters
    ----------
    matrices : ndarray, shape (L, 2, 2)
        Positive semidefinite.

    Returns
    -------
    directions : ndarray of int, shape (L, 3, 2)
        The heaviest first, so that the first two are a basis; the first component that is not zero is positive.
    weights : ndarray, shape (L, 3)
    """
    count = len(matrices)
    directions = np.zeros((count, 3, 2), np.int64)
    weights = np.zeros((count, 3))
    base = np.zeros((3, 2), np.int64)
    for m in range(count):
        a, b, c = matrices[m, 0, 0], 0.5 * (matrices[m, 0, 1] + matrices[m, 1, 0]), matrices[m, 1, 1]
        base[:] = 0
        base[0, 0], base[1, 1], base[2, 0], base[2, 1] = 1, 1, -1, -1
        slack = 1e-14 * (a + c)
        changed = True
        while changed:
            changed = False
            for i in range(3):
                j, k = (i + 1) % 3, (i + 2) % 3
                if not changed and _product(base[i], base[j], a, b, c) > slack:
                    # (-e_i, e_j, e_i - e_j) is the next superbase.
                    first, second = base[i, 0] - base[j, 0], base[i, 1] - base[j, 1]
                    if max(abs(first), abs(second)) <= _LONGEST:
                        base[i, 0], base[i, 1] = -base[i, 0], -base[i, 1]
                        base[k, 0], base[k, 1] = first, second
                        changed = True
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            p, q = -base[k, 1], base[k, 0]
            if p < 0 or (p == 0 and q < 0):
                p, q = -p, -q
            directions[m, i, 0], directions[m, i, 1] = p, q
            weights[m, i] = max(-_product(base[i], base[j], a, b, c), 0.0)
        _heaviest_first(directions[m], weights[m])
    return directions, weights


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _product(e: IntArray, f: IntArray, a: float, b: float, c: float) -> float:
    return e[0] * (a * f[0] + b * f[1]) + e[1] * (b * f[0] + c * f[1])


@njit(cache=True, nogil=True, error_model="numpy")
def _heaviest_first(directions: IntArray, weights: Array) -> None:
    for i in range(2):
        best = i
        for j in range(i + 1, 3):
            p, q = directions[j, 0], directions[j, 1]
            u, v = directions[best, 0], directions[best, 1]
            if weights[j] * (p * p + q * q) > weights[best] * (u * u + v * v):
                best = j
        for axis in range(2):
            kept = directions[i, axis]
            directions[i, axis] = directions[best, axis]
            directions[best, axis] = kept
        weight = weights[i]
        weights[i] = weights[best]
        weights[best] = weight


@njit(cache=True, nogil=True, error_model="numpy")
def sweep(
    mass: Array,
    directions: IntArray,
    diffusion: Array,
    affine: Array,
    faces: Array,
    dt: float,
    positive: bool,
) -> None:
    """Advance the masses, in place, by the Fokker-Planck equations along one direction per loading.

    On every line of cells in direction v, with s the distance along it in units of v,

        dp/dt = - d(u p)/ds + D d^2 p / ds^2,

    no flux through its ends, one step of TR-BDF2. Fluxes are exponentially fitted (Scharfetter and Gummel) if
    `positive`, where lines that come out negative are solved by implicit Euler instead. Otherwise they are central,
    but for faces beside cells that are nearly empty or negative.

    Parameters
    ----------
    mass : ndarray, shape (L, n, n)
        Of the cells of [-1, 1]^2.
    directions : ndarray of int, shape (L, 2)
    diffusion : ndarray, shape (L,)
        D.
    affine : ndarray, shape (L, 3)
        u = affine_0 + affine_1 xi_1 + affine_2 xi_2 at the faces, to which is added
    faces : ndarray, shape (L, n, n) or (L, 0, 0)
        a part per face: that of the cell and the next one in direction v.
    dt : float
    positive : bool
    """
    loadings, n = mass.shape[0], mass.shape[1]
    h = 2.0 / n
    line = np.empty(n)
    rows, columns = np.empty(n, np.int64), np.empty(n, np.int64)
    ahead, back, work, solved = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for a in range(loadings):
        p, q = directions[a, 0], directions[a, 1]
        floor = np.inf if positive else FAINT * mass[a].max()
        for i in range(n):
            for j in range(n):
                if i >= p and 0 <= j - q < n:
                    continue
                length, r, c = 0, i, j
                while r < n and 0 <= c < n:
                    rows[length], columns[length], line[length] = r, c, mass[a, r, c]
                    length += 1
                    r += p
                    c += q
                if length < 2:
                    continue
                _rates(rows, columns, length, h, p, q, diffusion[a], affine[a], faces[a], line, floor, ahead, back)
                advance_line(line, length, ahead, back, dt, work, solved)
                if positive and solved[:length].min() < 0.0:
                    solved[:length] = line[:length]
                    _factor(length, dt, ahead, back, work)
                    _solve(length, dt, ahead, back, work, solved)
                for k in range(length):
                    mass[a, rows[k], columns[k]] = solved[k]


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def fitted(drift: float, spread: float) -> float:
    """Return the rate against a drift >= 0 of the exponentially fitted flux: drift / (e^(drift / spread) - 1)."""
    z = drift / max(spread, 1e-300)
    if z < 1e-3:
        # The series, where the difference would cancel.
        return spread * (1.0 - z * (0.5 - z / 12.0))
    return drift / np.expm1(z) if z < 300.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _rates(
    rows: IntArray,
    columns: IntArray,
    length: int,
    h: float,
    p: int,
    q: int,
    diffusion: float,
    affine: Array,
    faces: Array,
    line: Array,
    floor: float,
    ahead: Array,
    back: Array,
) -> None:
    """Fill in the rates at which mass crosses face k from cell k to k + 1, and back."""
    step_u = h * (affine[1] * p + affine[2] * q)
    u = (
        affine[0]
        + affine[1] * (-1.0 + (rows[0] + 0.5 + 0.5 * p) * h)
        + affine[2] * (-1.0 + (columns[0] + 0.5 + 0.5 * q) * h)
    )
    spread = diffusion / (h * h)
    extra = len(faces) > 0
    for k in range(length - 1):
        total = u + faces[rows[k], columns[k]] if extra else u
        u += step_u
        if line[k] < floor or line[k + 1] < floor:
            drift = total / h
            low = fitted(abs(drift), spread)
            high = low + abs(drift)
            if drift > 0.0:
                ahead[k], back[k] = high, low
            else:
                ahead[k], back[k] = low, high
        else:
            ahead[k], back[k] = spread + 0.5 * total / h, spread - 0.5 * total / h


@njit(cache=True, nogil=True, error_model="numpy")
def advance_line(line: Array, length: int, ahead: Array, back: Array, dt: float, work: Array, solved: Array) -> None:
    """Solve for the masses of a line after dt by TR-BDF2, with the rates ahead and back through every face."""
    theta = 0.5 * _GAMMA * dt
    solved[0] = line[0]
    for k in range(length - 1):
        flux = theta * (ahead[k] * line[k] - back[k] * line[k + 1])
        solved[k] -= flux
        solved[k + 1] = line[k + 1] + flux
    _factor(length, theta, ahead, back, work)
    _solve(length, theta, ahead, back, work, solved)
    new = 1.0 / (_GAMMA * (2.0 - _GAMMA))
    old = (1.0 - _GAMMA) ** 2 * new
    for k in range(length):
        solved[k] = new * solved[k] - old * line[k]
    _solve(length, theta, ahead, back, work, solved)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _factor(length: int, theta: float, ahead: Array, back: Array, work: Array) -> None:
    """Eliminate below the diagonal of I - theta L: `work` takes the inverses of the pivots."""
    pivot = 1.0 + theta * ahead[0]
    work[0] = 1.0 / pivot
    for k in range(1, length):
        out = ahead[k] if k < length - 1 else 0.0
        pivot = 1.0 + theta * (out + back[k - 1]) - theta * theta * ahead[k - 1] * back[k - 1] * work[k - 1]
        work[k] = 1.0 / pivot


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _solve(length: int, theta: float, ahead: Array, back: Array, work: Array, solved: Array) -> None:
    solved[0] *= work[0]
    for k in range(1, length):
        solved[k] = (solved[k] + theta * ahead[k - 1] * solved[k - 1]) * work[k]
    for k in range(length - 2, -1, -1):
        solved[k] += theta * back[k] * work[k] * solved[k + 1]
