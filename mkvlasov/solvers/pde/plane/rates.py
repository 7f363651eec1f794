"""Drift and diffusion of the Fokker-Planck equations in the plane: from the limit coefficients, or stored ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.interpolate import CubicSpline

from mkvlasov._typing import Array
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solution_pde import CoefficientHistory


@dataclass(frozen=True, slots=True)
class Averages:
    """What couples the loadings.

    Attributes
    ----------
    Q, R : ndarray, shapes (2, 2) and (2, K)
    virial : ndarray, shape (2,)
        E[w_j d phi / d w_j], less what a quadratic phi contributes; needed on the sphere.
    """

    Q: Array
    R: Array
    virial: Array

    def flat(self) -> Array:
        """Return all of them in one row."""
        return np.concatenate([self.Q.ravel(), self.R.ravel(), self.virial])

    @staticmethod
    def of(row: Array) -> Averages:
        """Invert `flat`."""
        return Averages(row[:4].reshape(2, 2), row[4:-2].reshape(2, -1), row[-2:])


@dataclass(frozen=True, slots=True)
class Rates:
    """dw = -(linear w + tilt a + tau psi'(w)) dt + N(0, noise dt), psi being phi less its quadratic part.

    Attributes
    ----------
    linear, noise : ndarray, shape (2, 2)
    tilt : ndarray, shape (2, K)
    tau, error : float
    """

    linear: Array
    tilt: Array
    tau: float
    noise: Array
    error: float

    @property
    def finite(self) -> bool:
        """Whether all are numbers."""
        return all(bool(np.isfinite(part).all()) for part in (self.linear, self.tilt, self.noise))


class RateFunction(Protocol):
    """Where rates come from."""

    def __call__(self, t: float, averages: Averages) -> Rates:
        """Return the rates at a time."""


class CoupledRates:
    """Rates from the limit coefficients (docs/theory.md, sections 3 and 9); counts its evaluations."""

    def __init__(self, problem: Problem, limit: LimitCoefficients, largest: float) -> None:
        self._problem, self._limit, self._largest = problem, limit, largest
        self.evaluations = 0

    def __call__(self, t: float, averages: Averages) -> Rates:
        """Return the rates at a time."""
        Q, R = 0.5 * (averages.Q + averages.Q.T), averages.R
        unknown = Rates(np.full((2, 2), np.nan), np.full_like(R, np.nan), np.nan, np.full((2, 2), np.nan), 0.0)
        if not np.isfinite(averages.flat()).all() or np.trace(Q) > 10.0 * self._largest:
            return unknown
        self.evaluations += 1
        problem, tau = self._problem, self._problem.rate(t)
        c = self._limit(_admissible(Q, R), R, t)
        linear = tau * (c.G + (problem.regularizer.linear_strength or 0.0) * np.eye(2))
        if problem.constraint == "sphere":
            growth = (
                np.diagonal(c.Lambda) - 2.0 * np.diagonal(linear @ Q + tau * c.H @ R.T) - 2.0 * tau * averages.virial
            )
            linear = linear + np.diag(0.5 * growth / np.maximum(np.diagonal(Q), 1e-300))
        return Rates(linear, tau * c.H, tau, _nonnegative(c.Lambda), float(c.error))


class StoredRates:
    """Rates along a run that has been made, interpolated in time by a cubic spline."""

    def __init__(self, history: CoefficientHistory, curvature: float) -> None:
        linear = history.linear + curvature * history.tau[:, None, None] * np.eye(2)
        parts = [linear, history.tilt, history.tau[:, None], 2.0 * history.diffusion]
        table = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        self._end = float(history.t[-1])
        # A run that was asked for its start only has one entry.
        self._rows = CubicSpline(history.t, table) if len(table) > 1 else lambda t: table[0]

    def __call__(self, t: float, averages: Averages) -> Rates:
        """Return the rates at a time."""
        row = self._rows(min(t, self._end))
        noise = _nonnegative(row[-4:].reshape(2, 2))
        return Rates(row[:4].reshape(2, 2), row[4:-5].reshape(2, -1), float(row[-5]), noise, 0.0)


def _admissible(Q: Array, R: Array) -> Array:
    """Return Q, moved to Q - R R^T >= 0 if an extrapolation has left it by its error."""
    values, vectors = np.linalg.eigh(Q - R @ R.T)
    return Q if values[0] >= 0.0 else R @ R.T + (vectors * np.maximum(values, 0.0)) @ vectors.T


def _nonnegative(matrix: Array) -> Array:
    """Return the symmetric part without negative eigenvalues, which rounding and interpolation may leave."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return (vectors * np.maximum(values, 0.0)) @ vectors.T
