"""Which loadings to solve for: all atoms of their law, or as many quadrature nodes as the tolerance asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mkvlasov.problem.loadings import LoadingNodes
from mkvlasov.solvers.pde.task import Task

Run = TypeVar("Run")

# Nodes per feature to begin with: enough for an affine drift, where moments are quadratic in the loading.
_FIRST = {1: 8, 2: 6}
_FIRST_BEYOND = 4
_MOST_LOADINGS = 1100


def fewest_loadings(
    task: Task, probe: Callable[[LoadingNodes], Run], agree: Callable[[Run, Run], bool]
) -> tuple[LoadingNodes, tuple[Run, Run] | None]:
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
    current = probe(nodes)
    while True:
        finer = task.initial.loading_nodes(task.problem, 2 * order if given is None else given)
        other = probe(finer)
        if given is None and agree(current, other):
            return nodes, (current, other)
        if given is not None or len(finer.weights) * 2**task.problem.n_features > _MOST_LOADINGS:
            return finer, (other, current)
        order, nodes, current = 2 * order, finer, other
