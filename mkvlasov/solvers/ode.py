"""The route of the closed ODEs: order parameters alone, where the moments close (L2 or no regularizer)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.integrate import DOP853, cumulative_trapezoid, solve_ivp
from tqdm import tqdm

from mkvlasov import _checks
from mkvlasov._typing import Array, ArrayLike
from mkvlasov.limit.closure import require_closure
from mkvlasov.limit.coefficients import Coefficients, LimitCoefficients
from mkvlasov.limit.line import LineKernel
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.initial import InitialLaw, check_initial
from mkvlasov.solution import Status
from mkvlasov.solution_ode import OdeSolution

DIVERGED = 1e5
"""An overlap beyond this ends a run: no activation of practical use gets there and comes back."""

_LOOSER = 100.0
"""The run that estimates the error asks for this many times the tolerance, so that the difference bounds the error."""


def solve_ode(
    problem: Problem, initial: InitialLaw, *, t_eval: ArrayLike, rtol: float = 1e-8, progress: bool = True
) -> OdeSolution:
    """Solve the closed ODEs of the order parameters, and of the exact law of the weights along with them.

        dR/dt = - M R - tau H,    dQ/dt = - M Q - Q M^T - tau (H R^T + R H^T) + Lambda,    M = tau (G + kappa),

    with the limit coefficients G, H, Lambda at (Q, R). On the sphere M gets the multiplier that keeps Q_jj.

    Parameters
    ----------
    problem : Problem
        With an L2 regularizer or none.
    initial : InitialLaw
    t_eval : array, shape (T,)
        Increasing output times; integration starts at 0.
    rtol : float
        Relative tolerance of the Runge-Kutta method of order 8 (absolute: a hundredth of it) and of the coefficients.
    progress : bool
        Show a progress bar when standard error is a terminal.

    Returns
    -------
    OdeSolution
        ``Q_error`` and ``R_error`` are the differences to a second run with a hundredfold tolerance, plus the
        accumulated estimate of the error of the coefficients.

    Raises
    ------
    ClosureError
        If the moments do not close; names the terms.
    InvalidInput

    Notes
    -----
    docs/theory.md, sections 4, 5 and 9.
    """
    check_initial(initial, problem)
    kappa = require_closure(problem)
    t = _checks.times("t_eval", t_eval)
    rtol = _checks.number("rtol", rtol, minimum=1e-12, maximum=1e-2)
    progress = _checks.flag("progress", progress)
    started = time.perf_counter()
    unit = replace(problem, learning_rate=1.0)
    with tqdm(total=float(t[-1]), desc="ODE", unit="t", disable=None if progress else True) as bar:
        fine = _integrate(_ClosedSystem(problem, kappa, LimitCoefficients(unit, rtol=rtol)), initial, t, rtol, bar)
    looser = min(_LOOSER * rtol, 1e-2)
    coarse = _integrate(_ClosedSystem(problem, kappa, LimitCoefficients(unit, rtol=looser)), initial, t, looser, None)
    return _solution(problem, initial, fine, coarse, time.perf_counter() - started)


@dataclass(frozen=True)
class _ClosedSystem:
    """Right-hand side for the state (R, Q, A, C, P); the coefficients are those for a learning rate of one."""

    problem: Problem
    kappa: float
    coefficients: LimitCoefficients

    def start(self, initial: InitialLaw) -> Array:
        Q, R = initial.overlaps(self.problem)
        m, k = R.shape
        return self.pack(R, Q, np.eye(m), np.zeros((m, k)), np.zeros((m, m)))

    @staticmethod
    def pack(*parts: Array) -> Array:
        return np.concatenate([part.ravel() for part in parts])

    def unpack(self, y: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Split states (..., d) into R, Q, A, C, P."""
        m, k = self.problem.outputs, self.problem.n_features
        shapes = ((m, k), (m, m), (m, m), (m, k), (m, m))
        edges = np.cumsum([a * b for a, b in shapes])[:-1]
        parts = np.split(y, edges, axis=-1)
        R, Q, A, C, P = (part.reshape(*y.shape[:-1], *s) for part, s in zip(parts, shapes, strict=True))
        return R, Q, A, C, P

    def __call__(self, t: float, y: Array) -> Array:
        R, Q, A, C, P = self.unpack(y)
        c, tau = self.coefficients(Q, R), self.problem.rate(t)
        M, force, Lambda = tau * (c.G + self.kappa * np.eye(len(Q))), tau * c.H, tau**2 * c.Lambda
        if self.problem.constraint == "sphere":
            free = np.diagonal(_lyapunov(M, Q, Lambda) - 2.0 * force @ R.T)
            M = M + np.diag(0.5 * free / np.diagonal(Q))
        return self.pack(
            -M @ R - force,
            _lyapunov(M, Q, Lambda) - force @ R.T - R @ force.T,
            -M @ A,
            -M @ C - force,
            _lyapunov(M, P, Lambda),
        )

    def terms(self, c: Coefficients, Q: Array, R: Array, t: Array) -> Array:
        """Return the sizes (T,) of the terms of dQ/dt and dR/dt, to which the error of the coefficients is relative."""
        tau = np.array([self.problem.rate(s) for s in t])
        G, H, R = np.abs(c.G), np.abs(c.H), np.abs(R)
        parts = (G @ np.abs(Q), H @ R.mT, G @ R, H)
        drift = sum(part.max(axis=(-2, -1)) for part in parts)
        return np.asarray(tau * drift + tau**2 * np.abs(c.Lambda).max(axis=(-2, -1)))


