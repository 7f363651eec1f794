"""How wrong the closed ODEs would be where the moments do not close, and which moments are to blame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.limit.moments import moment_rates
from mkvlasov.order_parameters import overlaps
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.regularizers import L2
from mkvlasov.reduction.gradient_moments import along_densities
from mkvlasov.solution import Solution
from mkvlasov.solution_ode import OdeSolution
from mkvlasov.solution_pde import PdeSolution
from mkvlasov.solution_runs import ParticleSolution
from mkvlasov.solvers.ode import solve_ode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RTOL = 1e-7
_FEWEST_TIMES = 4


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ClosureDefect:
    """The moment equations along a solution beside those of the nearest L2 problem; T times, m outputs, K features.

    The equations for R and Q contain E[phi'(w) a^T] and E[phi'(w) w^T], which L2 of strength kappa turns into kappa R
    and kappa Q. The differences are the closure defect: -tau times them is the error of dR/dt and (for Q, with the
    transposed) of dQ/dt.

    Attributes
    ----------
    solution : Solution
        Along which the moments were measured.
    t : ndarray, shape (T,)
    kappa : float
        Strength >= 0 of the nearest L2 problem: the least squares over time of the errors of dR/dt and dQ/dt.
    best_kappa : ndarray, shape (T,)
        The same at every single time, of either sign: were it constant, L2 would only be a matter of strength.
    gradient_a, gradient_w : ndarray, shapes (T, m, K) and (T, m, m)
        E[phi'(w) a^T], and the symmetric part of E[phi'(w) w^T], along the solution.
    R, Q : ndarray, shapes (T, m, K) and (T, m, m)
        E[w a^T] and E[w w^T] by the same averages.
    R_defect, Q_defect : ndarray, same shapes
        gradient_a - kappa R and gradient_w - kappa Q.
    R_rate, Q_rate, R_rate_error, Q_rate_error : ndarray, same shapes
        dR/dt and dQ/dt along the solution, and the errors of those that the L2 problem would have there.
    ode : OdeSolution
        The nearest L2 problem from the same start.
    R_gap, Q_gap : ndarray, shapes (T', m, K) and (T', m, m)
        ODE minus solution, at the T' <= T times that the ODE reached.
    gap_given_a, gap_given_w, gap_given_both : float
        Largest entry of the gaps that are left if the ODE is given, as functions of time, the true E[phi'(w) a^T], the
        true E[phi'(w) w^T], or both. The last is zero but for the errors of the solution and of the interpolation in
        time between its output times: it says how far the numbers can be trusted. Infinite if that ODE blows up.
    """

    solution: Solution
    t: Array
    kappa: float
    best_kappa: Array
    gradient_a: Array
    gradient_w: Array
    R: Array
    Q: Array
    R_defect: Array
    Q_defect: Array
    R_rate: Array
    Q_rate: Array
    R_rate_error: Array
    Q_rate_error: Array
    ode: OdeSolution
    R_gap: Array
    Q_gap: Array
    gap_given_a: float
    gap_given_w: float
    gap_given_both: float

    @property
    def gap(self) -> float:
        """Largest entry of R_gap and Q_gap; infinite if the ODE did not reach the end."""
        if len(self.R_gap) < len(self.t):
            return np.inf
        return max(float(np.abs(self.R_gap).max()), float(np.abs(self.Q_gap).max()))

    def plot(self) -> Figure:
        """Draw the moments beside those of the nearest L2 problem, and both trajectories."""
        from mkvlasov.plotting.closure import plot_closure_defect

        return plot_closure_defect(self)

    def __str__(self) -> str:
        return _report(self)

    def __repr__(self) -> str:
        return f"ClosureDefect: kappa = {self.kappa:.4g}, largest gap {self.gap:.3g} over {len(self.t)} times"


def closure_defect(solution: Solution) -> ClosureDefect:
    """Measure along a solution how wrong the closed ODEs of the nearest L2 problem would be.

    Parameters
    ----------
    solution : PdeSolution or ParticleSolution
        With output times (for particles: snapshots) from 0 on, close enough that the moments can be interpolated
        between them; for particles everything has their statistical error.

    Returns
    -------
    ClosureDefect

    Raises
    ------
    InvalidInput
        For another kind of solution, or fewer than four times from 0 on.

    Notes
    -----
    docs/theory.md, section 4.
    """
    t, R, Q, gradient_a, gradient_w = _moments(solution)
    problem = solution.problem
    if len(t) < _FEWEST_TIMES or t[0] != 0.0:
        raise InvalidInput(
            "solution", t.tolist(), f"a solution with {_FEWEST_TIMES} or more times, the first of them 0"
        )
    tau = np.array([problem.rate(s) for s in t])
    # Errors of the rates: tau x defect for R, and the defect with its transposed for Q.
    against = tau**2 * ((gradient_a * R).sum(axis=(1, 2)) + 4.0 * (gradient_w * Q).sum(axis=(1, 2)))
    size = tau**2 * ((R * R).sum(axis=(1, 2)) + 4.0 * (Q * Q).sum(axis=(1, 2)))
    if not np.trapezoid(size, t) > 0.0:
        raise UnsupportedError(
            "closure_defect: the weights or the learning rate are zero all along, so nothing is measured"
        )
    kappa = max(0.0, float(np.trapezoid(against, t) / np.trapezoid(size, t)))
    R_defect, Q_defect = gradient_a - kappa * R, gradient_w - kappa * Q
    system = _ForcedSystem(problem, kappa, LimitCoefficients(problem, rtol=_RTOL), R.shape[1:])
    rates = [system.rates(s, q, r, a, w) for s, q, r, a, w in zip(t, Q, R, gradient_a, gradient_w, strict=True)]
    closed = [system.rates(s, q, r, kappa * r, kappa * q) for s, q, r in zip(t, Q, R, strict=True)]
    Q_rate, R_rate = (np.array(parts) for parts in zip(*rates, strict=True))
    Q_closed, R_closed = (np.array(parts) for parts in zip(*closed, strict=True))
    nearest = replace(problem, regularizer=L2(kappa))
    ode = solve_ode(nearest, solution.initial, t_eval=t, progress=False)
    reached = len(ode.t)
    nothing_a, nothing_w = np.zeros_like(R_defect), np.zeros_like(Q_defect)
    given = [
        system.largest_gap(t, Q, R, CubicSpline(t, a), CubicSpline(t, w))
        for a, w in ((R_defect, nothing_w), (nothing_a, Q_defect), (R_defect, Q_defect))
    ]
    return ClosureDefect(
        solution=solution, t=t, kappa=kappa, best_kappa=against / np.where(size > 0.0, size, np.inf),
        gradient_a=gradient_a, gradient_w=gradient_w, R=R, Q=Q, R_defect=R_defect, Q_defect=Q_defect,
        R_rate=R_rate, Q_rate=Q_rate, R_rate_error=R_closed - R_rate, Q_rate_error=Q_closed - Q_rate,
        ode=ode, R_gap=ode.R - R[:reached], Q_gap=ode.Q - Q[:reached],
        gap_given_a=given[0], gap_given_w=given[1], gap_given_both=given[2],
    )  # fmt: skip


def _moments(solution: Solution) -> tuple[Array, Array, Array, Array, Array]:
    """Return t, E[w a^T], E[w w^T], E[phi'(w) a^T] and the symmetric part of E[phi'(w) w^T]."""
    if isinstance(solution, PdeSolution):
        return (solution.t, *along_densities(solution))
    if isinstance(solution, ParticleSolution) and len(solution.snapshots.t):
        w, a = solution.snapshots.weights, solution.snapshots.loadings
        Q, R = overlaps(w, a)
        slope = np.swapaxes(solution.problem.regularizer.gradient(w), -1, -2) / w.shape[-2]
        crossed = slope @ w
        gradient_w = 0.5 * (crossed + np.swapaxes(crossed, -1, -2))
        R, Q, gradient_a, gradient_w = (part.mean(axis=1) for part in (R, Q, slope @ a, gradient_w))
        return solution.snapshots.t, R, Q, gradient_a, gradient_w
    raise InvalidInput("solution", solution, "a solution of solve_pde, or of simulate_particles with snapshots")


@dataclass(frozen=True)
class _ForcedSystem:
    """The closed equations of strength kappa, with defects that are given as functions of time."""

    problem: Problem
    kappa: float
    coefficients: LimitCoefficients
    shape: tuple[int, ...]

    def rates(self, t: float, Q: Array, R: Array, gradient_a: Array, gradient_w: Array) -> tuple[Array, Array]:
        """Return dQ/dt and dR/dt at a state with the given moments of phi'."""
        return moment_rates(
            self.coefficients(Q, R, t), Q, R, tau=self.problem.rate(t),
            phi_a=gradient_a, phi_w=gradient_w, constraint=self.problem.constraint,
        )  # fmt: skip

    def largest_gap(self, t: Array, Q: Array, R: Array, R_defect: CubicSpline, Q_defect: CubicSpline) -> float:
        """Return the largest difference to the trajectory (Q, R) if the defects are added to the closed equations."""
        m, k = self.shape

        def unpacked(y: Array) -> tuple[Array, Array]:
            return y[..., : m * m].reshape(*y.shape[:-1], m, m), y[..., m * m :].reshape(*y.shape[:-1], m, k)

        def rate(s: float, y: Array) -> Array:
            q, r = unpacked(y)
            dQ, dR = self.rates(s, q, r, self.kappa * r + R_defect(s), self.kappa * q + Q_defect(s))
            return np.concatenate([dQ.ravel(), dR.ravel()])

        def outside(s: float, y: Array) -> float:
            # Given moments of phi' that belong to another state may drive Q out of the overlaps that exist.
            q, r = unpacked(y)
            inside = np.linalg.eigvalsh(q - r @ r.T).min() > -1e-3 * np.abs(q).max()
            return 1.0 if inside and np.abs(q).max() < 1e3 * np.abs(Q).max() else -1.0

        outside.terminal = True  # type: ignore[attr-defined]
        start = np.concatenate([Q[0].ravel(), R[0].ravel()])
        result = solve_ivp(rate, (0.0, t[-1]), start, method="DOP853", t_eval=t, rtol=_RTOL, atol=1e-9, events=outside)
        if result.status != 0:
            return np.inf
        q, r = unpacked(result.y.T)
        return max(float(np.abs(q - Q).max()), float(np.abs(r - R).max()))


def _report(found: ClosureDefect) -> str:
    """Return the numbers as a table, and what they mean."""
    problem = found.solution.problem
    head = f"Closure defect of {problem.regularizer!r}: nearest L2 strength kappa = {found.kappa:.4g}"
    low, high = found.best_kappa.min(), found.best_kappa.max()
    lines = [
        head + f" (best at single times: {low:.4g} to {high:.4g})",
        "",
        f"{'moment':<24}{'worst defect':>14}{'at t':>8}{'rate error':>14}{'of rates':>10}{'worst gap':>14}{'at t':>8}",
    ]
    lines += [_row(found, *entry) for entry in _entries(found)]
    R_part, Q_part = shares(found)
    if R_part + Q_part > 0.0 and found.gap > 2.0 * found.gap_given_both:
        which = "E[phi'(w) a^T]" if R_part >= Q_part else "E[phi'(w) w^T]"
        lines += ["", f"{100 * max(R_part, Q_part):.0f}% of the squared error of the rates comes from {which}."]
    lines += [
        f"Largest gap between the ODE and the solution: {found.gap:.3g}; given the true E[phi'(w) a^T]: "
        f"{_shown(found.gap_given_a)}, given the true E[phi'(w) w^T]: {_shown(found.gap_given_w)}, "
        f"given both: {_shown(found.gap_given_both)}.",
    ]
    if not found.ode.status.success:
        lines.append(f"The ODE of the nearest L2 problem did not reach the end: {found.ode.status}.")
    return "\n".join(lines)


def _shown(gap: float) -> str:
    return f"{gap:.3g}" if np.isfinite(gap) else "leaves the overlaps that exist"


def shares(found: ClosureDefect) -> tuple[float, float]:
    """Return which parts of the squared errors of the rates, over time, are due to the moments with a and with w."""
    tau = np.array([found.solution.problem.rate(s) for s in found.t])
    R_part = float(np.trapezoid(tau**2 * (found.R_defect**2).sum(axis=(1, 2)), found.t))
    Q_part = float(np.trapezoid(tau**2 * 4.0 * (found.Q_defect**2).sum(axis=(1, 2)), found.t))
    total = R_part + Q_part
    return (R_part / total, Q_part / total) if total else (0.0, 0.0)


def _entries(found: ClosureDefect) -> list[tuple[str, tuple[int, int]]]:
    m, k = found.R.shape[1:]
    return [("R", (j, i)) for j in range(m) for i in range(k)] + [("Q", (j, i)) for j in range(m) for i in range(j, m)]


def _row(found: ClosureDefect, kind: str, index: tuple[int, int]) -> str:
    j, i = index
    name = f"E[phi'(w{j}) {'a' if kind == 'R' else 'w'}{i}]"
    at = (slice(None), j, i)
    defect, error = getattr(found, f"{kind}_defect")[at], np.abs(getattr(found, f"{kind}_rate_error")[at])
    # Relative to how much the entry moves: rates pass through zero.
    size = float(np.sqrt(np.mean(getattr(found, f"{kind}_rate")[at] ** 2)))
    relative = f"{100 * error.max() / size:9.3g}%" if size > 0.0 else f"{'-':>10}"
    gap = getattr(found, f"{kind}_gap")[at]
    worst, far = int(np.abs(defect).argmax()), int(np.abs(gap).argmax()) if len(gap) else 0
    shown = f"{gap[far]:14.3e}{found.t[far]:8.3g}" if len(gap) else f"{'-':>14}{'-':>8}"
    return f"{name:<24}{defect[worst]:14.3e}{found.t[worst]:8.3g}{error.max():14.3e}{relative}{shown}"
