"""Time steps of all loadings together; coefficients in the middle of a step come from extrapolated averages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.regularizers import Regularizer
from mkvlasov.solvers.pde.plane.grid import Grid, Moved, State, force, no_force
from mkvlasov.solvers.pde.plane.rates import Averages, RateFunction, Rates

_MOST_STEPS = 20_000
_SPLITTING = 24.0
"""Inverse of the factor before (rate x step)^3 in the error of a splitting."""
_LAG = 1.0
"""Weight of the error of the extrapolated averages: more than their middle passes on to a step, for those after it."""


@dataclass(frozen=True)
class Equations:
    """Fokker-Planck equations of L loadings and how they are discretized.

    Attributes
    ----------
    loadings, weights : ndarray, shapes (L, K) and (L,)
    rates : RateFunction
    regularizer : Regularizer
    positive : bool
        Exponentially fitted fluxes, or central ones.
    tail : float
        Mass beyond which a box may end, on every side.
    largest : float
        Trace of Q beyond which weights count as blown up.
    sphere : bool
        Whether every Q_jj is kept at 1; what a step leaves is scaled away.
    """

    loadings: Array
    weights: Array
    rates: RateFunction
    regularizer: Regularizer
    positive: bool
    tail: float
    largest: float
    sphere: bool


@dataclass
class Path:
    """What a march leaves behind: all steps, states at the output times, counts."""

    times: list[float] = field(default_factory=list)
    averages: list[Averages] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    rate_times: list[float] = field(default_factory=list)
    rates: list[Rates] = field(default_factory=list)
    snapshots: list[State] = field(default_factory=list)
    failure: str = ""
    rejected: int = 0
    mass_restored: float = 0.0
    wall_mass: float = 0.0

    def record(self, state: State, rates: Rates, rate_time: float) -> None:
        """Append a state that was reached, and the rates that led to it."""
        self.times.append(state.t)
        self.averages.append(state.averages)
        self.grids.append(state.grid)
        self.rate_times.append(rate_time)
        self.rates.append(rates)
        mass = np.abs(state.mass)
        edges = mass[:, [0, -1]].sum(axis=(1, 2)) + mass[:, :, [0, -1]].sum(axis=(1, 2))
        self.wall_mass = max(self.wall_mass, float(edges.max()))


def observe(equations: Equations, t: float, grid: Grid, mass: Array) -> State:
    """Measure masses (L, n, n)."""
    mean, covariance = grid.moments(mass)
    if equations.regularizer.linear_strength is None:
        found = force(equations.regularizer, grid.weights(mass.shape[1]), mass, mean, covariance)
    else:
        found = no_force(len(mass))
    weights = equations.weights
    Q = np.einsum("l,lij->ij", weights, covariance) + (weights * mean.T) @ mean
    R = (weights * mean.T) @ equations.loadings
    return State(t, grid, mass, mean, covariance, found, Averages(Q, R, weights @ found.virial))


def march(
    equations: Equations,
    grid: Grid,
    mass: Array,
    *,
    start: float,
    outputs: Array,
    tolerance: float,
    observer: Callable[[float], None] = lambda t: None,
) -> Path:
    """Advance masses (L, n, n) through all output times, in pairs of equal steps; a blow-up is told in the path.

    Parameters
    ----------
    equations : Equations
    grid : Grid
    mass : ndarray, shape (L, n, n)
    start : float
    outputs : ndarray, shape (T,)
        Those up to `start` are taken from the start.
    tolerance : float
        Error of a step: of the averages relatively, and of the densities by a rule.
    observer : callable
        Told the time after every pair.
    """
    stepper = Stepper(equations, observe(equations, start, grid, mass))
    path = stepper.path
    proposed = np.inf
    for target in outputs:
        while stepper.state.t < target * (1.0 - 1e-12) and not path.failure:
            remaining = float(target) - stepper.state.t
            dt = min(proposed, stepper.longest(tolerance))
            pairs = int(np.ceil(0.5 * remaining / dt * (1.0 - 1e-9)))
            begin, dt = stepper.state.t, 0.5 * remaining / pairs
            error = stepper.step(begin + dt)
            if error <= 2.0 * tolerance:
                goal = float(target) if pairs == 1 else begin + 2.0 * dt
                error = max(error, stepper.step(goal))
                observer(stepper.state.t)
            else:
                path.rejected += 1
                stepper.undo()
            factor = 0.85 * max(error / tolerance, 1e-6) ** (-1.0 / 3.0)
            proposed = dt * min(max(factor, 0.2), 2.0)
            if proposed < 1e-12 * max(stepper.state.t, 1e-3 * float(outputs[-1])):
                path.failure = (
                    f"the steps shrank to nothing at t = {begin:.6g}: the solution ceases to exist near there"
                )
            if len(path.times) + path.rejected > _MOST_STEPS:
                path.failure = f"{_MOST_STEPS} steps were not enough: only t = {begin:.6g} was reached"
        if path.failure:
            break
        path.snapshots.append(stepper.state)
    return path


def retrace(equations: Equations, mass: Array, fine: Path) -> Path:
    """Advance masses on the grids of another run with half as many cells, with steps of twice the length."""
    stepper = Stepper(equations, observe(equations, fine.times[0], fine.grids[0].coarsened(), mass))
    outputs = [state.t for state in fine.snapshots]
    while outputs and outputs[0] <= fine.times[0]:
        stepper.path.snapshots.append(stepper.state)
        outputs.pop(0)
    for t, grid in zip(fine.times[2::2], fine.grids[2::2], strict=True):
        if not np.isfinite(stepper.step(t, grid.coarsened())) or stepper.path.failure:
            break
        if outputs and t == outputs[0]:
            stepper.path.snapshots.append(stepper.state)
            outputs.pop(0)
    return stepper.path


def norms(Q: Array) -> Array:
    """Return what brings every Q_jj to 1, for Q (..., 2, 2): the factors (..., 2) of the weights."""
    return 1.0 / np.sqrt(np.maximum(np.diagonal(Q, axis1=-2, axis2=-1), 1e-300))


class Stepper:
    """The current state, and what is needed to extrapolate the averages."""

    def __init__(self, equations: Equations, state: State) -> None:
        self.equations, self.state, self.path = equations, state, Path()
        self._before = state
        self._rates = equations.rates(state.t, state.averages)
        if not self._rates.finite:
            self.path.failure = f"the coefficients are not finite at t = {state.t:.6g}"
        self.path.record(state, self._rates, state.t)

    def longest(self, tolerance: float) -> float:
        """Return the step in which the densities move, turn and change their shapes little."""
        rates, state = self._rates, self.state
        turn = float(np.linalg.norm(rates.linear + rates.tau * state.force.gradient, axis=(1, 2)).max())
        widening = 0.25 * float(np.trace(np.linalg.solve(state.covariance, rates.noise), axis1=1, axis2=2).max())
        speed = turn + widening + rates.tau * float(state.force.rest.max())
        return float((_SPLITTING * tolerance) ** (1.0 / 3.0)) / max(speed, 1e-300)

    def step(self, goal: float, end: Grid | None = None) -> float:
        """Take a step, to the given grid if there is one; return its error, as far as the averages tell.

        That is how far they come out from where they were extrapolated to, relative to the size of the weights, times
        the share that matters. Infinite where there is no result.
        """
        equations, state, dt = self.equations, self.state, goal - self.state.t
        middle = state.t + 0.5 * dt
        rates = equations.rates(middle, self._expected(middle))
        self._before = state
        if not rates.finite:
            self.path.failure = f"the coefficients are not finite at t = {middle:.6g}" if end is not None else ""
            return np.inf
        prescribed = end is not None
        if end is None:
            moved = Moved(self._velocity(rates), -(rates.linear + rates.tau * state.force.gradient))
            end = state.grid.follow(state, moved, rates.noise, equations.tail, dt)
        mass = state.grid.advance(
            end, state.mass, dt, rates, equations.loadings, equations.regularizer, equations.positive
        )
        total = mass.sum(axis=(1, 2), keepdims=True)
        mass /= total
        expected = self._expected(goal)
        self.state = observe(equations, goal, end, mass)
        if equations.sphere and not prescribed:
            self.state = observe(equations, goal, end.scaled(norms(self.state.averages.Q)), mass)
        self._rates = rates
        self.path.record(self.state, rates, middle)
        self.path.mass_restored = max(self.path.mass_restored, float(np.abs(total - 1.0).max()))
        size = float(np.trace(self.state.averages.Q))
        if not np.isfinite(size) or size > equations.largest:
            self.path.failure = f"Q grew to {size:.3g} at t = {goal:.6g}, which counts as unbounded"
        gap_q, gap_r = self.state.averages.Q - expected.Q, self.state.averages.R - expected.R
        scale = np.sqrt(max(size, 1e-300))
        return _LAG * max(float(np.abs(gap_q).max()) / scale**2, float(np.abs(gap_r).max()) / scale)

    def undo(self) -> None:
        """Go back to before the last step."""
        if self.state is not self._before:
            path = self.path
            for record in (path.times, path.averages, path.grids, path.rate_times, path.rates):
                record.pop()
            self.state = self._before

    def _velocity(self, rates: Rates) -> Array:
        """Return the mean velocity of the weights, shape (L, 2)."""
        state = self.state
        return -(state.mean @ rates.linear.T) - self.equations.loadings @ rates.tilt.T - rates.tau * state.force.mean

    def _expected(self, t: float) -> Averages:
        """Return averages by the parabola through the last three steps; by their first rates of change at first."""
        times, rows = self.path.times[-3:], [each.flat() for each in self.path.averages[-3:]]
        since = t - times[0]
        if len(times) == 1:
            return Averages.of(rows[0] + since * self._first_slope)
        if len(times) == 2:
            dt = times[1] - times[0]
            bend = (rows[1] - rows[0] - dt * self._first_slope) / dt**2
            return Averages.of(rows[0] + since * (self._first_slope + since * bend))
        result = np.zeros_like(rows[0])
        for i, row in enumerate(rows):
            others = [times[j] for j in range(3) if j != i]
            result += row * np.prod([(t - other) / (times[i] - other) for other in others])
        return Averages.of(result)

    @cached_property
    def _first_slope(self) -> Array:
        """Rates of change of Q and R at the start; the virial counts as constant."""
        equations, state, rates = self.equations, self.state, self._rates
        Q, R = state.averages.Q, state.averages.R
        crossed = state.force.gradient @ state.covariance + state.force.mean[:, :, None] * state.mean[:, None]
        weights, loadings = equations.weights, equations.loadings
        inward = rates.linear @ Q + rates.tilt @ R.T + rates.tau * np.einsum("l,lij->ij", weights, crossed)
        dR = (weights * self._velocity(rates).T) @ loadings
        return Averages(rates.noise - inward - inward.T, dR, np.zeros(2)).flat()
