"""The problem of `pde_speed.py` by finite volumes on a hand-graded grid under scipy's LSODA with a banded Jacobian.

As good as we could make it: unknowns are masses of cells, one loading after the other, so that without the coupling
through (Q, R) the Jacobian is tridiagonal; right-hand side and Jacobian are compiled, the Jacobian is analytic without
the coupling (a matrix of low rank outside of the band), and absolute tolerances are densities times cell widths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.integrate import odeint

from mkvlasov.limit.line_kernels import rates

TAU, KAPPA = 0.5, 0.5
LOADINGS, WEIGHTS = np.array([0.0, 2.0]), np.array([0.75, 0.25])


@dataclass(frozen=True)
class Setting:
    """A discretization: cells per loading, finest scale and share of the cells at the kink, tolerances, flux.

    `absolute` is the absolute tolerance of a density in units of rtol.
    """

    cells: int
    finest: float
    share: float
    rtol: float
    absolute: float
    central: bool


def graded(setting: Setting) -> np.ndarray:
    """Return nodes of both loadings, (2, cells): some at the kink, some where the density goes, some everywhere."""
    result = []
    # Loading 0 gets the spike; loading 2 has a kink of its density there.
    for share, center, width, low, high in (
        (setting.share, 0.0, 1.0, -4.5, 4.5),
        (0.15 * setting.share, 1.5, 0.9, -4.0, 6.0),
    ):
        w = np.linspace(low, high, 20001)
        spike = 1.0 / np.sqrt(w * w + setting.finest**2)
        bump = 1.0 / (1.0 + ((w - center) / width) ** 2)
        parts = [each / np.trapezoid(each, w) for each in (spike, bump, np.ones_like(w))]
        density = share * parts[0] + (1.0 - share) * (0.8 * parts[1] + 0.2 * parts[2])
        level = np.append(0.0, np.cumsum(0.5 * (density[1:] + density[:-1])))
        nodes = np.interp(np.linspace(0.0, level[-1], setting.cells), level, w)
        nodes[np.abs(nodes).argmin()] = 0.0
        result.append(nodes)
    return np.array(result)


def volumes(w: np.ndarray) -> np.ndarray:
    """Return the control volumes of nodes (2, cells)."""
    h = np.diff(w, axis=1)
    return 0.5 * (np.pad(h, ((0, 0), (0, 1))) + np.pad(h, ((0, 0), (1, 0))))


@njit(cache=True, error_model="numpy")
def _coefficients(y, w, data):
    n = w.shape[1]
    Q, R = 0.0, 0.0
    for i in range(n):
        Q += 0.75 * y[i] * w[0, i] * w[0, i] + 0.25 * y[n + i] * w[1, i] * w[1, i]
        R += 0.5 * y[n + i] * w[1, i]
    G, _, H, Lambda, _, _ = rates(Q, np.array([R]), data)
    return G, H[0], 0.5 * TAU * TAU * Lambda


@njit(cache=True, error_model="numpy")
def _conductances(a, left, right, G, H, D, central):
    """Return f, g of the flux (f p_left - g p_right) / h; the potential enters as its exact difference."""
    u = TAU * ((0.5 * G * (left + right) + H * 2.0 * a) * (right - left) + KAPPA * (abs(right) - abs(left)))
    if central:
        return D - 0.5 * u, D + 0.5 * u
    z = u / D
    f = u / math.expm1(z) if abs(z) > 1e-9 else D
    return f, f + u


@njit(cache=True, error_model="numpy")
def compiled_rates(y, t, w, v, central, data):
    """Return dy/dt."""
    n = w.shape[1]
    G, H, D = _coefficients(y, w, data)
    result = np.zeros(2 * n)
    for a in range(2):
        for i in range(n - 1):
            j = a * n + i
            f, g = _conductances(a, w[a, i], w[a, i + 1], G, H, D, central)
            flux = (f * y[j] / v[a, i] - g * y[j + 1] / v[a, i + 1]) / (w[a, i + 1] - w[a, i])
            result[j] -= flux
            result[j + 1] += flux
    return result


@njit(cache=True, error_model="numpy")
def compiled_jacobian(y, t, w, v, central, data):
    """Return the band of the Jacobian, (3, 2 cells), at fixed coefficients."""
    n = w.shape[1]
    G, H, D = _coefficients(y, w, data)
    result = np.zeros((3, 2 * n))
    for a in range(2):
        for i in range(n - 1):
            j = a * n + i
            f, g = _conductances(a, w[a, i], w[a, i + 1], G, H, D, central)
            h = w[a, i + 1] - w[a, i]
            result[1, j] -= f / (v[a, i] * h)
            result[2, j] += f / (v[a, i] * h)
            result[0, j + 1] += g / (v[a, i + 1] * h)
            result[1, j + 1] -= g / (v[a, i + 1] * h)
    return result


def numpy_rates(y, t, w, v, central, data):
    """Return what `compiled_rates` returns."""
    h, m = np.diff(w, axis=1), y.reshape(w.shape)
    Q, R = WEIGHTS @ (m * w * w).sum(axis=1), (WEIGHTS * LOADINGS) @ (m * w).sum(axis=1)
    G, _, H, Lambda, _, _ = rates(Q, np.array([R]), data)
    D = 0.5 * TAU * TAU * Lambda
    middle = 0.5 * (w[:, 1:] + w[:, :-1])
    u = TAU * ((G * middle + H[0] * LOADINGS[:, None]) * h + KAPPA * np.diff(np.abs(w), axis=1))
    if central:
        f, g = D - 0.5 * u, D + 0.5 * u
    else:
        z = np.where(np.abs(u) < 1e-9 * D, 1e-9, u / D)
        f = D * z / np.expm1(z)
        g = f + u
    p = m / v
    flux = (f * p[:, :-1] - g * p[:, 1:]) / h
    return (np.pad(flux, ((0, 0), (1, 0))) - np.pad(flux, ((0, 0), (0, 1)))).ravel()


def solve(setting: Setting, kind: str, times, start, data):
    """Solve from the densities start(loading, w).

    `kind` is "compiled" (right-hand side and analytic Jacobian), "numpy" (right-hand side in NumPy, same Jacobian) or
    "differenced" (compiled, the Jacobian by LSODA's own differences, which the coupling spoils).

    Returns
    -------
    Q, R : ndarray, shape (T,)
    w, p, v : ndarray, shapes (2, n), (T, 2, n), (2, n)
    """
    w = graded(setting)
    v = volumes(w)
    y = np.array([start(a, row) for a, row in zip(LOADINGS, w, strict=True)]) * v
    y /= y.sum(axis=1, keepdims=True)
    found = odeint(
        numpy_rates if kind == "numpy" else compiled_rates,
        y.ravel(),
        np.append(0.0, times),
        args=(w, v, setting.central, data),
        Dfun=None if kind == "differenced" else compiled_jacobian,
        ml=1,
        mu=1,
        rtol=setting.rtol,
        atol=(setting.absolute * setting.rtol * v).ravel(),
        mxstep=100_000,
    )[1:].reshape(-1, *w.shape)
    moments = [(found * w**k).sum(axis=-1) for k in (1, 2)]
    return moments[1] @ WEIGHTS, moments[0] @ (WEIGHTS * LOADINGS), w, found / v, v
