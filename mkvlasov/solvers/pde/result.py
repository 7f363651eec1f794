"""From what a method found to a `PdeSolution`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solution import Status
from mkvlasov.solution_pde import CoefficientHistory, PdeMethod, PdeSolution
from mkvlasov.solvers.pde.accuracy import Errors, coefficient_errors, differences, tolerance_errors
from mkvlasov.solvers.pde.fluxes import volumes
from mkvlasov.solvers.pde.march import Equations, Path
from mkvlasov.solvers.pde.quadrature import SettledLoadings
from mkvlasov.solvers.pde.rates import Rates
from mkvlasov.solvers.pde.run import TOUCHED, Run
from mkvlasov.solvers.pde.scout import Outline
from mkvlasov.solvers.pde.task import Task


@dataclass(frozen=True, slots=True)
class Snapshots:
    """What a method found at the output times that it reached.

    Attributes
    ----------
    loadings : LoadingNodes
    t, Q, loss : ndarray, shape (T,)
    R : ndarray, shape (T, K)
    nodes, densities, quadrature : ndarray, shape (T, L, n)
        As in `PdeSolution`.
    """

    loadings: LoadingNodes
    t: Array
    Q: Array
    R: Array
    loss: Array
    nodes: Array
    densities: Array
    quadrature: Array


def build_solution(
    task: Task,
    method: PdeMethod,
    snapshots: Snapshots,
    errors: Errors,
    *,
    coefficients: CoefficientHistory,
    status: Status,
    stats: Mapping[str, float],
) -> PdeSolution:
    """Return the solution; adds to `stats` what follows from snapshots and errors."""
    mass = (snapshots.quadrature * snapshots.densities).sum(axis=-1)
    common = {
        "loadings": len(snapshots.loadings.weights),
        "mass_error": float(np.abs(mass - 1.0).max(initial=0.0)),
        "smallest_density": float(snapshots.densities.min(initial=np.inf)) if len(snapshots.t) else 0.0,
        "error_estimate": float(max(errors.Q.max(initial=0.0), errors.R.max(initial=0.0))),
        "density_error": float(errors.density.max(initial=0.0)),
    }
    T, K = snapshots.R.shape
    return PdeSolution(
        route="pde",
        problem=task.problem,
        initial=task.initial,
        t=snapshots.t,
        Q=snapshots.Q[:, None, None],
        R=snapshots.R[:, None, :],
        Q_error=errors.Q[:, None, None],
        R_error=errors.R[:, None, :],
        Q_stderr=np.zeros((T, 1, 1)),
        R_stderr=np.zeros((T, 1, K)),
        loss=snapshots.loss,
        loss_stderr=np.zeros(T),
        status=status,
        stats={**common, **stats},
        loading_points=snapshots.loadings.points,
        loading_weights=snapshots.loadings.weights,
        nodes=snapshots.nodes,
        densities=snapshots.densities,
        quadrature=snapshots.quadrature,
        density_error=errors.density,
        coefficients=coefficients,
        method=method,
        rtol=task.rtol,
    )


def history(times: list[float], rates: list[Rates]) -> CoefficientHistory:
    """Return the coefficients at the steps that were taken."""
    return CoefficientHistory(
        t=np.array(times),
        linear=np.array([each.linear for each in rates]),
        tilt=np.array([each.tilt for each in rates]),
        tau=np.array([each.tau for each in rates]),
        diffusion=np.array([each.diffusion for each in rates]),
    )


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs behind a solution by finite volumes.

    Attributes
    ----------
    outline : Outline
    fine : Run
    coarse_mesh, coarse_steps : Path
        With half the cells, and then with twice the steps as well.
    loadings : SettledLoadings
    """

    outline: Outline
    fine: Run
    coarse_mesh: Path
    coarse_steps: Path
    loadings: SettledLoadings


def solution_of_runs(
    task: Task, method: PdeMethod, equations: Equations, runs: Runs, effort: Mapping[str, float]
) -> PdeSolution:
    """Collect what the runs found; `effort` has further entries of ``stats``."""
    path = runs.fine.path
    snapshots = _snapshots(path, runs.fine, equations)
    t, weights = snapshots.t, equations.weights
    # The tolerance itself is added, since steps that are not small yet do not err by a third of the difference.
    errors = tolerance_errors(task.rtol, snapshots.Q, snapshots.R) + coefficient_errors(path, t)
    errors += differences(path, runs.coarse_mesh, t, weights)
    errors += differences(runs.coarse_mesh, runs.coarse_steps, t, weights)
    missed = runs.loadings.errors(t)
    errors += missed
    # Mass that a wall has held back is wrong wherever it went.
    errors += Errors(np.zeros_like(errors.Q), np.zeros_like(errors.R), np.full(len(t), path.wall_mass))
    stats = {
        "steps": len(path.times) - 1,
        "rejected_steps": path.rejected,
        "limited_steps": path.limited,
        "mass_restored": path.mass_restored,
        "clipped_mass": path.clipped,
        "wall_mass": path.wall_mass,
        "meshes_widened": runs.fine.widened,
        "coefficient_error": max(rates.error for rates in path.rates),
        "loading_error": float(missed.R.max(initial=0.0)),
        **effort,
    }
    return build_solution(
        task,
        method,
        snapshots,
        errors,
        coefficients=history(path.times, path.rates),
        status=_status(path, runs.outline, task.t, snapshots.nodes),
        stats=stats,
    )


def _snapshots(path: Path, fine: Run, equations: Equations) -> Snapshots:
    t = np.array(path.snapshot_times)
    at = np.searchsorted(path.times, t * (1.0 - 1e-11))
    moments = np.array(path.moments)[at]
    shape = (len(t), *fine.mesh.at(0.0).shape)
    nodes = np.array(path.snapshot_nodes).reshape(shape)
    sizes = np.array([volumes(np.diff(row, axis=1)) for row in nodes]).reshape(shape)
    return Snapshots(
        loadings=LoadingNodes(equations.loadings, equations.weights),
        t=t,
        Q=moments[:, 0],
        R=moments[:, 1:-1],
        loss=np.array([path.rates[i].loss for i in at]),
        nodes=nodes,
        densities=np.array(path.snapshot_mass).reshape(shape) / sizes,
        quadrature=sizes,
    )


def _status(path: Path, outline: Outline, requested: Array, nodes: Array) -> Status:
    reached = len(path.snapshot_times)
    if reached < len(requested):
        reason = path.failure or outline.path.failure
        return Status(False, f"stopped: {reason}; {reached} of {len(requested)} output times were reached")
    held_back = f"; walls held back a mass of {path.wall_mass:.1e}" if path.wall_mass > TOUCHED else ""
    widths = (nodes[:, :, -1] - nodes[:, :, 0]).max(axis=1)
    return Status(
        True,
        f"reached t = {requested[-1]:g} in {len(path.times) - 1} steps; the meshes followed the densities "
        f"(widest: {widths[0]:.3g} at first, {widths[-1]:.3g} at the end, {widths.max():.3g} at most){held_back}",
    )
