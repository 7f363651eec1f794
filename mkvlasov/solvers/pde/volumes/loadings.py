"""The loadings for which finite volumes solve, settled by cheap runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solvers.pde.errors import Errors
from mkvlasov.solvers.pde.quadrature import fewest_loadings
from mkvlasov.solvers.pde.task import Task
from mkvlasov.solvers.pde.volumes.accuracy import differences
from mkvlasov.solvers.pde.volumes.fluxes import CENTRAL, EXPONENTIAL
from mkvlasov.solvers.pde.volumes.march import Path
from mkvlasov.solvers.pde.volumes.rates import RateFunction
from mkvlasov.solvers.pde.volumes.run import run
from mkvlasov.solvers.pde.volumes.scout import scout
from mkvlasov.solvers.pde.volumes.setup import family_of

# Cells and tolerance of the runs that are compared. What of their own errors does not cancel is some 1e-4 of Q: finer
# differences say nothing about the loadings.
_CELLS = 64
_TOLERANCE = 1e-3
_NOISE = 5e-4


@dataclass(frozen=True, slots=True)
class SettledLoadings:
    """Loadings (L, K) with weights (L,), and what is known about the error of this quadrature.

    Attributes
    ----------
    nodes : LoadingNodes
    compared : tuple of Path, optional
        Coarse runs with these and with other nodes; None where the nodes are the law itself.
    """

    nodes: LoadingNodes
    compared: tuple[Path, Path] | None

    def errors(self, t: Array) -> Errors:
        """Return the errors of Q and R at the times t."""
        if self.compared is None:
            return Errors(np.zeros(len(t)), np.zeros((len(t), self.nodes.points.shape[1])), np.zeros(len(t)))
        return differences(*self.compared, t, None)


def settle_loadings(task: Task, rates: RateFunction) -> SettledLoadings:
    """Return the loadings to solve for, by runs on coarse meshes: few numbers couple the loadings."""
    steps: Array | None = None

    def probe(nodes: LoadingNodes) -> Path:
        nonlocal steps
        path = _probe(task, rates, nodes, steps)
        steps = np.array(path.times)[1:]
        return path

    nodes, runs = fewest_loadings(task, probe, lambda one, other: _agree(one, other, max(task.rtol, _NOISE)))
    return SettledLoadings(nodes, runs)


def _agree(path: Path, other: Path, rtol: float) -> bool:
    times = np.array(path.times)
    gap = differences(path, other, times, None)
    scale = np.abs(np.array(path.moments)[:, 0])
    scale = np.maximum(scale, 1e-2 * scale.max())
    return bool((rtol * scale >= gap.Q).all() and (rtol * np.sqrt(scale)[:, None] >= gap.R).all())


def _probe(task: Task, rates: RateFunction, nodes: LoadingNodes, steps: Array | None) -> Path:
    """Run all loadings on coarse meshes, with the steps given or with error control."""
    # For an affine drift the central flux makes no error in the moments that could differ between the loadings.
    scheme = EXPONENTIAL if task.problem.regularizer.kinks else CENTRAL
    family = family_of(task.problem, task.initial, nodes, rates=rates, scheme=scheme, largest=task.largest)
    outline = scout(family, float(task.t[-1]))
    outputs = task.t[task.t <= outline.times[-1]]
    return run(family, outline, cells=_CELLS, outputs=outputs, tolerance=_TOLERANCE, steps=steps).path
