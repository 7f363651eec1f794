"""One time step of d(masses)/dt = A(t) masses, all loadings stacked in one tridiagonal system."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from mkvlasov._typing import Array
from mkvlasov.solvers.pde.volumes.fluxes import Tridiagonal

# TR-BDF2 as a diagonally implicit Runge-Kutta method with an embedded third-order result
# (Hosea and Shampine, Applied Numerical Mathematics 20, 1996, table 1).
STAGE = 2.0 - np.sqrt(2.0)
_D = STAGE / 2.0
_W = np.sqrt(2.0) / 4.0
_ERROR = np.array([_W - (1.0 - _W) / 3.0, _W - (3.0 * _W + 1.0) / 3.0, _D - _D / 3.0])


class Factorized:
    """LU factors of I - h A for all loadings at once: blocks without coupling in one long tridiagonal matrix."""

    __slots__ = ("_factors",)

    def __init__(self, operator: Tridiagonal, h: float) -> None:
        shape = operator.diagonal.shape
        lower, upper = np.zeros(shape), np.zeros(shape)
        lower[:, :-1] = -h * operator.lower
        upper[:, :-1] = -h * operator.upper
        diagonal = 1.0 - h * operator.diagonal
        *factors, info = lapack.dgttrf(
            lower.ravel()[:-1], diagonal.ravel(), upper.ravel()[:-1], overwrite_dl=1, overwrite_d=1, overwrite_du=1
        )
        if info:
            raise FloatingPointError("singular implicit step")
        self._factors = factors

    def solve(self, right: Array) -> Array:
        """Return (I - h A)^-1 right, shape (L, n)."""
        solution, _ = lapack.dgttrs(*self._factors, right.ravel())
        return solution.reshape(right.shape)


class Step(NamedTuple):
    """Masses at the end of a step and an estimate of the error made in it, both (L, n)."""

    mass: Array
    error: Array


def tr_bdf2(mass: Array, dt: float, start: Tridiagonal, middle: Tridiagonal, end: Tridiagonal) -> Step:
    """Return one step of TR-BDF2: second order, L-stable.

    Parameters
    ----------
    mass : ndarray, shape (L, n)
    dt : float
    start, middle, end : Tridiagonal
        The operator at t, t + (2 - sqrt 2) dt and t + dt.
    """
    k0 = start.apply(mass)
    right = mass + (_D * dt) * k0
    stage = Factorized(middle, _D * dt).solve(right)
    k1 = (stage - right) / (_D * dt)
    right = mass + (_W * dt) * (k0 + k1)
    factors = Factorized(end, _D * dt)
    result = factors.solve(right)
    k2 = (result - right) / (_D * dt)
    # One more solve damps the stiff part of the estimate, which the method itself damps too.
    return Step(result, factors.solve(dt * (_ERROR[0] * k0 + _ERROR[1] * k1 + _ERROR[2] * k2)))


def implicit_euler(mass: Array, dt: float, end: Tridiagonal) -> Array:
    """Return one step of implicit Euler: positive with a positive flux (the matrix is an M-matrix), first order."""
    return Factorized(end, dt).solve(mass)


def limit_to_positive(accurate: Array, positive: Array) -> Array:
    """Return masses >= 0 as near to `accurate` as mass exchanges between neighbours allow.

    The two results differ by fluxes between neighbours; each node passes on at most what it has in `positive`, so
    mass is conserved and the accurate result is kept wherever it is not short of mass (Zalesak, 1979).
    """
    flux = -np.cumsum(accurate - positive, axis=1)[:, :-1]
    outgoing = np.zeros_like(positive)
    outgoing[:, :-1] += np.maximum(flux, 0.0)
    outgoing[:, 1:] -= np.minimum(flux, 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = np.where(outgoing > positive, positive / outgoing, 1.0)
    flux = flux * np.where(flux > 0.0, share[:, :-1], share[:, 1:])
    result = positive.copy()
    result[:, :-1] -= flux
    result[:, 1:] += flux
    return result
