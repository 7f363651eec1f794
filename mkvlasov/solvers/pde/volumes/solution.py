"""What the runs of finite volumes found, with its errors, as a `PdeSolution`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solution import Status
from mkvlasov.solution_pde import CoefficientHistory, PdeSolution
from mkvlasov.solvers.pde.errors import Errors, coefficient_errors, tolerance_errors
from mkvlasov.solvers.pde.result import Snapshots, build_solution
from mkvlasov.solvers.pde.task import PdeMethod, Task
from mkvlasov.solvers.pde.volumes.accuracy import differences
from mkvlasov.solvers.pde.volumes.fluxes import volumes
from mkvlasov.solvers.pde.volumes.loadings import SettledLoadings
from mkvlasov.solvers.pde.volumes.march import Equations, Path
from mkvlasov.solvers.pde.volumes.rates import Rates
from mkvlasov.solvers.pde.volumes.run import TOUCHED, Run
from mkvlasov.solvers.pde.volumes.scout import Outline


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
    errors = tolerance_errors(task.rtol, snapshots.Q, snapshots.R)
    coefficients, moments = history(path.times, path.rates), np.array(path.moments)
    inexact = np.array([rates.error for rates in path.rates])
    errors += coefficient_errors(coefficients, inexact, moments[:, 0], moments[:, 1:-1], t)
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
        "coefficient_error": float(inexact.max()),
        "loading_error": float(missed.R.max(initial=0.0)),
        **effort,
    }
    return build_solution(
        task,
        method,
        snapshots,
        errors,
        coefficients=coefficients,
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
