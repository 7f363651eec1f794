"""From what a method found to a `PdeSolution`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solution import Status
from mkvlasov.solution_pde import CoefficientHistory, PdeSolution
from mkvlasov.solvers.pde.errors import Errors
from mkvlasov.solvers.pde.task import PdeMethod, Task


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
