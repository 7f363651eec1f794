"""What `PlaneSplitting` does when it is asked to solve: imported then, since Numba takes time to load."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from mkvlasov._typing import Array
from mkvlasov.density_plane import PlaneDensity
from mkvlasov.problem.conditional import ConditionalLaw
from mkvlasov.problem.contrastive import Problem
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solution import Status
from mkvlasov.solution_pde import CoefficientHistory
from mkvlasov.solution_plane import PlanePdeSolution, StoredPlaneMethod
from mkvlasov.solvers.pde.plane.accuracy import (
    PlaneErrors,
    Result,
    coefficient_errors,
    combined,
    loading_errors,
    tolerance_errors,
    wall_errors,
)
from mkvlasov.solvers.pde.plane.graded import first_meshes
from mkvlasov.solvers.pde.plane.grid import Grid
from mkvlasov.solvers.pde.plane.march import Equations, Path, march, norms, retrace
from mkvlasov.solvers.pde.plane.rates import CoupledRates, RateFunction, Rates, StoredRates
from mkvlasov.solvers.pde.plane.start import NARROWEST, check_resolved, first_boxes, first_masses, narrowest, start
from mkvlasov.solvers.pde.quadrature import fewest_loadings
from mkvlasov.solvers.pde.task import Task

_PROBE_CELLS = 32
"""Cells of the runs that settle the number of loadings."""
_LOOSER = 10.0
"""Their tolerance over the one asked for."""
_SEEN = 3e-3
"""Relative differences of overlaps below this are those of so few cells, not of the loadings."""
_TAIL = 1e-3
"""Mass beyond the ends of a box, in units of rtol."""


@dataclass(frozen=True, slots=True)
class _Runs:
    """A run and, on its boxes, one with half the cells and steps of twice the length."""

    fine: Path
    coarse: Path

    def result(self, weights: Array, features: int, *, extrapolate: bool) -> Result:
        """Return what both reached, with its errors."""
        reached = min(len(self.fine.snapshots), len(self.coarse.snapshots))
        fine, coarse = self.fine.snapshots[:reached], self.coarse.snapshots[:reached]
        return combined(fine, coarse, weights, extrapolate=extrapolate, features=features)


def solve(task: Task, method: StoredPlaneMethod, *, cells: int, positive: bool) -> PlanePdeSolution:
    """Run on the cells asked for, and on half of them; and before that with few, if the loadings are to be chosen."""
    started = time.perf_counter()
    problem, features = task.problem, task.problem.n_features
    rates = CoupledRates(problem, task.limit, task.largest)

    def equations(nodes: LoadingNodes) -> Equations:
        return _equations(nodes, rates, problem, positive, task.rtol, task.largest)

    def probe(nodes: LoadingNodes) -> Path:
        laws = [task.initial.conditional(a, problem) for a in nodes.points]
        begin = start(nodes, laws, rates, problem.regularizer, rtol=task.rtol)
        each = equations(nodes)
        grid = _first_grid(each, begin.laws, _PROBE_CELLS)
        mass = first_masses(begin.laws, grid, _PROBE_CELLS)
        return march(each, grid, mass, start=begin.time, outputs=task.t, tolerance=_LOOSER * task.rtol)

    loadings, probes = fewest_loadings(task, probe, lambda one, other: _agree(one, other, task.rtol))
    laws = [task.initial.conditional(a, problem) for a in loadings.points]
    with tqdm(total=float(task.t[-1]), disable=None if task.progress else True, desc="PDE", unit="t") as bar:
        runs = _march(
            equations(loadings), loadings, laws, cells, task.rtol, task.t, lambda t: bar.update(t - bar.n) and None
        )
    result = runs.result(loadings.weights, features, extrapolate=not positive)
    Q, R = result.Q, result.R
    if problem.constraint == "sphere":
        # The extrapolation leaves it by its error.
        scale = norms(Q)
        Q, R = Q * scale[:, :, None] * scale[:, None, :], R * scale[:, :, None]
    fine = runs.fine
    t = np.array(task.t[: len(result.Q)])
    errors = result.errors + tolerance_errors(task.rtol, result.Q, result.R) + coefficient_errors(fine, t, features)
    if probes is not None and len(t):
        errors += loading_errors(*probes, t, features)
    errors += wall_errors(fine.wall_mass, result.Q, result.R)
    count = len(loadings.weights)
    frames = [state.grid.frames(cells) for state in fine.snapshots[: len(t)]]
    areas = np.array([each.areas for each in frames]).reshape(-1, count, cells, cells)
    last = rates(fine.times[-1], fine.averages[-1])
    negative = np.maximum(-result.mass, 0.0).sum(axis=(2, 3)) @ loadings.weights
    mass_error = max((float(np.abs(s.mass.sum(axis=(1, 2)) - 1.0).max()) for s in fine.snapshots), default=0.0)
    return PlanePdeSolution(
        route="pde",
        problem=problem,
        initial=task.initial,
        t=t,
        Q=Q,
        R=R,
        Q_error=errors.Q,
        R_error=errors.R,
        Q_stderr=np.zeros_like(Q),
        R_stderr=np.zeros_like(R),
        loss=task.limit(Q, R).loss if len(t) else np.zeros(0),
        loss_stderr=np.zeros(len(t)),
        status=_status(runs, task.t, len(t), errors),
        stats={
            "steps": len(fine.times) - 1,
            "rejected_steps": fine.rejected,
            "cells": cells,
            "loadings": count,
            "mass_error": mass_error,
            "mass_restored": fine.mass_restored,
            "smallest_density": float((result.mass / areas).min(initial=np.inf)) if len(t) else 0.0,
            "negative_mass": float(negative.max(initial=0.0)),
            "wall_mass": fine.wall_mass,
            "coefficient_error": max(each.error for each in fine.rates),
            "coefficient_evaluations": rates.evaluations,
            "error_estimate": float(max(errors.Q.max(initial=0.0), errors.R.max(initial=0.0))),
            "density_error": float(errors.density.max(initial=0.0)),
            "seconds": time.perf_counter() - started,
        },
        loading_points=loadings.points,
        loading_weights=loadings.weights,
        origins=np.array([each.origin for each in frames]).reshape(-1, count, 2),
        axes=np.array([each.axes for each in frames]).reshape(-1, count, 2, 2),
        coordinates=np.array([each.coordinates for each in frames]).reshape(-1, count, 2, cells),
        densities=result.mass / areas,
        density_error=errors.density,
        coefficients=_history(fine, last, problem.regularizer.linear_strength or 0.0),
        method=method,
        rtol=task.rtol,
    )


def density(solution: PlanePdeSolution, *, cells: int, positive: bool, t: float, loading: Array) -> PlaneDensity:
    """Solve the Fokker-Planck equation of one loading along the stored coefficients."""
    regularizer = solution.problem.regularizer
    rates = StoredRates(solution.coefficients, regularizer.linear_strength or 0.0)
    nodes = LoadingNodes(loading[None], np.ones(1))
    equations = _equations(nodes, rates, solution.problem, positive, solution.rtol, np.inf)
    # The stored coefficients have the pull back to the sphere in them.
    equations = replace(equations, sphere=False)
    laws = [solution.initial.conditional(loading, solution.problem)]
    runs = _march(equations, nodes, laws, cells, solution.rtol, np.array([t]), lambda t: None)
    result = runs.result(nodes.weights, len(loading), extrapolate=not positive)
    frames = runs.fine.snapshots[-1].grid.frames(cells)
    p = result.mass[-1, 0] / frames.areas[0]
    return PlaneDensity(frames.origin[0], frames.axes[0], frames.coordinates[0], p)


def _equations(
    nodes: LoadingNodes, rates: RateFunction, problem: Problem, positive: bool, rtol: float, largest: float
) -> Equations:
    tail, sphere = min(_TAIL * rtol, 1e-6), problem.constraint == "sphere"
    return Equations(nodes.points, nodes.weights, rates, problem.regularizer, positive, tail, largest, sphere)


def _march(
    equations: Equations,
    nodes: LoadingNodes,
    laws: Sequence[ConditionalLaw],
    cells: int,
    rtol: float,
    t: Array,
    observer: Callable[[float], None],
) -> _Runs:
    begin = start(nodes, laws, equations.rates, equations.regularizer, rtol=rtol)
    grid = _first_grid(equations, begin.laws, cells)
    check_resolved(begin.laws, grid, cells)
    mass = first_masses(begin.laws, grid, cells)
    fine = march(equations, grid, mass, start=begin.time, outputs=t, tolerance=rtol, observer=observer)
    return _Runs(fine, retrace(equations, first_masses(begin.laws, grid.coarsened(), cells // 2), fine))


def _first_grid(equations: Equations, laws: Sequence[ConditionalLaw], cells: int) -> Grid:
    """Return graded meshes for a kink of phi and accurate fluxes, unless the start is too slanted; else boxes."""
    if equations.regularizer.kinks and not equations.positive:
        meshes = first_meshes(laws, cells, equations.tail)
        if narrowest(laws, meshes, cells) >= NARROWEST:
            return meshes
    return first_boxes(laws, equations.tail)


def _agree(one: Path, other: Path, rtol: float) -> bool:
    """Return whether Q and R of two runs agree, as far as they can tell, at all output times that both reached."""
    for first, second in zip(one.snapshots, other.snapshots, strict=False):
        size = np.sqrt(np.trace(first.averages.Q))
        gap_q, gap_r = first.averages.Q - second.averages.Q, first.averages.R - second.averages.R
        allowed = max(rtol, _SEEN)
        if np.abs(gap_q).max() > allowed * size**2 or np.abs(gap_r).max() > allowed * size:
            return False
    return True


def _history(path: Path, last: Rates, curvature: float) -> CoefficientHistory:
    rates = [*path.rates, last]
    tau = np.array([each.tau for each in rates])
    return CoefficientHistory(
        t=np.array([*path.rate_times, path.times[-1]]),
        linear=np.array([each.linear for each in rates]) - curvature * tau[:, None, None] * np.eye(2),
        tilt=np.array([each.tilt for each in rates]),
        tau=tau,
        diffusion=0.5 * np.array([each.noise for each in rates]),
    )


def _status(runs: _Runs, requested: Array, reached: int, errors: PlaneErrors) -> Status:
    if reached < len(requested):
        reason = runs.fine.failure or runs.coarse.failure
        return Status(False, f"stopped: {reason}; {reached} of {len(requested)} output times were reached")
    return Status(
        True,
        f"reached t = {requested[-1]:g} in {len(runs.fine.times) - 1} steps; the boxes followed the densities "
        f"(estimated error in L1: {errors.density.max():.1e} at most)",
    )
