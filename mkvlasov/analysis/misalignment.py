"""What keeps a fixed point from perfect alignment, and how a parameter moves it (docs/noise.md).

At a fixed point of the closed ODEs the part P = Q - R R^T of the weights off the features is held by

    M P + P M^T = Lambda / tau,    M = G + kappa + multiplier of the sphere,

a Lyapunov equation that follows from dR/dt = 0 and dQ/dt = 0 (docs/theory.md, sections 4 and 9). With one output,
1 - |q|^2 = Lambda / (2 tau M Q) exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.analysis import newton
from mkvlasov.limit.coefficients import Coefficients, LimitCoefficients
from mkvlasov.limit.derivatives import ClosedRates, Derivative, along_parameter
from mkvlasov.limit.entries import Entries
from mkvlasov.limit.moments import moment_rates, sphere_rate
from mkvlasov.problem.contrastive import Problem

_NULL = 1e-8
"""Directions along which the rates change less than this part of the most are symmetries: the state stays there."""


class Balance(NamedTuple):
    """Lambda / tau and M, shapes (..., m, m), for a constant learning rate tau."""

    diffusion: Array
    confinement: Array

    @classmethod
    def of(cls, c: Coefficients, problem: Problem, Q: Array, R: Array) -> Balance:
        """Return both, from the coefficients at states Q (..., m, m), R (..., m, K)."""
        tau = problem.rate(0.0)
        kappa = problem.regularizer.linear_strength
        assert kappa is not None  # the closure test has passed
        M = c.G + kappa * np.eye(problem.outputs)
        if problem.constraint == "sphere":
            half = -tau * (M @ Q + c.H @ R.mT)
            M = M - sphere_rate(half + half.mT + c.Lambda, Q)[..., None] / tau * np.eye(problem.outputs)
        return cls(c.Lambda / tau, M)

    @property
    def held(self) -> Array:
        """P that diffusion and confinement hold, shape (..., m, m)."""
        return _lyapunov(self.confinement, self.diffusion)


@dataclass(frozen=True)
class Effect:
    """Derivative of log(1 - |q_j|^2) by a parameter along a fixed point, and its parts; all of shape (..., m).

    The parts sum up to the total. With one output they are d log Lambda, - d log (G + kappa) and - d log Q; with more,
    what the change of Lambda, of M and of Q_jj contribute through the Lyapunov equation.

    Attributes
    ----------
    diffusion_direct, confinement_direct : ndarray
        Because Lambda and M change with the parameter at the same (Q, R).
    diffusion_indirect, confinement_indirect : ndarray
        Because (Q, R) moves, and Lambda and M with it.
    norm : ndarray
        Because Q_jj grows or shrinks.
    total : ndarray
        From the motion of (Q, R) alone, by the implicit function theorem.
    error : ndarray
        Estimated error of the total: those of the derivatives, and the gap between the total and the sum of the parts.
    """

    diffusion_direct: Array
    confinement_direct: Array
    diffusion_indirect: Array
    confinement_indirect: Array
    norm: Array
    total: Array
    error: Array

    @property
    def diffusion(self) -> Array:
        """Effect of the change of Lambda, in all."""
        return self.diffusion_direct + self.diffusion_indirect

    @property
    def confinement(self) -> Array:
        """Effect of the change of the confinement M, in all."""
        return self.confinement_direct + self.confinement_indirect

    @property
    def direct(self) -> Array:
        """Effect of the parameter at the same (Q, R)."""
        return self.diffusion_direct + self.confinement_direct

    @property
    def indirect(self) -> Array:
        """Effect of the motion of (Q, R) on Lambda, M and Q."""
        return self.diffusion_indirect + self.confinement_indirect + self.norm


def misalignment(Q: Array, R: Array) -> Array:
    """Return 1 - |q_j|^2 = (Q - R R^T)_jj / Q_jj of each output, shape (..., m)."""
    return np.diagonal(Q - R @ R.mT, axis1=-2, axis2=-1) / np.diagonal(Q, axis1=-2, axis2=-1)


def effects_of(closed: ClosedRates, x: Array, names: Sequence[str], *, rtol: float) -> list[Effect]:
    """Return how parameters of the problem move the misalignment of a fixed point x (d,) with Lambda > 0.

    The state moves by - J^+ df / d(parameter), with derivatives by high-order differences.

    Parameters
    ----------
    closed : ClosedRates
    x : ndarray, shape (d,)
        Entries of (R, Q); isolated, or moved by symmetries only.
    names : sequence of str
        Paths of the parameters.
    rtol : float
        Accuracy of the coefficients.
    """
    problem, entries = closed.problem, closed.entries
    coefficients = LimitCoefficients(problem, rtol)
    by_state = closed.derivative(lambda states: _rates_and_balance(problem, coefficients, entries, states), x)
    c = coefficients(*entries.unpack(x))
    found = []
    for name in names:
        by_parameter = along_parameter(
            problem, name, lambda varied: _rates_and_balance(varied, LimitCoefficients(varied, rtol), entries, x)
        )
        found.append(_effect(closed, c, x, by_state, by_parameter))
    return found


def _rates_and_balance(problem: Problem, coefficients: LimitCoefficients, entries: Entries, x: Array) -> Array:
    """Return dx/dt, Lambda / tau and M at states x (..., d) as one vector (..., d + 2 m^2)."""
    Q, R = entries.unpack(x)
    c = coefficients(Q, R)
    kappa = problem.regularizer.linear_strength
    assert kappa is not None  # the closure test has passed
    rates = moment_rates(
        c, Q, R, tau=problem.rate(0.0), phi_a=kappa * R, phi_w=kappa * Q, constraint=problem.constraint
    )
    parts = (part.reshape(*x.shape[:-1], -1) for part in Balance.of(c, problem, Q, R))
    return np.concatenate([entries.pack(*rates), *parts], axis=-1)


def _effect(closed: ClosedRates, c: Coefficients, x: Array, by_state: Derivative, by_parameter: Derivative) -> Effect:
    """Put the derivatives of rates and balance by the state and by a parameter together."""
    problem, entries, free = closed.problem, closed.entries, closed.free
    m = entries.outputs
    Q, R = entries.unpack(x)
    d = entries.size
    jacobian = by_state.value[free][:, free]
    size = newton.scales(entries, x)[free]
    motion, motion_error = np.zeros(d), np.zeros(d)
    scaled = np.linalg.pinv(jacobian * size / size[:, None], rcond=_NULL)
    motion[free] = -size * (scaled @ (by_parameter.value[free] / size))
    unknown = by_parameter.error[free] + by_state.error[free][:, free] @ np.abs(motion[free])
    motion_error[free] = newton.error_of(jacobian, size, unknown)

    now = Balance.of(c, problem, Q, R)
    dQ, dR = entries.unpack(motion)
    P, dP = Q - R @ R.T, dQ - dR @ R.T - R @ dR.T
    q, p = np.diagonal(Q), np.diagonal(P)
    direct, indirect = by_parameter.value[d:], by_state.value[d:] @ motion
    total = np.diagonal(dP) / p - np.diagonal(dQ) / q
    parts = {
        "diffusion_direct": _by_diffusion(now, direct[: m * m].reshape(m, m), p),
        "diffusion_indirect": _by_diffusion(now, indirect[: m * m].reshape(m, m), p),
        "confinement_direct": _by_confinement(now, P, direct[m * m :].reshape(m, m), p),
        "confinement_indirect": _by_confinement(now, P, indirect[m * m :].reshape(m, m), p),
        "norm": -np.diagonal(dQ) / q,
    }
    Q_error, R_error = entries.unpack(motion_error)
    off = 2.0 * np.einsum("jk,jk->j", np.abs(R), R_error)
    error = (np.diagonal(Q_error) + off) / p + np.diagonal(Q_error) / q
    return Effect(**parts, total=total, error=error + np.abs(total - np.sum(list(parts.values()), axis=0)))


def _by_diffusion(now: Balance, change: Array, p: Array) -> Array:
    return np.diagonal(_lyapunov(now.confinement, change)) / p


def _by_confinement(now: Balance, P: Array, change: Array, p: Array) -> Array:
    return -np.diagonal(_lyapunov(now.confinement, change @ P + P @ change.T)) / p


def _lyapunov(M: Array, right: Array) -> Array:
    """Solve M P + P M^T = right for P, all of shape (..., m, m)."""
    m = M.shape[-1]
    unit = np.eye(m)
    operator = np.einsum("...ik,jl->...ijkl", M, unit) + np.einsum("...jl,ik->...ijkl", M, unit)
    flat = np.linalg.solve(operator.reshape(*M.shape[:-2], m * m, m * m), right.reshape(*right.shape[:-2], m * m, 1))
    return flat.reshape(right.shape)
