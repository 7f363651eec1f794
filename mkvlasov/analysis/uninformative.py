"""The state that weights without overlaps tend to, and how overlaps grow there (docs/theory.md, sections 7 and 9)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, root

from mkvlasov._typing import Array
from mkvlasov.analysis import newton
from mkvlasov.analysis.starts import one_output
from mkvlasov.errors import UnsupportedError
from mkvlasov.limit.coefficients import Coefficients, LimitCoefficients
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.limit.moments import sphere_rate
from mkvlasov.problem.contrastive import Problem

SCAN_RTOL = 1e-6
"""Accuracy where only signs count: far from everyday values each digit of the coefficients costs seconds."""
_DECADES = 6
_PER_DECADE = 8
_VARIANCES = np.geomspace(1e-4, 1e4, 161)
_MARGIN = 1e-3
"""Of log Q, a thousand times what the accuracy of a scan displaces a zero by."""


@dataclass(frozen=True)
class Uninformative:
    """The uninformative state and the coefficients there."""

    Q: Array
    coefficients: Coefficients
    kappa: float
    eta: float
    tau: float
    sphere: Array
    """Rate that the constraint adds to the growth of each output, zero without one: shape (m,)."""
    Q_error: float

    @classmethod
    def of(cls, closed: ClosedRates, tau: float, rtol: float) -> Uninformative:
        """Find the state that weights without overlaps tend to."""
        problem, entries = closed.problem, closed.entries
        x = _stationary(closed, tau, rtol)
        Q, R = entries.unpack(x)
        c = LimitCoefficients(problem, rtol)(Q, R)
        kappa = problem.regularizer.linear_strength
        assert kappa is not None  # the closure test has passed
        sphere = np.zeros(len(Q))
        if problem.constraint == "sphere":
            half = -tau * (c.G @ Q + kappa * Q)
            sphere = sphere_rate(half + half.T + c.Lambda, Q)
        relative = 0.0
        if Q.any() and len(moving := closed.free[closed.free >= entries.overlaps]):
            noise = float(c.error) * (tau * np.abs(c.G @ Q).max() + np.abs(c.Lambda).max())
            unknown = np.abs(closed.rates(x, tau)[moving]) + noise
            size = newton.scales(entries, x)[moving]
            relative = float(newton.error_of(_slopes_of_q(closed, x, tau, moving), size, unknown).max() / Q.max())
        return cls(Q, c, kappa, problem.background_variance, tau, sphere, relative)

    def growth(self, variance: float) -> float:
        """Return the largest real part of the matrix that moves the overlaps with a mode of this variance."""
        c = self.coefficients
        matrix = -self.tau * (c.G + self.kappa * np.eye(len(self.Q)) + (variance - self.eta) * c.Gbar)
        return float(np.linalg.eigvals(matrix + np.diag(self.sphere)).real.max())

    def error_at(self, variance: float) -> float:
        """Return the error of the growth rate, from those of the coefficients and of Q.

        Coefficients change by their size at most when Q changes by its size.
        """
        c = self.coefficients
        terms = self.tau * (np.abs(c.G).sum() + abs(variance - self.eta) * np.abs(c.Gbar).sum())
        terms += self.tau * self.kappa + np.abs(self.sphere).sum()
        return float((float(c.error) + self.Q_error + 4.0 * np.finfo(float).eps) * terms)

    def critical_variance(self, variance: float) -> float | None:
        """Return the zero of the growth rate nearest to a variance on a logarithmic scale."""
        if len(self.Q) == 1:
            c = self.coefficients
            if not c.Gbar[0, 0]:
                return None
            zero = self.eta - float((c.G[0, 0] + self.kappa - self.sphere[0] / self.tau) / c.Gbar[0, 0])
            return zero if zero > 0.0 else None
        grid = variance * _VARIANCES
        rates = np.array([self.growth(v) for v in grid])
        (crossings,) = np.nonzero(np.sign(rates[1:]) != np.sign(rates[:-1]))
        if not len(crossings):
            return None
        i = crossings[np.abs(np.log(_VARIANCES[crossings])).argmin()]
        return float(brentq(self.growth, grid[i], grid[i + 1], xtol=1e-14, rtol=1e-13))


def _stationary(closed: ClosedRates, tau: float, rtol: float) -> Array:
    """Return the state (d,) that Q = I, R = 0 tends to.

    A zero of dQ/dt for one output, from which a quasi-Newton method goes on if there are more.
    """
    entries = closed.entries
    x = entries.pack(np.eye(entries.outputs), np.zeros((entries.outputs, entries.features)))
    if closed.problem.constraint != "sphere":
        x *= _scale(one_output(closed.problem), tau, rtol)
    moving = closed.free[closed.free >= entries.overlaps]
    if entries.outputs == 1 or not x.any():
        return x

    def rates(q: Array) -> Array:
        state = x.copy()
        state[moving] = q
        return closed.rates(state, tau)[moving]

    found = root(rates, x[moving], tol=1e-12)
    x[moving] = found.x
    size = newton.scales(entries, x)[moving]
    if (np.abs(found.fun) > newton.ACCEPTED * tau * size).any() or newton.smallest_eigenvalue(entries, x) < 0.0:
        raise UnsupportedError(f"the uninformative state was not found from Q = I, R = 0: {found.message}")
    return x


def _scale(problem: Problem, tau: float, rtol: float) -> float:
    """Return the Q that weights of one output without overlaps tend to from Q = 1; zero if they decay."""
    coarse, fine = ClosedRates(problem, max(rtol, SCAN_RTOL)), ClosedRates(problem, rtol)
    entries = fine.entries
    unit = entries.pack(np.eye(entries.outputs), np.zeros((entries.outputs, entries.features)))

    def growth(log_q: Array | float, closed: ClosedRates = coarse) -> Array:
        q = np.exp(np.asarray(log_q, dtype=np.float64))[..., None]
        return closed.rates(q * unit, tau)[..., entries.overlaps] / q[..., 0]

    sign = 1.0 if growth(0.0) > 0.0 else -1.0
    steps = np.linspace(0.0, math.log(10.0), _PER_DECADE + 1)
    for decade in range(_DECADES):
        logs = sign * (steps + decade * math.log(10.0))
        (turned,) = np.nonzero(sign * growth(logs) <= 0.0)
        if len(turned):
            i = max(int(turned[0]), 1)
            # The zero of the accurate function may lie just outside.
            left, right = logs[i - 1] - sign * _MARGIN, logs[i] + sign * _MARGIN
            if float(growth(left, fine)) * float(growth(right, fine)) > 0.0:
                raise UnsupportedError(f"the coefficients are not accurate enough near Q = {math.exp(logs[i]):.3g}")
            return math.exp(brentq(lambda log_q: float(growth(log_q, fine)), left, right, xtol=1e-14, rtol=1e-14))
    if sign < 0.0:
        return 0.0
    raise UnsupportedError(
        "there is no uninformative state: without overlaps the weights grow for ever (dQ/dt > 0 up to "
        f"Q = 1e{_DECADES}); add weight decay, more noise, or the constraint to the sphere"
    )


def _slopes_of_q(closed: ClosedRates, x: Array, tau: float, moving: npt.NDArray[np.int64]) -> Array:
    """Return differences of the rates of the entries of Q by each other, (n, n)."""
    steps = 1e-5 * np.eye(len(x))[moving] * newton.scales(closed.entries, x)
    change = closed.rates(x + steps, tau) - closed.rates(x, tau)
    return (change[:, moving] / steps[:, moving].max(axis=1, keepdims=True)).T


def variance_modes(problem: Problem) -> tuple[Array, Array]:
    """Return variances (K,) and unit vectors (K, K) in columns: features themselves if they are uncorrelated."""
    covariance = problem.hidden.covariance
    diagonal = np.diagonal(covariance)
    scale = np.sqrt(np.outer(diagonal, diagonal))
    if (np.abs(covariance - np.diag(diagonal)) <= 1e-12 * scale).all():
        return diagonal.copy(), np.eye(len(diagonal))
    variances, vectors = np.linalg.eigh(covariance)
    signs = np.where(vectors[np.abs(vectors).argmax(axis=0), range(len(vectors))] < 0.0, -1.0, 1.0)
    return variances[::-1], (vectors * signs)[:, ::-1]
