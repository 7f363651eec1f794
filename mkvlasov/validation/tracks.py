"""Trajectories of solutions as points in R^(T d), with what is known about their errors at infinite dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.limit.entries import Entries
from mkvlasov.reduction.fluctuations import Fluctuations
from mkvlasov.solution import Solution
from mkvlasov.solution_runs import RunsSolution

_ROUNDING = 1e-10
"""Gaps below this times the size of the quantity are rounding."""

BIAS_PER_VARIANCE = 2.0
"""Bias over total variance of a run, up to the same time. Half the curvature of the dynamics, of order one; the
fluctuation theory gives at most 1.6 on the built-in problems."""


@dataclass(frozen=True)
class Track:
    """The entries of (R, Q) over time along one route, as an estimate of the limit.

    Attributes
    ----------
    name : str
    value : ndarray, shape (T, d)
    error : ndarray, shape (T, d)
        Discretization and rounding.
    bias : ndarray, shape (T, d)
        Bound on what is left of the bias of finite systems.
    samples : tuple of (float, ndarray of shape (T, n, d))
        Weights and runs whose means add up to `value` (up to known corrections); empty if nothing is drawn.
    note : str
        What was done about the finite size.
    """

    name: str
    value: Array
    error: Array
    bias: Array
    samples: tuple[tuple[float, Array], ...] = ()
    note: str = ""

    @property
    def runs(self) -> int:
        """Number of runs behind the estimate."""
        return sum(runs.shape[1] for _, runs in self.samples)


def tracks(solutions: Sequence[Solution], theory: Fluctuations | None) -> list[Track]:
    """Return a track per solution; SGD at several dimensions without a theory gives one more, extrapolated in 1/N."""
    sized = [s for s in solutions if s.route == "sgd" and isinstance(s, RunsSolution) and "dimension" in s.stats]
    found = []
    for solution in solutions:
        name = name_of(solution)
        if solution in sized and len(sized) > 1:
            name += f" (N = {solution.stats['dimension']:,.0f}, {solution.n_runs} runs)"
        if not isinstance(solution, RunsSolution):
            found.append(_deterministic(solution, name))
        elif solution in sized and theory is not None:
            found.append(_corrected(solution, theory, name))
        else:
            found.append(_bounded(solution, name))
    if theory is None and len({s.stats["dimension"] for s in sized}) > 1:
        found.append(_extrapolated(sized))
    return found


def name_of(solution: Solution) -> str:
    """Return the route as tables name it."""
    return solution.route.upper() if solution.route != "particles" else solution.route


def entries_of(solution: Solution) -> Entries:
    """Return the order of the entries of a solution."""
    return Entries(solution.R.shape[1], solution.R.shape[2])


def start_of(solution: Solution) -> Array:
    """Return the entries (d,) at time zero."""
    return entries_of(solution).pack(*solution.initial.overlaps(solution.problem))


def runs_of(solution: RunsSolution) -> Array:
    """Return the entries of every run, shape (T, n, d)."""
    return entries_of(solution).pack(solution.runs.Q, solution.runs.R)


def _deterministic(solution: Solution, name: str) -> Track:
    entries = entries_of(solution)
    value, error = entries.pack(solution.Q, solution.R), entries.pack(solution.Q_error, solution.R_error)
    error = error + _ROUNDING * (1.0 + np.abs(value).max(axis=0))
    return Track(name, value, error, np.zeros_like(error))


def _bounded(solution: RunsSolution, name: str) -> Track:
    """Bound the bias of a single size by the largest variance of a run so far (of all entries together)."""
    track, runs = _deterministic(solution, name), runs_of(solution)
    total = np.maximum.accumulate(runs.var(axis=1, ddof=1).sum(axis=-1, keepdims=True))
    bias = np.broadcast_to(BIAS_PER_VARIANCE * total, track.value.shape)
    note = f"the bias of one size is not known and taken to be at most {BIAS_PER_VARIANCE:g} variances of a run"
    return Track(name, track.value, track.error, bias, ((1.0, runs),), note)


def _corrected(solution: RunsSolution, theory: Fluctuations, name: str) -> Track:
    """Subtract the predicted bias b / N; what is left is smaller by the size of the fluctuations at least."""
    track, runs = _deterministic(solution, name), runs_of(solution)
    _check_theory(theory, solution, runs)
    dimension = int(solution.stats["dimension"])
    bias = theory.bias / dimension
    left = np.abs(bias) * theory.std(dimension).max(axis=1, keepdims=True)
    note = f"the predicted bias of N = {dimension:,}, {np.abs(bias).max():.1g} at most, was subtracted"
    return Track(name, track.value - bias, track.error, left, ((1.0, runs),), note)


def _check_theory(theory: Fluctuations, solution: RunsSolution, runs: Array) -> None:
    expected = "what system.fluctuations(initial, t_eval) returns for these times"
    if theory.names != entries_of(solution).names or not same_times(theory.t, solution.t):
        raise InvalidInput("fluctuations", theory.t, expected)
    if not np.isfinite(theory.bias).all():
        raise InvalidInput("fluctuations", "a bias that is not known", "a theory with a bias (additive Gaussian noise)")
    scattered = runs[0].std(axis=0).max() > _ROUNDING * (1.0 + np.abs(runs[0]).max())
    if theory.t[0] == 0.0 and scattered != bool(np.diagonal(theory.covariance[0]).max() > 0.0):
        raise InvalidInput("fluctuations", "another start", f"{expected}, with the same exact_overlaps as the runs")


def same_times(a: Array, b: Array) -> bool:
    """Return whether output times are the same."""
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-9)


def _extrapolated(solutions: Sequence[RunsSolution]) -> Track:
    """Combine means at several N so that their 1/N terms cancel, with the least variance."""
    sizes = np.array([s.stats["dimension"] for s in solutions])
    weights = extrapolation_weights(sizes, np.array([float(s.n_runs) for s in solutions]))
    runs = [runs_of(s) for s in solutions]
    value = sum(w * r.mean(axis=1) for w, r in zip(weights, runs, strict=True))
    # The bias is of the order of the variance, its next term smaller by the size of the fluctuations at least.
    totals = [np.maximum.accumulate(r.var(axis=1, ddof=1).sum(axis=-1, keepdims=True)) for r in runs]
    left = BIAS_PER_VARIANCE * sum(abs(w) * v**1.5 for w, v in zip(weights, totals, strict=True))
    error = _deterministic(solutions[0], "").error
    listed = ", ".join(f"{size:,.0f}" for size in sizes)
    samples = tuple(zip(weights.tolist(), runs, strict=True))
    return Track(
        "SGD (N to infinity)", value, error, np.broadcast_to(left, value.shape), samples,
        f"means at N = {listed} were extrapolated in 1/N",
    )  # fmt: skip


def extrapolation_weights(sizes: Array, runs: Array) -> Array:
    """Return weights with sum_i w_i = 1 and sum_i w_i / N_i = 0, of least variance sum_i w_i^2 / (N_i n_i).

    Parameters
    ----------
    sizes, runs : ndarray, shape (n,)
        N_i, of which at least two differ, and n_i.
    """
    constraints = np.stack([np.ones_like(sizes), 1.0 / sizes])
    weighted = constraints * (sizes * runs)
    return weighted.T @ np.linalg.solve(weighted @ constraints.T, np.array([1.0, 0.0]))
