"""Adaptive time stepping of all loadings together; coefficients at the stages come from extrapolated moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.conditional import ConditionalLaw
from mkvlasov.solvers.pde.volumes.fluxes import Scheme, Tridiagonal, assemble
from mkvlasov.solvers.pde.volumes.rates import RateFunction, Rates
from mkvlasov.solvers.pde.volumes.steppers import STAGE, implicit_euler, limit_to_positive, tr_bdf2

Penalty = Callable[[Array], Array]

_SMALLEST_SCALE = 1e-2
_MOST_ATTEMPTS = 20_000
_REFUSED = (False, 1e6)

# A prescribed step of twice the length errs by eight tolerances; beyond twice that, extrapolated moments run away.
_FORCED_EXCESS = 16.0

NEGLIGIBLE = 1e-13
"""Negative mass that counts as rounding."""


@dataclass(frozen=True)
class Equations:
    """Fokker-Planck equations of L loadings and how they are discretized.

    Attributes
    ----------
    loadings, weights : ndarray, shapes (L, K) and (L,)
    rates : RateFunction
    penalty, slope : callable
        phi and phi', entry by entry.
    scheme : Scheme
    """

    loadings: Array
    weights: Array
    rates: RateFunction
    penalty: Penalty
    slope: Penalty
    scheme: Scheme

    def moments(self, nodes: Array, mass: Array) -> Array:
        """Return (Q, R_1, ..., R_K, E[w phi'(w)]) of masses (L, n), shape (K + 2,).

        Q is the sum of M_i w_i^2 (the trapezoidal rule for the density M_i / V_i) for the positive flux. The central
        flux conserves the closed moment equations exactly for the reading by midpoints, which on a uniform grid is
        the sum of M_i (w_i^2 + h^2 / 4).
        """
        mean = self.weights * np.einsum("ln,ln->l", mass, nodes)
        if self.scheme.positive:
            second = np.einsum("ln,ln,ln->l", mass, nodes, nodes)
        else:
            second = _second_by_midpoints(nodes, mass)
        virial = np.einsum("ln,ln,ln->l", mass, nodes, self.slope(nodes))
        return np.concatenate([[self.weights @ second], mean @ self.loadings, [self.weights @ virial]])

    def start(self, laws: Sequence[ConditionalLaw]) -> Array:
        """Return the moments of initial laws of w, one per loading; E[w phi'(w)] is left at zero."""
        mean = np.array([float(law.mean[0]) for law in laws])
        second = np.array([float(law.second_moment[0, 0]) for law in laws])
        return np.concatenate([[self.weights @ second], (self.weights * mean) @ self.loadings, [0.0]])

    def operator(self, rates: Rates, nodes: Array, velocity: Array) -> Tridiagonal:
        """Return the operator on the masses while the nodes move with the given velocity (L, n)."""
        tilt = self.loadings @ rates.tilt
        spacing = np.diff(nodes, axis=1)
        middle = 0.5 * (nodes[:, 1:] + nodes[:, :-1])
        passing = 0.5 * (velocity[:, 1:] + velocity[:, :-1])
        u = (rates.linear * middle + tilt[:, None] + passing) * spacing
        u += rates.tau * np.diff(self.penalty(nodes), axis=1)
        return assemble(nodes, u, rates.diffusion, self.scheme.flux)


def _second_by_midpoints(nodes: Array, mass: Array) -> Array:
    spacing = np.diff(nodes, axis=1)
    size = np.zeros_like(nodes)
    size[:, :-1] += 0.5 * spacing
    size[:, 1:] += 0.5 * spacing
    middle = 0.5 * (nodes[:, 1:] + nodes[:, :-1])
    weighted = 0.5 * spacing * middle * middle
    share = np.zeros_like(nodes)
    share[:, :-1] += weighted
    share[:, 1:] += weighted
    return np.einsum("ln,ln->l", mass, share / size)


@dataclass
class Path:
    """What a march leaves behind: accepted steps, snapshots at the output times, counts."""

    times: list[float] = field(default_factory=list)
    moments: list[Array] = field(default_factory=list)
    rates: list[Rates] = field(default_factory=list)
    snapshot_times: list[float] = field(default_factory=list)
    snapshot_nodes: list[Array] = field(default_factory=list)
    snapshot_mass: list[Array] = field(default_factory=list)
    failure: str = ""
    rejected: int = 0
    limited: int = 0
    clipped: float = 0.0
    mass_restored: float = 0.0
    wall_mass: float = 0.0
    smallest: float = 0.0


Destination = Callable[[float, float, Array, Array, Rates], Array]
"""Function of (t, dt, nodes, mass, rates) that gives the nodes at t + dt."""

Observer = Callable[[float, Array, Array], None]
"""Called with (t, nodes, mass) at the start and after every accepted step."""


Measure = Callable[[Array, Array], Array]
"""Function of nodes and errors of the masses (L, n) that gives the size of the errors, (L,)."""


def l1_norm(nodes: Array, error: Array) -> Array:
    """Return the L1 norm of the errors of the densities."""
    return np.abs(error).sum(axis=1)


def march(
    equations: Equations,
    nodes: Array,
    mass: Array,
    *,
    outputs: Array,
    tolerance: float,
    destination: Destination,
    observer: Observer,
    prescribed_steps: Sequence[float] = (),
    largest_second_moment: float = np.inf,
    measure: Measure = l1_norm,
) -> Path:
    """Advance the masses from t = 0 through all output times; never raises for a blow-up, says so in the path.

    Parameters
    ----------
    equations : Equations
    nodes, mass : ndarray, shape (L, n)
        At t = 0.
    outputs : ndarray, shape (T,)
        Times at which snapshots are kept; steps land on them.
    tolerance : float
        Bound on the error of a step: of the densities in L1 (mean over the loadings) and of the moments, relatively.
    destination, observer : callable
    prescribed_steps : sequence of float
        If given, times of the steps to take; outputs that they miss are left out. A step is halved only where it errs
        by far more than the tolerance.
    largest_second_moment : float
        Beyond it the run counts as blown up.
    measure : callable
        Size of an error of the densities, per loading.
    """
    path = Path()
    state = _State(equations, path, nodes, mass, measure)
    observer(0.0, nodes, mass)
    pending = [float(time) for time in outputs]
    if pending and pending[0] == 0.0:
        state.keep(pending.pop(0))
    end = pending[-1] if pending else 0.0
    fixed = [time for time in prescribed_steps if time > 0.0]
    dt = _first_step(state.rates, end)
    while pending and not path.failure:
        target = fixed.pop(0) if fixed else pending[0]
        remaining = target - state.t
        # Equal steps up to the next output instead of one tiny last step.
        trial = remaining if prescribed_steps else remaining / np.ceil(remaining / dt * (1.0 - 1e-9))
        lands = prescribed_steps or trial > remaining * (1.0 - 1e-9)
        goal = target if lands else state.t + trial
        accepted, error = state.attempt(goal, tolerance, destination, forced=bool(prescribed_steps))
        if accepted:
            observer(state.t, state.nodes, state.mass)
            if not np.isfinite(state.moments).all() or abs(state.moments[0]) > largest_second_moment:
                path.failure = f"Q grew to {state.moments[0]:.3g} at t = {state.t:.6g}, which counts as unbounded"
            while pending and state.t >= pending[0] * (1.0 - 1e-12):
                if state.t <= pending[0] * (1.0 + 1e-12) and not path.failure:
                    state.keep(pending[0])
                pending.pop(0)
        else:
            path.rejected += 1
            if prescribed_steps:
                fixed = [state.t + 0.5 * trial, goal, *fixed]
        # The error of a step is of third order in its length.
        growth = 0.85 * max(error, 1e-6) ** (-1.0 / 3.0)
        proposed = trial * min(max(growth, 0.2), 2.5)
        dt = max(dt, proposed) if accepted and lands and growth > 1.0 else proposed
        if dt < 1e-13 * max(state.t, end * 1e-6) and not path.failure:
            path.failure = f"the steps shrank to nothing at t = {state.t:.6g}: the solution ceases to exist near there"
        if len(path.times) + path.rejected > _MOST_ATTEMPTS and not path.failure:
            path.failure = f"{_MOST_ATTEMPTS} steps were not enough: only t = {state.t:.6g} was reached"
    return path


def _first_step(rates: Rates, end: float) -> float:
    """Small enough to see the start of a layer at a kink; it grows by steps of 2.5 where nothing happens."""
    speed = abs(rates.linear) + float(np.abs(rates.tilt).sum()) + rates.tau + rates.diffusion
    return min(1e-4 * end, 1e-3 / speed if speed > 0.0 else np.inf)


class _State:
    """The current time, masses and what is needed to extrapolate the moments."""

    def __init__(self, equations: Equations, path: Path, nodes: Array, mass: Array, measure: Measure) -> None:
        self.equations, self.path, self.measure = equations, path, measure
        self.t, self.nodes, self.mass = 0.0, nodes, mass
        self.moments = equations.moments(nodes, mass)
        self.rates = equations.rates(0.0, self.moments)
        if not self.rates.finite:
            path.failure = "the coefficients are not finite at t = 0"
        self.largest = float(self.moments[0])
        self._record()

    def _record(self) -> None:
        self.path.times.append(self.t)
        self.path.moments.append(self.moments)
        self.path.rates.append(self.rates)

    def keep(self, output: float) -> None:
        self.path.snapshot_times.append(output)
        self.path.snapshot_nodes.append(self.nodes)
        self.path.snapshot_mass.append(self.mass)

    def _extrapolate(self, t: float) -> Array:
        """Return the moments at t by the polynomial through the last three steps: error of third order."""
        times, values = self.path.times[-3:], self.path.moments[-3:]
        result = np.zeros_like(self.moments)
        for i, value in enumerate(values):
            others = [times[j] for j in range(len(times)) if j != i]
            result += value * np.prod([(t - other) / (times[i] - other) for other in others])
        return result

    def attempt(self, end: float, tolerance: float, destination: Destination, *, forced: bool) -> tuple[bool, float]:
        """Try a step to time `end`; return whether it was taken and its error in units of the tolerance."""
        equations, dt = self.equations, end - self.t
        target = destination(self.t, dt, self.nodes, self.mass, self.rates)
        velocity = (target - self.nodes) / dt
        middle = (1.0 - STAGE) * self.nodes + STAGE * target
        predicted = self._extrapolate(end)
        stage_rates = equations.rates(self.t + STAGE * dt, self._extrapolate(self.t + STAGE * dt))
        end_rates = equations.rates(end, predicted)
        if not (stage_rates.finite and end_rates.finite):
            return _REFUSED
        start_operator = equations.operator(self.rates, self.nodes, velocity)
        stage_operator = equations.operator(stage_rates, middle, velocity)
        end_operator = equations.operator(end_rates, target, velocity)
        mass, estimate = tr_bdf2(self.mass, dt, start_operator, stage_operator, end_operator)
        if not np.isfinite(mass).all():
            return _REFUSED
        drift = float(np.abs(mass.sum(axis=1) - 1.0).max())
        estimates = [estimate]
        limited, clipped = False, 0.0
        if equations.scheme.positive and mass.min() < 0.0:
            clipped = float(-np.minimum(mass, 0.0).sum(axis=1).min())
            if clipped > NEGLIGIBLE:
                safe = np.maximum(implicit_euler(self.mass, dt, end_operator), 0.0)
                kept = limit_to_positive(mass, safe)
                estimates.append(kept - mass)
                mass, limited, clipped = kept, True, 0.0
            mass = np.maximum(mass, 0.0)
        mass = mass / mass.sum(axis=1, keepdims=True)
        moments = equations.moments(target, mass)
        error = self._error(estimates, target, moments - predicted, moments, end_rates, dt) / tolerance
        if not np.isfinite(error):
            return _REFUSED
        if error > (_FORCED_EXCESS if forced else 1.0):
            return False, error
        rates = equations.rates(end, moments)
        if not rates.finite:
            return _REFUSED
        self.t, self.nodes, self.mass, self.moments, self.rates = end, target, mass, moments, rates
        self._record()
        self.largest = max(self.largest, float(moments[0]))
        path = self.path
        path.limited += limited
        path.clipped = max(path.clipped, clipped)
        path.mass_restored += drift
        path.wall_mass = max(path.wall_mass, float(mass[:, 0].max()), float(mass[:, -1].max()))
        path.smallest = min(path.smallest, float(mass.min()))
        return True, error

    def _error(
        self, estimates: list[Array], nodes: Array, surprise: Array, moments: Array, rates: Rates, dt: float
    ) -> float:
        """Return the largest of the errors of densities and moments, and of what the extrapolation missed."""
        weights = self.equations.weights
        # Weights may all but vanish (at a kink): then errors count relative to what they were.
        scale = max(float(moments[0]), _SMALLEST_SCALE * self.largest, 1e-300)
        units = np.concatenate([[scale], np.full(len(moments) - 2, np.sqrt(scale))])
        worst = 0.0
        for estimate in estimates:
            per_loading = self.measure(nodes, estimate)
            shift = self.equations.moments(nodes, estimate)[:-1]
            worst = max(worst, float(weights @ per_loading), 0.1 * float(per_loading.max()))
            worst = max(worst, 5.0 * float(np.abs(shift / units).max()))
        speed = abs(rates.linear) + float(np.abs(rates.tilt).sum())
        missed = float(np.abs(surprise[:-1] / units).max())
        return max(worst, missed * min(1.0, 2.0 * speed * dt))
