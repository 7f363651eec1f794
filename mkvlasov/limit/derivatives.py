"""Derivatives of the closed right-hand side with respect to the order parameters and to parameters of the problem.

High-order differences of the limit coefficients, all stencils of all states in one batch. The coefficients are
analytic where Q - R R^T is positive, and known to about 1e-12, so steps of a hundredth of the natural scale give
nine to ten digits. Overlaps are moved at constant P = Q - R R^T, and P only within the positive semidefinite matrices,
so that no stencil leaves the admissible states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.limit.closure import require_closure
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.limit.entries import Entries
from mkvlasov.limit.moments import moment_rates
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.parameters import parameter, with_parameter

_STEP = 0.01
"""Step over natural scale: the truncation (order 8, scale of variation 0.1 or more) and the noise are below 1e-8."""
_STEP_SECOND = 0.02
_CENTRAL = tuple(float(k) for k in (-4, -3, -2, -1, 0, 1, 2, 3, 4))
_FORWARD = tuple(float(k) for k in range(9))
_DEGENERATE = 1e-3
"""Below this smallest eigenvalue of Q - R R^T (over the largest Q_jj) stencils become one-sided."""


class Derivative(NamedTuple):
    """A derivative and its estimated absolute error, arrays of the same shape."""

    value: Array
    error: Array


@dataclass(frozen=True)
class UnitRates:
    """Parts of dx/dt = tau drift + tau^2 diffusion, each (..., d), x the entries of (R, Q)."""

    drift: Array
    diffusion: Array

    def at(self, tau: Array | float) -> Array:
        """Return the rates for learning rates tau (...)."""
        rate = np.asarray(tau, dtype=np.float64)[..., None]
        return rate * self.drift + rate**2 * self.diffusion


class ClosedRates:
    """The closed right-hand side as a function of the entries of (R, Q), and its derivatives.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none.
    rtol : float
        Accuracy of the coefficients.

    Raises
    ------
    ClosureError
        If the moments do not close.

    Notes
    -----
    docs/theory.md, sections 4, 8 and 9. On the sphere the multiplier that keeps Q_jj is included.
    """

    def __init__(self, problem: Problem, rtol: float = 1e-11) -> None:
        require_closure(problem)
        self.problem = problem
        self.entries = Entries(problem.outputs, problem.n_features)
        # For tau = 1: the powers of the learning rate are put in by hand.
        unit = problem if problem.learning_rate == 1.0 else replace(problem, learning_rate=1.0)
        self._coefficients = LimitCoefficients(unit, rtol)

    @property
    def free(self) -> npt.NDArray[np.int64]:
        """Indices of the entries that can move, all of them but Q_jj on the sphere."""
        rows, columns = self.entries.triangle
        moving = np.ones(self.entries.size, dtype=bool)
        if self.problem.constraint == "sphere":
            moving[self.entries.overlaps :] = rows != columns
        return np.flatnonzero(moving).astype(np.int64)

    def unit(self, x: Array) -> UnitRates:
        """Return the parts of the rates at states x (..., d)."""
        Q, R = self.entries.unpack(x)
        kappa = self.problem.regularizer.linear_strength
        assert kappa is not None  # the closure test has passed
        c = self._coefficients(Q, R)
        both, drift = (
            self.entries.pack(
                *moment_rates(part, Q, R, tau=1.0, phi_a=kappa * R, phi_w=kappa * Q, constraint=self.problem.constraint)
            )
            for part in (c, replace(c, Lambda=np.zeros_like(c.Lambda)))
        )
        return UnitRates(drift, both - drift)

    def rates(self, x: Array, tau: Array | float) -> Array:
        """Return dx/dt (..., d) at states x (..., d) for learning rates tau (...)."""
        return self.unit(x).at(tau)

    def jacobian(self, x: Array, tau: Array | float) -> Derivative:
        """Return J_ij = d(dx_i/dt) / dx_j, shape (..., d, d), at states x (..., d) for learning rates tau (...)."""
        rates = np.broadcast_to(np.asarray(tau, dtype=np.float64), x.shape[:-1]).ravel()
        return self.derivative(lambda states: self.rates(states, rates[:, None, None]), x)

    def derivative(self, function: Callable[[Array], Array], x: Array) -> Derivative:
        """Return the derivative of a function of the state by its entries, shape (..., n, d), at states x (..., d).

        The error is the difference to a rule of two orders less: above the truncation error of the result, and
        above what noise of the function does. An error that all values nearby share is not seen.

        Parameters
        ----------
        function : callable
            Maps stacked states (s, i, j, d), s counting the states in `x`, to values (s, i, j, n), smooth where
            Q - R R^T is positive.
        x : ndarray, shape (..., d)
        """
        lead, d = x.shape[:-1], x.shape[-1]
        flat = x.reshape(-1, d)
        Q, R = self.entries.unpack(flat)
        scale = np.abs(np.diagonal(Q, axis1=-2, axis2=-1)).max(axis=-1)
        scale = np.where(scale > 0.0, scale, 1.0)
        P = Q - R @ R.mT
        least = np.linalg.eigvalsh(P)[:, 0]
        inner = least > _DEGENERATE * scale
        # Moving P by (e_j + e_l)(e_j + e_l)^T lowers its smallest eigenvalue by 2 per unit at most.
        step_p = np.where(inner, np.minimum(_STEP * scale, least / 8.0), _STEP * scale)
        step_r = _STEP * np.sqrt(scale)
        states = [self._along_r(P, R, step_r), self._along_p(P, R, step_p, inner)]
        stencils = np.concatenate(states, axis=1)  # (S, d directions, points, d)
        values = function(stencils)
        central, forward = _weights(_CENTRAL, 1), _weights(_FORWARD, 1)
        n = self.entries.overlaps
        parts = []
        for level in range(2):
            by_r = np.einsum("p,sjpi->sij", central[level], values[:, :n]) / step_r[:, None, None]
            used = np.where(inner[:, None], central[level], forward[level])
            by_p = np.einsum("sp,sjpi->sij", used, values[:, n:]) / step_p[:, None, None]
            parts.append(self._assemble(R, by_r, by_p))
        fine, coarse = parts
        shape = (*lead, values.shape[-1], d)
        return Derivative(fine.reshape(shape), np.abs(fine - coarse).reshape(shape))

    def half_curvature(self, x: Array, tau: Array | float, covariance: Array) -> Derivative:
        """Return (1/2) sum_jk d2f_i / dx_j dx_k covariance_jk, shape (..., d).

        Second differences along the principal directions of the covariance (..., d, d).
        """
        lead, d = x.shape[:-1], x.shape[-1]
        flat, sigma = x.reshape(-1, d), covariance.reshape(-1, d, d)
        rates = np.broadcast_to(np.asarray(tau, dtype=np.float64), lead).ravel()
        values, vectors = np.linalg.eigh(sigma)
        values = np.where(values > 1e-13 * values[:, -1:], values, 0.0)
        Q, R = self.entries.unpack(flat)
        scale = np.abs(np.diagonal(Q, axis1=-2, axis2=-1)).max(axis=-1)
        scale = np.where(scale > 0.0, scale, 1.0)
        least = np.maximum(np.linalg.eigvalsh(Q - R @ R.mT)[:, 0], _DEGENERATE * scale)
        directions = np.swapaxes(vectors, -1, -2)  # (S, direction, d)
        dQ, dR = self.entries.unpack(directions)
        size_q, size_r = np.linalg.norm(dQ, axis=(-2, -1)), np.linalg.norm(dR, axis=(-2, -1))
        step = _STEP_SECOND / (size_q / scale[:, None] + size_r / np.sqrt(scale)[:, None])
        # P falls by 4 h (|dQ| + 2 |R| |dR|) + 16 h^2 |dR|^2 at most over the stencil.
        linear = 4.0 * (size_q + 2.0 * np.linalg.norm(R, axis=(-2, -1))[:, None] * size_r)
        quadratic = 16.0 * size_r**2
        allowed = 2.0 * least[:, None] / (linear + np.sqrt(linear**2 + 4.0 * quadratic * least[:, None]))
        step = np.minimum(step, allowed)
        offsets = np.array(_CENTRAL)[:, None] * step[..., None, None] * directions[:, :, None]
        f = self.rates(flat[:, None, None] + offsets, rates[:, None, None])
        results = [0.5 * np.einsum("p,sjpi,sj->si", weights, f, values / step**2) for weights in _weights(_CENTRAL, 2)]
        return Derivative(results[0].reshape(*lead, d), np.abs(results[0] - results[1]).reshape(*lead, d))

    def _along_r(self, P: Array, R: Array, step: Array) -> Array:
        """Return stencils (S, m K, points, d) along the entries of R, at constant P."""
        n = self.entries.overlaps
        units = np.eye(n).reshape(n, 1, *R.shape[1:])
        offsets = np.array(_CENTRAL)[:, None, None] * step[:, None, None, None, None]
        moved = R[:, None, None] + offsets * units
        return self.entries.pack(P[:, None, None] + moved @ moved.mT, moved)

    def _along_p(self, P: Array, R: Array, step: Array, inner: np.ndarray) -> Array:
        """Return stencils (S, m (m + 1) / 2, points, d) along u u^T, u = e_j or e_j + e_l, at constant R."""
        offsets = np.where(inner[:, None], _CENTRAL, _FORWARD) * step[:, None]
        moved = P[:, None, None] + offsets[:, None, :, None, None] * self._directions()[:, None]
        fixed = np.broadcast_to(R[:, None, None], (*moved.shape[:-2], *R.shape[1:]))
        return self.entries.pack(moved + fixed @ fixed.mT, fixed)

    def _directions(self) -> Array:
        unit = np.eye(self.entries.outputs)
        vectors = [unit[j] if j == k else unit[j] + unit[k] for j, k in zip(*self.entries.triangle, strict=True)]
        return np.array([np.outer(u, u) for u in vectors])

    def _assemble(self, R: Array, by_r: Array, by_p: Array) -> Array:
        """Turn derivatives at constant P, and along u u^T, into derivatives by the entries of R and Q."""
        n = self.entries.overlaps
        rows, columns = self.entries.triangle
        # Along u u^T, u = e_j + e_l, the entries jj, ll and jl of the triangle grow together.
        mixing = self._directions()[:, rows, columns]
        by_q = by_p @ np.linalg.inv(mixing).T
        units = np.eye(n).reshape(n, *R.shape[1:])
        products = units @ R[:, None].mT
        shift = (products + products.mT)[..., rows, columns]  # d(R R^T) by the entries of R: (S, m K, triangle)
        return np.concatenate([by_r - by_q @ shift.mT, by_q], axis=-1)


def parameter_derivative(problem: Problem, name: str, x: Array, t: float = 0.0, *, rtol: float = 1e-11) -> Derivative:
    """Return the derivative of dx/dt with respect to a parameter of the problem, x the entries of (R, Q).

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none.
    name : str
        Path of a number in the problem: "learning_rate", "background_variance", "regularizer.strength",
        "augmentation.std" (all entries together), "augmentation.std[1]", "augmentation.correlation",
        "hidden.variance[0]", "loss.decorrelation", ...
    x : ndarray, shape (..., d)
        States, packed by `Entries`.
    t : float
        The time, for schedules.
    rtol : float
        Accuracy of the coefficients.

    Returns
    -------
    Derivative
        Shape (..., d). At the end of its range (a correlation of -1, a standard deviation of 0)
        the derivative is the one-sided one.

    Raises
    ------
    InvalidInput
        If the name is not a number of this problem, or cannot be varied.
    ClosureError
    """
    if name == "learning_rate" and problem.rate_is_constant:
        unit = ClosedRates(problem, rtol).unit(x)
        slope = unit.drift + 2.0 * problem.rate(t) * unit.diffusion
        return Derivative(slope, np.zeros_like(slope))
    return along_parameter(problem, name, lambda p: ClosedRates(p, rtol).rates(x, p.rate(t)))


def along_parameter(problem: Problem, name: str, function: Callable[[Problem], Array]) -> Derivative:
    """Return the derivative of any function of a problem, array (...), with respect to one of its parameters.

    At the end of the range of the parameter it is the one-sided one; `InvalidInput` as in `parameter_derivative`.
    """
    value = np.asarray(parameter(problem, name), dtype=np.float64)
    step = _STEP * float(np.abs(value).max() or 1.0)
    offsets, problems = _varied(problem, name, value, step)
    f = np.array([function(p) for p in problems])
    fine, coarse = (np.tensordot(weights, f, 1) / step for weights in _weights(offsets, 1))
    return Derivative(fine, np.abs(fine - coarse))


def _varied(problem: Problem, name: str, value: Array, step: float) -> tuple[tuple[float, ...], list[Problem]]:
    """Return problems along a stencil that stays within the range of the parameter, central if possible."""
    reason: InvalidInput | None = None
    for offsets in (_CENTRAL, _FORWARD, tuple(-k for k in _FORWARD)):
        try:
            return offsets, [with_parameter(problem, name, value + k * step) for k in offsets]
        except InvalidInput as error:
            reason = error
    raise InvalidInput("name", name, f"a parameter that can be varied by {4 * step:g} ({reason})") from reason


@lru_cache(maxsize=16)
def _weights(offsets: tuple[float, ...], order: int) -> Array:
    """Return weights (2, n) of the derivative of this order at 0: the best rule, and one of two orders less.

    The second rule leaves out the two points that lie farthest away.
    """
    points = np.array(offsets)
    rules = np.zeros((2, len(points)))
    nearest = np.argsort(np.abs(points), kind="stable")
    for row, kept in enumerate((nearest, nearest[:-2])):
        powers = points[kept] ** np.arange(len(kept))[:, None]
        right = np.zeros(len(kept))
        right[order] = float(order)  # order! for order 1 and 2
        rules[row, kept] = np.linalg.solve(powers, right)
    rules.flags.writeable = False
    return rules
