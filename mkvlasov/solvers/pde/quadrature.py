"""Which loadings to solve for: all atoms of their law, or as many quadrature nodes as the tolerance asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mkvlasov._typing import Array
from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solvers.pde.accuracy import Errors, differences
from mkvlasov.solvers.pde.fluxes import CENTRAL, EXPONENTIAL
from mkvlasov.solvers.pde.march import Path
from mkvlasov.solvers.pde.rates import RateFunction
from mkvlasov.solvers.pde.run import run
from mkvlasov.solvers.pde.scout import scout
from mkvlasov.solvers.pde.setup import family_of
from mkvlasov.solvers.pde.task import Task

T = TypeVar("T")

# Nodes per feature to begin with: enough for an affine drift, where moments are quadratic in the loading.
_FIRST = {1: 8, 2: 6}
_FIRST_BEYOND = 4
_MOST_LOADINGS = 1100

# Cells and tolerance of the runs that are compared: their own errors are the same and cancel.
_CELLS = 64
_TOLERANCE = 1e-3


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

    nodes, runs = fewest_loadings(task, probe, lambda one, other: _agree(one, other, task.rtol))
    return SettledLoadings(nodes, runs)


def fewest_loadings(
    task: Task, probe: Callable[[LoadingNodes], T], agree: Callable[[T, T], bool]
) -> tuple[LoadingNodes, tuple[T, T] | None]:
    """Return the fewest nodes for which runs agree with those for twice as many per feature.

    With them come the runs with these nodes and with the others that they were compared with; None where the nodes are
    the law itself. A number of nodes asked for is taken as it is, and compared with half of it. Where more than about a
    thousand loadings would be needed, as many as that are taken, and the errors are what they are.
    """
    given = task.loading_order
    first = _FIRST.get(task.problem.n_features, _FIRST_BEYOND)
    order = first if given is None else max((given + 1) // 2, 2)
    nodes = task.initial.loading_nodes(task.problem, order)
    if len(task.initial.loading_nodes(task.problem, order + 1).weights) == len(nodes.weights):
        return nodes, None
    run_of = probe(nodes)
    while True:
        finer = task.initial.loading_nodes(task.problem, 2 * order if given is None else given)
        other = probe(finer)
        if given is None and agree(run_of, other):
            return nodes, (run_of, other)
        if given is not None or len(finer.weights) * 2**task.problem.n_features > _MOST_LOADINGS:
            return finer, (other, run_of)
        order, nodes, run_of = 2 * order, finer, other


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
