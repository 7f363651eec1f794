"""Rates of the Fokker-Planck equations as rows of a table: from the limit coefficients, or stored ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from mkvlasov._typing import Array
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solution_pde import CoefficientHistory
from mkvlasov.solvers.pde.elements.basis import Basis
from mkvlasov.solvers.pde.elements.kernels import Mesh
from mkvlasov.solvers.pde.elements.line import evaluate_line, march_line
from mkvlasov.solvers.pde.elements.march import (
    DIFFUSION,
    GO_ON,
    TILT,
    Progress,
    Settings,
    attempt,
    propose,
)


def coupled_rates(problem: Problem, limit: LimitCoefficients, largest: float) -> CompiledRates | PythonRates:
    """Return rates from the limit coefficients, compiled where they can be."""
    kernel = limit.line_kernel()
    if kernel is None or not problem.rate_is_constant:
        return PythonRates(CoupledTable(problem, limit, largest))
    curvature = problem.regularizer.linear_strength or 0.0
    numbers = np.array([problem.rate(0.0), curvature, float(problem.constraint == "sphere"), largest])
    return CompiledRates((numbers, kernel.data))


@dataclass(frozen=True, slots=True)
class CompiledRates:
    """Rates from compiled coefficients; the time loop is compiled as well."""

    data: tuple[Array, tuple[Array, ...]]

    def evaluate(self, times: Array, y: Array) -> Array:
        """Return rates (S, 5 + K) at times (S,) and moments (S, K + 2)."""
        return evaluate_line(times, y, self.data)

    def march(
        self, settings: Settings, basis: Basis, mesh: Mesh, progress: Progress, p: Array, target: float
    ) -> tuple[int, Array]:
        """Step until something has to be done; return what, and the densities."""
        return march_line(self.data, settings, basis, mesh, progress, p, target)


@dataclass(frozen=True, slots=True)
class PythonRates:
    """Rates from a Python function of times and moments; the time loop is Python, its kernels are compiled."""

    evaluate: Callable[[Array, Array], Array]

    def march(
        self, settings: Settings, basis: Basis, mesh: Mesh, progress: Progress, p: Array, target: float
    ) -> tuple[int, Array]:
        """Step until something has to be done; return what, and the densities."""
        while True:
            plan = propose(settings, basis, mesh, progress, p, target)
            rates = self.evaluate(plan.times, plan.predicted)
            reason, p = attempt(settings, basis, mesh, progress, p, target, plan, rates)
            if reason != GO_ON:
                return reason, p


class CoupledTable:
    """Rates from the limit coefficients at the moments: what couples the loadings (docs/theory.md, sections 3 and 9).

    A row holds the linear drift (tau G, with tau kappa for a quadratic regularizer and the pull back to the sphere),
    the factor of phi' (tau), D = Lambda / 2, the loss, the error of the coefficients, and tau H.
    """

    def __init__(self, problem: Problem, limit: LimitCoefficients, largest: float) -> None:
        self._problem, self._limit, self._largest = problem, limit, largest
        self._curvature = problem.regularizer.linear_strength

    def __call__(self, times: Array, moments: Array) -> Array:
        Q, R, virial = moments[:, 0], moments[:, 1:-1], moments[:, -1]
        result = np.full((len(times), TILT + R.shape[1]), np.nan)
        if not np.isfinite(moments).all() or Q.max() > 10.0 * self._largest:
            return result
        # Extrapolated moments may leave the set Q >= |R|^2 by the error of the extrapolation.
        Q = np.maximum(Q, (R * R).sum(axis=1))
        tau = np.array([self._problem.rate(t) for t in times])
        # Only Lambda depends on time, through tau squared.
        c = self._limit(Q[:, None, None], R[:, None, :], float(times[0]))
        G, H, Lambda = c.G[:, 0, 0], c.H[:, 0], c.Lambda[:, 0, 0]
        if tau[0] > 0.0:
            Lambda = Lambda * (tau / tau[0]) ** 2
        linear = tau * (G + (self._curvature or 0.0))
        if self._problem.constraint == "sphere":
            pull = -2.0 * (linear * Q + tau * ((H * R).sum(axis=1) + virial)) + Lambda
            linear = linear + 0.5 * pull / np.maximum(Q, 1e-300)
        result[:, 0], result[:, 1] = linear, tau
        # Rounding may leave a tiny negative number where the diffusion vanishes.
        result[:, 2] = 0.5 * np.maximum(Lambda, 0.0)
        result[:, 3], result[:, 4], result[:, TILT:] = c.loss, c.error, tau[:, None] * H
        return result


class StoredTable:
    """Rates along a run that has been made, interpolated in time by a cubic spline."""

    def __init__(self, history: CoefficientHistory, curvature: float) -> None:
        blank = np.zeros(len(history.t))
        linear = history.linear + curvature * history.tau
        table = np.column_stack([linear, history.tau, history.diffusion, blank, blank, history.tilt])
        self._end = float(history.t[-1])
        # A run that was asked for its start only has one entry.
        self._rows = CubicSpline(history.t, table) if len(table) > 1 else lambda t: np.repeat(table, len(t), axis=0)

    def __call__(self, times: Array, moments: Array) -> Array:
        result = self._rows(np.minimum(times, self._end))
        result[:, DIFFUSION] = np.maximum(result[:, DIFFUSION], 0.0)
        return result