def _lyapunov(M: Array, X: Array, Lambda: Array) -> Array:
    return -M @ X - X @ M.T + Lambda


@dataclass(frozen=True)
class _Trajectory:
    system: _ClosedSystem
    t: Array
    states: Array
    evaluations: int
    ended: Status


def _integrate(system: _ClosedSystem, initial: InitialLaw, t: Array, rtol: float, bar: tqdm | None) -> _Trajectory:
    start = system.start(initial)
    if t[-1] == 0.0:
        return _Trajectory(system, t, start[None], 0, Status(True, "nothing to integrate: the only time is 0"))
    kernel = system.coefficients.line_kernel() if system.problem.rate_is_constant else None
    if kernel is not None:
        return _integrate_compiled(system, kernel, start, t, rtol)
    return _integrate_python(system, start, t, rtol, bar)


def tableau() -> tuple[Array, ...]:
    """Return the coefficients of DOP853 in the order that `ode_kernels` takes them."""
    method = DOP853
    parts = (method.A, method.B, method.E3, method.E5, method.D, method.A_EXTRA)
    return tuple(np.array(part, order="C") for part in parts)


def _integrate_compiled(system: _ClosedSystem, kernel: LineKernel, start: Array, t: Array, rtol: float) -> _Trajectory:
    """Integrate one output with compiled coefficients in one compiled loop."""
    from mkvlasov.solvers import ode_kernels

    problem = system.problem
    states, found, evaluations, ended, reached, largest = ode_kernels.integrate(
        start, np.array(t), rtol, 0.01 * rtol, DIVERGED, tableau(),
        problem.rate(0.0), system.kappa, problem.constraint == "sphere", kernel.data,
    )  # fmt: skip
    if ended == ode_kernels.REACHED:
        status = Status(True, f"reached t = {t[-1]:g}")
    elif ended == ode_kernels.DIVERGED:
        status = _diverged(reached)
    else:
        status = _blown_up(reached, largest)
    return _Trajectory(system, t[:found], states[:found], int(evaluations), status)


def _integrate_python(system: _ClosedSystem, start: Array, t: Array, rtol: float, bar: tqdm | None) -> _Trajectory:
    """Integrate any problem with scipy's driver."""
    rate: Callable[[float, Array], Array] = system

    reached = [0.0, 0.0]  # time and largest entry, for the message of a run that ends early

    def watched(time_now: float, y: Array) -> Array:
        reached[:] = time_now, float(np.abs(y).max())
        if bar is not None and time_now > bar.n:
            bar.update(time_now - bar.n)
        return rate(time_now, y)

    def diverged(_: float, y: Array) -> float:
        return float(DIVERGED - np.abs(y).max())

    diverged.terminal = True  # type: ignore[attr-defined]
    with np.errstate(over="ignore", invalid="ignore"):
        result = solve_ivp(
            watched, (0.0, t[-1]), start, method="DOP853", t_eval=t, rtol=rtol, atol=0.01 * rtol, events=diverged
        )
    states = result.y.T if len(result.t) else np.zeros((0, len(start)))
    if result.status == 0:
        status = Status(True, f"reached t = {t[-1]:g}")
    elif result.status == 1 and result.t_events is not None:
        status = _diverged(result.t_events[0][0])
    else:
        status = _blown_up(*reached)
    return _Trajectory(system, np.asarray(result.t), states, int(result.nfev), status)


def _diverged(t: float) -> Status:
    return Status(False, f"diverged: an overlap exceeded {DIVERGED:g} at t = {t:.6g}")


def _blown_up(t: float, largest: float) -> Status:
    # Growth faster than any exponential ends in finite time, before any bound is reached.
    return Status(False, f"blow-up: the step size underflowed at t = {t:.6g}, with an overlap of {largest:.3g}")


def _solution(
    problem: Problem, initial: InitialLaw, fine: _Trajectory, coarse: _Trajectory, seconds: float
) -> OdeSolution:
    t, n = fine.t, len(fine.t)
    R, Q, A, C, P = fine.system.unpack(fine.states)
    common = min(n, len(coarse.t))
    differences = np.full_like(fine.states, np.inf)
    differences[:common] = np.abs(fine.states[:common] - coarse.states[:common])
    R_error, Q_error, *_ = fine.system.unpack(differences)
    at_times = fine.system.coefficients(Q, R)
    # The errors of the coefficients accumulate as a rate of error over time.
    rates = at_times.error * fine.system.terms(at_times, Q, R, t)
    accumulated = cumulative_trapezoid(rates, t, initial=0) if n else np.zeros(0)
    R_error, Q_error = R_error + accumulated[:, None, None], Q_error + accumulated[:, None, None]
    return OdeSolution(
        route="ode", problem=problem, initial=initial, t=t, Q=Q, R=R, Q_error=Q_error, R_error=R_error,
        Q_stderr=np.zeros_like(Q), R_stderr=np.zeros_like(R),
        loss=at_times.loss, loss_stderr=np.zeros(n), status=fine.ended,
        stats={
            "evaluations": fine.evaluations,
            "error_estimate": float(max(R_error.max(initial=0.0), Q_error.max(initial=0.0))),
            "coefficient_error": float(at_times.error.max(initial=0.0)),
            "seconds": seconds,
        },
        A=A, C=C, P=P,
    )  # fmt: skip
