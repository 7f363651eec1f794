"""A trajectory of the closed ODEs step by step, for questions that end when they are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.integrate import DOP853

from mkvlasov._typing import Array
from mkvlasov.limit.coefficients import LimitCoefficients
from mkvlasov.limit.derivatives import ClosedRates
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.schedules import PiecewiseLinear

DIVERGED = 1e5
"""An overlap beyond this ends a trajectory, as in `solve_ode`."""
_SAMPLES = 8
"""Values of the dense output (order 7) that are looked at in each step."""


class Piece(NamedTuple):
    """One step: times (n,) from its start to its end, states (n, d) there, and the state at any time in between."""

    times: Array
    states: Array
    at: Callable[[float], Array]


class Ended(Exception):
    """A trajectory that cannot go on: diverged, or blown up."""

    def __init__(self, t: float, reason: str) -> None:
        super().__init__(f"{reason} at t = {t:.6g}")
        self.t = t


def closed_rates(problem: Problem, rtol: float) -> Callable[[float, Array], Array]:
    """Return dx/dt as a function of time and state (d,), the entries of (R, Q); compiled for one output."""
    closed = ClosedRates(problem, rtol)
    kernel = LimitCoefficients(closed.problem, rtol).line_kernel()
    kappa = problem.regularizer.linear_strength
    assert kappa is not None  # the closure test has passed
    if kernel is None:
        return lambda t, x: closed.rates(x, problem.rate(t))
    on_sphere = problem.constraint == "sphere"
    coefficients, data = kernel.rates, kernel.data

    def line(t: float, x: Array) -> Array:
        Q, R, tau = float(x[-1]), x[:-1], problem.rate(t)
        G, _, H, diffusion, _, _ = coefficients(Q, R, data)
        M, force, noise = tau * (G + kappa), tau * H, tau * tau * diffusion
        outward = noise - 2.0 * float(force @ R)
        if on_sphere:
            M = 0.5 * outward / Q
        change = np.empty_like(x)
        change[:-1] = -M * R - force
        change[-1] = outward - 2.0 * M * Q
        return change

    return line


def march(problem: Problem, start: Array, t_end: float, rtol: float) -> Iterator[Piece]:
    """Yield the steps of the Runge-Kutta method of order 8 from time 0 to t_end; raise `Ended` where it cannot go on.

    Parameters
    ----------
    problem : Problem
        With L2 regularization or none.
    start : ndarray, shape (d,)
    t_end : float
    rtol : float
        Tolerance of a step (absolute: a hundredth of it) and of the coefficients.
    """
    rates, schedule = closed_rates(problem, rtol), problem.learning_rate
    kinks = schedule.times if isinstance(schedule, PiecewiseLinear) else np.zeros(0)
    stops = [*kinks[(kinks > 0.0) & (kinks < t_end)], t_end]  # no step across a kink
    begin = 0.0
    for stop in stops:
        for piece in _smooth(rates, begin, start, stop, rtol):
            yield piece
            start = piece.states[-1]
        begin = stop


def _smooth(
    rates: Callable[[float, Array], Array], begin: float, start: Array, end: float, rtol: float
) -> Iterator[Piece]:
    """Yield the steps from one kink of the learning rate to the next."""
    # A stiff state far away overflows before its step is rejected.
    with np.errstate(over="ignore", invalid="ignore"):
        solver = DOP853(rates, begin, start, end, rtol=rtol, atol=0.01 * rtol)
        while solver.t < end:
            solver.step()
            if solver.status == "failed":
                raise Ended(solver.t, "blow-up: the step size underflowed")
            if not np.abs(solver.y).max() < DIVERGED:
                raise Ended(solver.t, f"diverged: an overlap exceeded {DIVERGED:g}")
            dense = solver.dense_output()
            times = np.linspace(solver.t_old, solver.t, _SAMPLES + 1)
            yield Piece(times, np.asarray(dense(times)).T, dense)
